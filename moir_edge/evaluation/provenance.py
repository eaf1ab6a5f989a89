"""Where a report comes from: one record that every report holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from moir_edge.invocation import command_line

if TYPE_CHECKING:
    from moir_edge.data.formats import DataSource
    from moir_edge.data.rows import Row

__all__ = [
    "BundleOrigin",
    "CalibrationOrigin",
    "ComponentOrigin",
    "DataFacts",
    "Machine",
    "ModelIdentity",
    "Provenance",
    "Providers",
    "data_facts",
]


Providers = Mapping[str, Mapping[str, str]]
"""Candidate -> component -> what ran it."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ComponentOrigin(_Record):
    """Quantization of one component of a bundle.

    Attributes:
        precision: What its weights are stored in.
        method: How scales were found: `rtn`, `gptq`, `awq`, `hqq`, …; None where nothing was quantized.
        block_size: Rows per scale of weights in blocks; 0 for none, None where nothing was quantized.
    """

    precision: str
    method: str | None = None
    block_size: int | None = None


class CalibrationOrigin(_Record):
    """The rows that calibrated a bundle, and how.

    Attributes:
        file: Name of the data file.
        sha256: SHA-256 of the rows that were used.
        rows: How many there were.
        ranges: How activation ranges were chosen.
        smoothing: SmoothQuant exponent, `search` or `off`.
    """

    file: str
    sha256: str
    rows: int
    ranges: str | None = None
    smoothing: float | str | None = None


class BundleOrigin(_Record):
    """Origin of a bundle, as its manifest says.

    Attributes:
        manifest_sha256: SHA-256 of `manifest.json`, which names the hash of every other file.
        mixed: Whether layers were raised one by one (`export --target-recovery`).
        calibration: None where no data were used.
        created_with: Package to version, at the export.
    """

    manifest_sha256: str
    target: str
    precision: str
    mixed: bool
    components: dict[str, ComponentOrigin]
    calibration: CalibrationOrigin | None
    created_with: dict[str, str]


class ModelIdentity(_Record):
    """Where the weights of one candidate come from.

    Attributes:
        name: How the report calls the candidate.
        kind: `checkpoint` or `bundle`.
        source: Folder or hub id as given.
        checkpoint: Name of the checkpoint: the candidate itself, or what the bundle was exported from.
        weights_sha256: SHA-256 over the checkpoint's `*.safetensors` files (names and bytes, in name order), a
            retrofitted router's weights included; None for a checkpoint that has no such file.
        router: Settings of the router; None without one.
        bundle: How the bundle was made; None for a checkpoint.
    """

    name: str
    kind: Literal["checkpoint", "bundle"]
    source: str
    checkpoint: str
    weights_sha256: str | None
    router: dict[str, Any] | None
    bundle: BundleOrigin | None = None

    def described(self) -> str:
        """Return the name and its source in a few words, for messages."""
        router = f"a {self.router.get('kind', 'token')} router" if self.router else "no router"
        return f"{self.name} is {self.checkpoint} (weights sha256 {self.weights_sha256}, {router})"


class BoardReadings(_Record):
    """Sensors of a board, before and after the latency phase; None where the board lacks one.

    Attributes:
        power_mode: As `nvpmodel` names it.
        gpu_mhz: Clock of the GPU before and after.
        cpu_mhz: Clock of the fastest CPU before and after.
        hottest_c: Highest temperature of any zone before and after, °C.
        throttle_events: How often the hardware lowered clocks in between.
    """

    power_mode: str | None
    gpu_mhz: tuple[float | None, float | None]
    cpu_mhz: tuple[float | None, float | None]
    hottest_c: tuple[float | None, float | None]
    throttle_events: int | None

    def sentence(self) -> str:
        """Return the readings for people."""
        pairs = (
            (self.gpu_mhz, "GPU", "MHz"),
            (self.cpu_mhz, "CPU", "MHz"),
            (self.hottest_c, "hottest zone", "°C"),
        )
        texts = [
            f"{name} {before:.0f} {unit} before and {after:.0f} {unit} after"
            for (before, after), name, unit in pairs
            if before is not None and after is not None
        ]
        return f"Power mode {self.power_mode or 'not known'}; {', '.join(texts)}."


class Machine(_Record):
    """The machine and how busy it was.

    Attributes:
        steal_percent: CPU time that the hypervisor gave to others during the latency phase; None if unknown.
        load_average_before: 1-minute load when the measurement started.
        load_average_after: The same at the end of the latency phase.
        board: Sensors of a Jetson; None on other machines.
    """

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    load_average_before: float
    load_average_after: float
    steal_percent: float | None
    board: BoardReadings | None = None


class DataFacts(_Record):
    """The files that were used, their rows by task, and how prompts were worded where the user said so."""

    path: str
    sha256: str
    rows: int
    tasks: dict[str, int]
    format: str = "jsonl"
    annotations: str | None = None
    annotations_sha256: str | None = None
    prompt: str | None = None
    split: str | None = None
    subset: str | None = None
    columns: str | None = None
    task: str | None = None


class Provenance(_Record):
    """Models, data, machine and command of a report.

    Attributes:
        command: The command line as typed, quoted for a shell; None where Python called.
        models: One identity per candidate, in the report's order.
        providers: Candidate -> component -> what ran it, as the runtime says after loading; a checkpoint has the
            component `model`, and a candidate that could not be loaded is left out.
        data: The rows; None where prompts were made from a seed.
        machine: The machine, its load and its package versions.
    """

    command: str | None
    models: tuple[ModelIdentity, ...]
    providers: dict[str, dict[str, str]]
    data: DataFacts | None
    machine: Machine

    @classmethod
    def of(
        cls,
        models: Sequence[ModelIdentity],
        providers: Providers,
        data: DataFacts | None,
        machine: Machine,
    ) -> Provenance:
        """Return the record with the command line of this process."""
        return cls(
            command=command_line(),
            models=tuple(models),
            providers={name: dict(found) for name, found in providers.items()},
            data=data,
            machine=machine,
        )


def data_facts(source: DataSource, rows: Sequence[Row]) -> DataFacts:
    """Say which files were read, and how many rows of each task they gave."""
    tasks = Counter(row.task for row in rows)
    return DataFacts.model_validate({**source.record(), "rows": len(rows), "tasks": dict(tasks)})
