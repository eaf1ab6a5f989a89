"""Base of the architectures whose images are grids of patches of their own shape, with one run of `vision` for each image."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from moir_edge.bundle import TensorSpec
from moir_edge.models.base import Architecture

if TYPE_CHECKING:
    import torch

__all__ = ["GridArchitecture"]

_TRACED_BLOCKS, _TRACED_WINDOWS = 6, 3  # of a sample to trace with


class GridArchitecture(Architecture):
    """An architecture whose tower takes the patches of one image, block by block, and what follows from their grid."""

    language_model: ClassVar[str] = "model.language_model"

    @abstractmethod
    def family_facts(self, config: Any) -> dict[str, Any]:
        """Return the sizes of patches and blocks, and what the rotary tables of the tower are made of.

        They are those of `moir_edge.runtime.families.grids.PatchSettings`.
        """

    def vision_inputs(self, config: Any) -> tuple[TensorSpec, ...]:
        """Return the patches and the rotary tables."""
        facts = self.family_facts(config)
        values = 3 * facts["frames"] * facts["patch_size"] ** 2
        return (
            _floats("pixel_values", "patches", values),
            _floats("rotary_cos", "patches", facts["head_dim"]),
            _floats("rotary_sin", "patches", facts["head_dim"]),
        )

    def vision_samples(self, config: Any) -> tuple[torch.Tensor, ...]:
        """Return an image of whole blocks."""
        import torch

        unit = self.family_facts(config)["merge_size"] ** 2
        sizes = {"patches": _TRACED_BLOCKS * unit, "windows": _TRACED_WINDOWS}
        return tuple(
            torch.zeros(
                [axis if isinstance(axis, int) else sizes[axis] for axis in tensor.shape],
                dtype=getattr(torch, tensor.dtype),
            )
            for tensor in self.vision_inputs(config)
        )


def _floats(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)
