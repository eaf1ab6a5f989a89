"""Runs an exported bundle through `transformers.exporters`: the kwargs of the model's forward in, its logits out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.exporters.metadata import ExportMetadata
from transformers.exporters.runners.base import ModelRunner

from moir_edge.bundle import Manifest, ModelFacts, open_bundle
from moir_edge.errors import DataError
from moir_edge.runtime.model import EdgeModel, load
from moir_edge.temporary import TemporaryFolder

if TYPE_CHECKING:
    from moir_edge.runtime.providers import Provider

__all__ = ["BundleProgram", "BundleRunner"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


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
        from moir_edge.runtime.generation import prompt_embeddings
        from moir_edge.runtime.processor import ModelInputs
        from moir_edge.runtime.timing import Stopwatch

        facts, sessions = self.model.manifest.model, self.model.sessions
        ids: Ints = kwargs["input_ids"].cpu().numpy().astype(np.int64)
        inputs = ModelInputs(
            input_ids=ids,
            attention_mask=_mask(kwargs.get("attention_mask"), ids),
            pixel_values=_tiles(kwargs.get("pixel_values"), ids, facts),
            prompts=(),
        )
        embeds, _ = prompt_embeddings(sessions, facts, inputs, Stopwatch(), router=True)
        logits, _ = sessions.prefill(embeds, inputs.attention_mask)
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


def _tiles(pixels: torch.Tensor | None, ids: Ints, facts: ModelFacts) -> Floats | None:
    """Return the image tiles of all rows, (tiles, 3, height, width) float32, or None without any.

    SmolVLM's processor fills rows of fewer images up with black ones, which have no tokens.
    """
    if pixels is None:
        return None
    tiles: Floats = pixels.float().cpu().numpy().reshape(-1, *pixels.shape[-3:])
    wanted = int((ids == facts.image_token_id).sum()) // facts.tokens_per_tile
    if len(tiles) > wanted:
        tiles = tiles[np.any(tiles != 0, axis=(1, 2, 3))]
    if len(tiles) != wanted:
        raise DataError(
            f"{len(tiles)} image tiles for {wanted} places in the prompt "
            f"({facts.tokens_per_tile} image tokens each); take both from one processor call"
        )
    return tiles if wanted else None
