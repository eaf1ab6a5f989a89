"""Runs an exported bundle through `transformers.exporters`: the kwargs of the model's forward in, its logits out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.exporters.metadata import ExportMetadata
from transformers.exporters.runners.base import ModelRunner

from moir_edge.bundle import Manifest, open_bundle
from moir_edge.errors import DataError
from moir_edge.runtime.model import EdgeModel, load
from moir_edge.temporary import TemporaryFolder

if TYPE_CHECKING:
    from moir_edge.runtime.providers import Provider

__all__ = ["BundleProgram", "BundleRunner"]

Ints = npt.NDArray[np.int64]


class BundleProgram:
    """A bundle as the program of an export.

    Args:
        path: The bundle folder.
        owned: The temporary folder around it, which goes with this object; None for a bundle that stays.
    """

    def __init__(self, path: Path, owned: TemporaryFolder | None = None) -> None:
        self.path = path
        self._owned = owned

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest, engines included."""
        return open_bundle(self.path, verify=False).manifest


class BundleRunner(ModelRunner):
    """Runs the prompt pass of a bundle; `model` is the bundle as an `EdgeModel`, which generates too.

    Args:
        metadata: What the export recorded.
        model: The loaded bundle.
    """

    def __init__(self, metadata: ExportMetadata, model: EdgeModel) -> None:
        super().__init__(metadata)
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where the graphs run; inputs and outputs lie on the CPU."""
        return torch.device("cpu" if self.model.sessions.provider == "cpu" else "cuda")

    @classmethod
    def from_program(
        cls,
        program: BundleProgram,
        metadata: ExportMetadata,
        device: Any = None,
        provider: Provider | None = None,
        threads: int | None = None,
    ) -> BundleRunner:
        """Load a bundle.

        Args:
            program: The bundle.
            metadata: What the export recorded.
            device: ``"cpu"`` or ``"cuda"``; None takes the runtime's own choice.
            provider: A provider of the runtime by name, in place of `device`.
            threads: Threads of one operator; None takes one per physical core.

        Raises:
            DataError: Both a device and a provider were given.
            EnvironmentProblem: The provider is not available on this machine.
        """
        if device is not None and provider is not None:
            raise DataError(f"got device {device} and provider {provider}; give one of them")
        chosen: Any = provider if device is None else torch.device(device).type
        return cls(metadata, load(program.path, provider=chosen, threads=threads, verify=False))

    def __call__(
        self, share_inputs: bool = True, share_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Run a prompt, the router on if the bundle has one.

        Args:
            share_inputs: Has no effect: inputs are read in place.
            share_outputs: Has no effect: outputs are new.
            kwargs: ``input_ids`` and ``attention_mask`` (batch, sequence), padded on the left, and ``pixel_values``.
                Others, such as a pixel mask, are not needed.

        Returns:
            The source model's output with ``logits`` (batch, 1, vocab) of the last position, as under
            ``logits_to_keep=1``.

        Raises:
            DataError: A row is padded on the right, or images and image tokens do not match.
        """
        del share_inputs, share_outputs
        from moir_edge.runtime.generation import prepare_prompt
        from moir_edge.runtime.processor import ModelInputs
        from moir_edge.runtime.timing import Stopwatch

        family, sessions = self.model.processor.family, self.model.sessions
        ids: Ints = kwargs["input_ids"].cpu().numpy().astype(np.int64)
        pixels, images = family.from_transformers(_arrays(kwargs), ids) or (None, ())
        inputs = ModelInputs(
            input_ids=ids,
            attention_mask=_mask(kwargs.get("attention_mask"), ids),
            pixel_values=pixels,
            prompts=(),
            images=images,
        )
        prompt = prepare_prompt(sessions, family, inputs, Stopwatch(), router=True)
        logits, _ = sessions.prefill(prompt.embeds, prompt.decoder)
        return self.unflatten([torch.from_numpy(logits)[:, None]])


def _mask(mask: torch.Tensor | None, ids: Ints) -> Ints:
    if mask is None:
        return np.ones_like(ids)
    values: Ints = mask.cpu().numpy().astype(np.int64)
    if not values[:, -1].all():
        raise DataError(
            "a row is padded on the right, and a bundle gives the last position's logits; "
            'set tokenizer.padding_side = "left"'
        )
    return values


def _arrays(inputs: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of a processor as arrays, those of any float type as float32."""
    tensors = {name: one for name, one in inputs.items() if isinstance(one, torch.Tensor)}
    return {
        name: (one.float() if one.is_floating_point() else one).cpu().numpy()
        for name, one in tensors.items()
    }
