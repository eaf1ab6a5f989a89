"""Settings of a family in the manifest, checked and bounded before they size anything."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError
from moir_edge.fields import first_fault

__all__ = ["FamilySettings", "family_settings"]


class FamilySettings(BaseModel):
    """Base of a family's settings; a subclass bounds each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Settings = TypeVar("Settings", bound=FamilySettings)


def family_settings(facts: ModelFacts, kind: type[Settings]) -> Settings:
    """Read the family's settings.

    Args:
        facts: What the manifest says of the model.
        kind: What the family's settings are.

    Raises:
        BundleError: A setting is missing, unknown, of a wrong type or out of range.
    """
    try:
        # As JSON, where a list may stand for a tuple and nothing else is converted.
        return kind.model_validate_json(json.dumps(facts.family))
    except ValidationError as error:
        fault = first_fault(error, whole="family")
        raise BundleError(
            f"the manifest's model.family cannot be that of a {facts.model_type}: {fault}; export the bundle again"
        ) from error
