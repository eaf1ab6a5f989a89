"""Where a report comes from: one record that every report holds."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from moir_edge.errors import DataError

__all__ = ["ModelIdentity", "Provenance", "VersionedReport"]


class ModelIdentity(BaseModel):
    """Where the weights of one candidate come from.

    Attributes:
        name: How the report calls the candidate.
        kind: `checkpoint` or `bundle`.
        source: Folder or hub id as given.
        checkpoint: Name of the checkpoint: the candidate itself, or what the bundle was exported from.
        weights_sha256: SHA-256 over the checkpoint's `*.safetensors` files (names and bytes, in name order), a
            retrofitted router's weights included; None for a checkpoint that has no such file.
        router: Settings of the router; None without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["checkpoint", "bundle"]
    source: str
    checkpoint: str
    weights_sha256: str | None
    router: dict[str, Any] | None

    def described(self) -> str:
        """Return the name and its source in a few words, for messages."""
        router = f"a {self.router.get('kind', 'token')} router" if self.router else "no router"
        return f"{self.name} is {self.checkpoint} (weights sha256 {self.weights_sha256}, {router})"


class Provenance(BaseModel):
    """What was measured.

    Attributes:
        models: One identity per candidate, in the report's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ModelIdentity, ...]


class VersionedReport(BaseModel):
    """Base of the reports on disk: a file of another schema version is refused by name.

    Attributes:
        command: The command that writes such reports.
        current_version: Schema version that this moir-edge reads and writes.
        notices: What a reader must know before the figures; printed at the top of terminal output and page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: ClassVar[str]
    current_version: ClassVar[int]

    schema_version: int
    created: str
    version: str
    notices: tuple[str, ...] = ()
    provenance: Provenance

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_versions(cls, record: Any) -> Any:
        """Refuse a record of another schema version before its fields are looked at.

        Raises:
            DataError: The version differs.
        """
        if isinstance(record, dict):
            version = record.get("schema_version", cls.current_version)
            if version != cls.current_version:
                raise DataError(
                    f"this {cls.command} report has schema version {version}, this moir-edge reads "
                    f"{cls.current_version}; run `moir-edge {cls.command}` again"
                )
        return record
