"""The graphs of a folder as the runtime's sessions, with taps: calibration and parity run them by the runtime's own loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from moir_edge.bundle import ModelFacts
from moir_edge.errors import NotFiniteError
from moir_edge.finite import count_text, is_finite
from moir_edge.graphs.fused import FUSED_SUFFIX
from moir_edge.metrics.routed import RoutedPrompts
from moir_edge.precisions import FP32
from moir_edge.runtime.component import Component
from moir_edge.runtime.families import family_of
from moir_edge.runtime.float4 import session_source
from moir_edge.runtime.generation import prepare_prompt
from moir_edge.runtime.interface import (
    DecoderInputs,
    Embeds,
    Floats,
    ImageFeatures,
    Ints,
    PromptArrays,
)
from moir_edge.runtime.sessions import GraphSessions
from moir_edge.runtime.timing import Stopwatch
from moir_edge.targets import session_config
from moir_edge.threads import session_options

__all__ = [
    "TAP_PREFIX",
    "PromptRun",
    "TappedComponent",
    "TappedSessions",
    "Watch",
    "cpu_session",
    "greedy_tokens",
    "tapped_component",
]

TAP_PREFIX = "tap/"
"""How the names of outputs begin that only a watcher reads."""

Array = npt.NDArray[Any]

Watch = Callable[[str, Mapping[str, Array]], None]
"""Called as ``watch(component, values)`` after each run, with the tapped values by name without `TAP_PREFIX`."""


@dataclass(frozen=True, kw_only=True)
class PromptRun:
    """Values that pass between the components on the way to the decoder.

    Attributes:
        features: The image features, or None without images.
        text_embeds: (batch, sequence, hidden), straight from `embedding`.
        embeds: (batch, sequence, hidden) that enter the decoder, where the sessions keep them.
        decoder: What the decoder takes besides.
        routed: What the router did, or None where nothing was routed.
    """

    features: ImageFeatures | None
    text_embeds: Floats
    embeds: Embeds
    decoder: DecoderInputs
    routed: RoutedPrompts | None


class TappedSessions(GraphSessions):
    """Sessions of the graphs of a folder on the CPU.

    Args:
        folder: Holds ``<component>.onnx``.
        precisions: Component name to precision.
        facts: The model's facts.
        watch: Gets the tapped values of every run.
        tiles_per_run: Image tiles that `vision` takes at once; bounds what a watcher gets.
        session_entries: Further configuration entries of every session.
        in_order: Run the graphs as they are written, node by node: where a narrow weight is widened at each run, only that of
            the next node lies in memory.
        frugal: Take memory only while it is used, at some cost in time: float weights stay in their mapped files, and what a
            run took goes back after it.
    """

    def __init__(
        self,
        folder: Path,
        precisions: Mapping[str, str],
        facts: ModelFacts,
        *,
        watch: Watch | None = None,
        tiles_per_run: int = 16,
        session_entries: Mapping[str, str] | None = None,
        frugal: bool = False,
        in_order: bool = False,
    ) -> None:
        self._watch = watch
        self._frugal = frugal
        self._in_order = in_order
        self._entries = session_entries or {}
        self._tapped = self._open(folder, precisions)
        self.family = family_of(facts)
        self._text = np.zeros((0, 0, 0), np.float32)
        super().__init__(self._tapped, facts, source=str(folder), tiles_per_run=tiles_per_run)

    def replaced(self, folder: Path, precisions: Mapping[str, str]) -> TappedSessions:
        """Return sessions that take the named components from another folder and share the others."""
        other = copy.copy(self)
        other._tapped = self._tapped | self._open(folder, precisions)
        other.components = dict(other._tapped)
        other._decoder_in_use = None
        other.feed_further({})
        return other

    def feed_further(self, inputs: Mapping[str, Mapping[str, Array]]) -> None:
        """Feed inputs that graphs have besides the interface at every run from now on, by component."""
        for name, component in self._tapped.items():
            component.further_inputs = inputs.get(name, {})

    def prompt(self, inputs: PromptArrays, *, features: ImageFeatures | None = None) -> PromptRun:
        """Run all that comes before the decoder, as the runtime does.

        Args:
            inputs: The prompts.
            features: Image features that are known, in place of a run of `vision`.
        """
        prepared = prepare_prompt(
            self, self.family, inputs, Stopwatch(), router=True, features=features
        )
        embeds, arrays = prepared.embeds, prepared.routing
        return PromptRun(
            features=prepared.features,
            text_embeds=self._text,
            embeds=embeds,
            decoder=prepared.decoder,
            routed=None if arrays is None else RoutedPrompts.of(self.to_numpy(embeds), arrays),
        )

    def embed(self, input_ids: Ints) -> Floats:
        """Return token embeddings; `prompt` hands out a copy, because image features are put into them."""
        embeds = super().embed(input_ids)
        self._text = embeds.copy()
        return embeds

    def _open(self, folder: Path, precisions: Mapping[str, str]) -> dict[str, TappedComponent]:
        return {
            name: tapped_component(
                name, _graph_file(folder, name), precision, watch=self._watch,
                session_entries=self._entries, frugal=self._frugal, in_order=self._in_order,
            )
            for name, precision in precisions.items()
        }  # fmt: skip


def tapped_component(
    name: str,
    graph: Path,
    precision: str = FP32,
    *,
    watch: Watch | None,
    session_entries: Mapping[str, str] | None = None,
    frugal: bool = False,
    in_order: bool = False,
) -> TappedComponent:
    """Open one graph.

    Args:
        name: Of the component.
        graph: Its file.
        precision: Of its weights.
        watch: As in `TappedSessions`, like the rest.
        session_entries: Further configuration entries of the session.
        frugal: Take memory only while it is used.
        in_order: Run the graph as it is written.
    """
    entries = {**session_config(name, precision, ort.__version__), **(session_entries or {})}
    if frugal and precision == FP32:
        # Packed weights of four bits are what their kernels take; float ones would lie in memory twice.
        entries["session.disable_prepacking"] = "1"
    source = session_source(graph, precision)
    session = cpu_session(source, entries, arena=not frugal, in_order=in_order)
    return TappedComponent(name, session, watch)


def _graph_file(folder: Path, name: str) -> Path:
    """Return the graph that the runtime would take: the fused form, where it was written."""
    fused = folder / f"{name}{FUSED_SUFFIX}.onnx"
    return fused if fused.is_file() else folder / f"{name}.onnx"


class TappedComponent(Component):
    """A component that hands its taps to a watcher at each run, and takes further inputs.

    Args:
        name: Of the component.
        session: An ONNX Runtime session.
        watch: Gets the tapped values; None drops them.

    Attributes:
        further_inputs: Inputs besides the interface, fed at every run.
    """

    def __init__(self, name: str, session: ort.InferenceSession, watch: Watch | None) -> None:
        super().__init__(session, name)
        self.further_inputs: Mapping[str, Array] = {}
        self._watch = watch
        names = [output.name for output in session.get_outputs()]
        self._taps = [name for name in names if name.startswith(TAP_PREFIX)]

    @cached_property
    def outputs(self) -> list[str]:
        """The names of the graph's own outputs, in order."""
        names = [output.name for output in self.session.get_outputs()]
        return [name for name in names if not name.startswith(TAP_PREFIX)]

    def arrays(
        self, feed: Mapping[str, Array], outputs: Sequence[str], *, give_back: bool = False
    ) -> list[Array]:
        """Run on arrays; see `Component.arrays`."""
        wanted = [*outputs, *self._taps]
        found = super().arrays({**feed, **self.further_inputs}, wanted, give_back=give_back)
        self._hand_over(found[len(outputs) :])
        return found[: len(outputs)]

    def values(self, feed: Mapping[str, Any], outputs: Mapping[str, str]) -> list[Any]:
        """Run on values; see `Component.values`."""
        wanted = {**outputs, **dict.fromkeys(self._taps, "cpu")}
        # Initializers that may be overridden can be bound as values only; `bind_cpu_input` does not find them.
        further = {
            name: ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in self.further_inputs.items()
        }
        found = super().values({**feed, **further}, wanted)
        self._hand_over([value.numpy() for value in found[len(outputs) :]])
        return found[: len(outputs)]

    def _hand_over(self, values: Sequence[Array]) -> None:
        if self._watch is not None:
            names = [name.removeprefix(TAP_PREFIX) for name in self._taps]
            self._watch(self.name, dict(zip(names, values, strict=True)))


def greedy_tokens(logits: Floats, where: str) -> Ints:
    """Return each row's most likely token, (batch,) for (batch, vocab); the largest of NaN means nothing.

    Args:
        logits: Of the decoder.
        where: What ran, for the message.

    Raises:
        NotFiniteError: A logit is NaN or infinite.
    """
    if not is_finite(logits):
        raise NotFiniteError(
            f"{where}: of the decoder's logits, {count_text(logits)}; "
            "its weights are damaged or its precision is too narrow"
        )
    return np.asarray(logits.argmax(axis=-1), np.int64)


def cpu_session(
    graph: str | bytes | ir.Model,
    entries: Mapping[str, str] | None = None,
    *,
    optimized: bool = True,
    arena: bool = True,
    in_order: bool = False,
) -> ort.InferenceSession:
    """Open a graph in ONNX Runtime on the CPU.

    Args:
        graph: Its path, its bytes, or the graph itself, under 2 GB.
        entries: Configuration entries of the session.
        optimized: Let ONNX Runtime rewrite the graph.
        arena: Let it keep the memory of a run for the next one.
        in_order: Let nodes run in the order of the graph, not rewritten, with memory for the next one alone.
    """
    options = session_options()
    options.enable_cpu_mem_arena = arena
    if in_order:
        # Rewritten nodes come last in this order: all that needs none of them would run, and be kept, before them.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.enable_mem_pattern = False
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if in_order or not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = ir.to_proto(graph).SerializeToString() if isinstance(graph, ir.Model) else graph
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
