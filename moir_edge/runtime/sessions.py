"""The bundle's graphs in ONNX Runtime. This is the one place that knows their input and output names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError, UnsupportedError
from moir_edge.runtime.component import Component
from moir_edge.runtime.decoders import GrowingDecoder, WindowDecoder, decoder_of
from moir_edge.runtime.interface import (
    ROUTER_FIGURES,
    Array,
    DecoderInputs,
    Embeds,
    Floats,
    Ints,
    RouterArrays,
)
from moir_edge.runtime.providers import GraphProvider, fused_form, open_graph
from moir_edge.runtime.token_table import TokenTable
from moir_edge.threads import ThreadWait

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["GraphSessions"]


class GraphSessions:
    """Runs the four components of a bundle.

    Images are put into the prompt on the host. From the router on, embeddings and cache stay where the provider computes.

    Args:
        components: The graphs by name; `router` may be missing.
        facts: What the manifest says of the model.
        provider: ``"cpu"``, ``"cuda"`` or ``"ort-tensorrt"``.
        source: Where the graphs come from, for messages.
        files: Their files, relative to the bundle.
        tiles_per_run: Image tiles that `vision` takes at once; bounds its memory for images of many tiles.
        table: Token table in place of the graph `embedding`, which may then be missing.
        open_vision: Opens `vision`, which is then not among `components`, when a picture comes.
    """

    def __init__(
        self,
        components: Mapping[str, Component],
        facts: ModelFacts,
        *,
        provider: GraphProvider = "cpu",
        source: str = "",
        files: Sequence[str] = (),
        tiles_per_run: int = 16,
        table: TokenTable | None = None,
        open_vision: Callable[[], Component] | None = None,
    ) -> None:
        self.provider: str = provider
        self.facts = facts
        self.components = dict(components)
        self._source = source
        self._files = tuple(files)
        self._table = table
        self._open_vision, self._opening_vision = open_vision, Lock()
        self.tiles_per_run: int = tiles_per_run
        self._device = "cpu" if provider == "cpu" else "cuda"  # ONNX Runtime's name of the memory
        self._decoder_in_use: GrowingDecoder | WindowDecoder | None = None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        threads: int | None = None,
        thread_wait: ThreadWait | None = None,
        provider: GraphProvider = "cpu",
        opened: Mapping[str, Component] | None = None,
        lazy_vision: bool = False,
    ) -> GraphSessions:
        """Open the graphs of a bundle.

        Args:
            bundle: An opened bundle.
            threads: Threads of one operator; None takes one per physical core.
            thread_wait: How idle ones wait; None for `moir_edge.threads.default_thread_wait`.
            provider: What runs them.
            opened: Components that another library runs in their plain form, by name; they are taken as they are.
            lazy_vision: Open `vision` when a picture comes.

        Raises:
            EnvironmentProblem: The provider is not available on this machine.
            BundleError: A component is missing, or ONNX Runtime cannot load a graph.
        """
        entries = bundle.manifest.components
        table = TokenTable.of(bundle)
        embedding = ["embedding"] if table is None else []
        router = ["router"] if "router" in entries else []
        opened = opened or {}
        fused = {
            name: None if name in opened else fused_form(entry, provider)
            for name, entry in entries.items()
        }
        graphs = {name: (fused[name] or entry).graph for name, entry in entries.items()}
        open_one = partial(
            open_graph, bundle, provider=provider, threads=threads, thread_wait=thread_wait
        )
        late = ["vision"] if lazy_vision and "vision" not in opened else []
        components = {
            name: open_one(name)
            for name in ("vision", *embedding, *router, "decoder")
            if name not in opened and name not in late
        }
        files = dict.fromkeys(
            name for key, one in entries.items() for name in (graphs[key], *one.data)
        )
        return cls(
            {**components, **opened},
            bundle.manifest.model,
            provider=provider,
            source=str(bundle.path),
            files=tuple(files),
            table=table,
            open_vision=partial(open_one, "vision") if late else None,
        )

    def _vision(self) -> Component:
        """Return the vision tower, opened now if it waited for a picture."""
        with self._opening_vision:
            if self._open_vision is not None and "vision" not in self.components:
                self.components["vision"] = self._open_vision()
        return self.components["vision"]

    @property
    def _decoder(self) -> GrowingDecoder | WindowDecoder:
        if self._decoder_in_use is None:
            component = self.components["decoder"]
            self._decoder_in_use = decoder_of(component, self.facts, self._device)
        return self._decoder_in_use

    @property
    def backend(self) -> str:
        """ONNX Runtime's version and the provider."""
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__} ({self.provider})"

    def component_providers(self) -> dict[str, str]:
        """Return the execution provider that ONNX Runtime gave to each component's session; a table is read on the host.

        Opens a vision tower that waits for a picture.
        """
        if self._open_vision is not None:
            self._vision()
        found = {name: component.provider for name, component in self.components.items()}
        return found if self._table is None else {**found, "embedding": "table"}

    @property
    def has_router(self) -> bool:
        """Whether the bundle holds a router."""
        return "router" in self.components

    def files(self) -> tuple[str, ...]:
        """Return the graphs and their weights; components may share a file."""
        return self._files

    def run_vision(self, feed: Mapping[str, Array]) -> dict[str, Floats]:
        """Run `vision` once and return its outputs by name."""
        vision = self._vision()
        # What is not read now goes: this run takes the most memory of all.
        if self._table is not None:
            self._table.give_back()
        if "decoder" in self.components:  # another library may have its own
            self.components["decoder"].give_back_weights()
        names = vision.outputs
        outputs = dict(zip(names, vision.arrays(feed, names, give_back=True), strict=True))
        vision.give_back_weights()
        features = outputs["image_features"]
        tokens = self.facts.tokens_per_tile
        tiles = len(feed["pixel_values"])
        fixed = features.shape[:-1] if tokens is None else (tiles, tokens)
        self._require_shape("vision", features, (*fixed, self.facts.hidden_size))
        return outputs

    def joined(self, parts: Sequence[Floats]) -> Floats:
        """Return arrays one after the other along their first axis; a single one is not copied."""
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def embed(self, input_ids: Ints) -> Floats:
        """Return (batch, sequence, hidden) for input ids (batch, sequence), looked up without a graph where that does."""
        if self._table is not None:
            return self._table.rows(input_ids)
        feed = {"input_ids": input_ids}
        embeds: Floats = self.components["embedding"].arrays(feed, ["inputs_embeds"])[0]
        self._require_shape("embedding", embeds, (*input_ids.shape, self.facts.hidden_size))
        return embeds

    def _require_shape(self, name: str, found: Floats, expected: tuple[int, ...]) -> None:
        """Refuse what a graph gave in another shape than the manifest says."""
        if found.shape != expected:
            raise BundleError(
                f"{self.components[name].name} gave an array of shape {found.shape}, expected {expected}; export the bundle again"
            )

    def place(self, embeds: Floats, features: Floats, at: npt.NDArray[np.bool_]) -> Floats:
        """Put image features (…, hidden) where `at` (batch, sequence) is True, in order."""
        embeds[at] = features.reshape(-1, features.shape[-1])
        return embeds

    def take(self, embeds: Embeds, places: Ints) -> Floats:
        """Return (batch, kept, hidden) on the host, the tokens of each row that stand at `places` (batch, kept)."""
        return np.take_along_axis(self.to_numpy(embeds), places[:, :, None], axis=1)

    def route(
        self,
        inputs_embeds: Floats,
        image_positions: Ints,
        text_positions: Ints,
        text_mask: npt.NDArray[np.bool_],
    ) -> tuple[Any, RouterArrays]:
        """Return the enriched embeddings, an ONNX Runtime value, and what the router did.

        Raises:
            UnsupportedError: The bundle holds no router.
        """
        if not self.has_router:
            raise UnsupportedError(
                f"{self._source} holds no router; export a retrofitted checkpoint"
            )
        places: dict[str, Any] = {
            "image_positions": image_positions,
            "text_positions": text_positions,
            "text_mask": text_mask,
        }
        routed, *figures = self.components["router"].values(
            {"inputs_embeds": inputs_embeds, **places},
            {"routed_embeds": self._device, **dict.fromkeys(ROUTER_FIGURES, "cpu")},
        )
        return routed, RouterArrays.of(places, (value.numpy() for value in figures))

    def to_numpy(self, embeds: Embeds) -> Floats:
        """Copy embeddings to the host; those that are there already are returned as they are."""
        array: Floats = embeds if isinstance(embeds, np.ndarray) else embeds.numpy()
        return array

    def from_numpy(self, embeds: Floats) -> Embeds:
        """Return them as they are: each run takes arrays of the host."""
        return embeds

    def memory(self) -> dict[str, int]:
        """Return nothing: ONNX Runtime does not tell what it holds on a GPU."""
        return {}

    @property
    def continues(self) -> bool:
        """Whether `continue_from` can go on from an earlier prompt."""
        return isinstance(self._decoder, WindowDecoder)

    def prefill(self, inputs_embeds: Embeds, decoder: DecoderInputs) -> tuple[Floats, Any]:
        """Run the prompt.

        Args:
            inputs_embeds: (batch, sequence, hidden), left-padded.
            decoder: What the decoder takes besides.

        Returns:
            Logits of the last position, (batch, vocab), and the state to go on from.
        """
        return self._decoder.prefill(inputs_embeds, decoder)

    def continue_from(
        self, state: Any, known: int, inputs_embeds: Embeds, decoder: DecoderInputs
    ) -> tuple[Floats, Any]:
        """Run a prompt of one row that begins as an earlier one did.

        Args:
            state: Of the earlier prompt; its cache goes over to the new state, and it is of no use afterwards.
            known: How many tokens, fewer than the prompt has, are at the start of both with the same embeddings, positions and
                further inputs.
            inputs_embeds: (1, sequence, hidden), the whole prompt.
            decoder: What the decoder takes of the whole prompt besides.

        Returns:
            What `prefill` returns.

        Raises:
            UnsupportedError: The decoder cannot; see `continues`.
        """
        if not isinstance(self._decoder, WindowDecoder):
            raise UnsupportedError(
                f"{self._source}: its decoder cannot go on from an earlier prompt; run the whole prompt with `prefill`"
            )
        return self._decoder.prefill(inputs_embeds, decoder, after=state, known=known)

    def decode(self, token_ids: Ints, state: Any) -> Floats:
        """Feed one token per row, (batch,), and return the next logits, (batch, vocab)."""
        return self._decoder.decode(self.embed(token_ids[:, None]), state)
