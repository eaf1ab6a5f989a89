"""Trace the components of a checkpoint once; every precision is assembled from the same graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from torch import nn

from moir_edge.bundle import ModelFacts, TensorSpec
from moir_edge.checked import a, checked, function
from moir_edge.checkpoint import Checkpoint
from moir_edge.export.attention import export_attention
from moir_edge.export.cleanup import check_graph, read_tensor
from moir_edge.export.facts import model_facts
from moir_edge.export.interfaces import ComponentSpec
from moir_edge.export.tracing import trace
from moir_edge.export.weights import stored_weights, widen_own_buffers
from moir_edge.graphs.naming import number_values
from moir_edge.models.decoder import EmbeddingGraph
from moir_edge.progress import Progress, silent
from moir_edge.runtime.interface import cache_names

if TYPE_CHECKING:
    from moir_edge.export.reference import TorchReference

__all__ = ["TracedModel", "component_module", "component_specs", "trace_components"]


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """A checkpoint as float32 graphs, ready to be assembled in any precision.

    Attributes:
        checkpoint: The loaded checkpoint; parity is measured against its model.
        facts: What the runtime must know of the model.
        graphs: Component name to cleaned graph, in storage order.
        specs: Component name to its interface.
    """

    checkpoint: Checkpoint
    facts: ModelFacts
    graphs: Mapping[str, ir.Model]
    specs: Mapping[str, ComponentSpec]

    @property
    def router_record(self) -> dict[str, Any] | None:
        """The router's settings as plain JSON data, or None."""
        router = self.checkpoint.router
        return None if router is None else router.config.to_record()

    @property
    def router_sha256(self) -> str | None:
        """The hash of the router's settings, or None."""
        router = self.checkpoint.router
        return None if router is None else router.config.hash()

    @cached_property
    def reference(self) -> TorchReference:
        """The answers of torch to the prompts that every bundle is checked with; computed once."""
        from moir_edge.export.reference import torch_reference
        from moir_edge.export.samples import parity_samples

        samples = parity_samples(self.checkpoint, self.facts)
        return torch_reference(self.checkpoint, self.facts, samples)


@checked(checkpoint=a(Checkpoint), progress=function)
def trace_components(checkpoint: Checkpoint, *, progress: Progress | None = None) -> TracedModel:
    """Trace every component of a checkpoint.

    Args:
        checkpoint: From `moir_edge.checkpoint.load_checkpoint`.
        progress: Called as ``progress("trace", done, total)`` around each component.
    """
    progress = progress or silent
    facts = model_facts(checkpoint)
    specs = component_specs(checkpoint, facts)
    graphs: dict[str, ir.Model] = {}
    with checkpoint.without_router(), export_attention(checkpoint.model):
        for done, (name, spec) in enumerate(specs.items()):
            progress("trace", done, len(specs))
            module = component_module(checkpoint, name)
            weights = stored_weights(module, checkpoint.files)
            graphs[name] = trace(module, spec, weights=weights)
    progress("trace", len(specs), len(specs))
    if checkpoint.router is not None:
        graphs["router"] = _router_graph(checkpoint.router)
        specs["router"] = _read_spec("router", graphs["router"])
    return TracedModel(checkpoint=checkpoint, facts=facts, graphs=graphs, specs=specs)


def _router_graph(router: Any) -> ir.Model:
    """Take the router's graph, which is built from the project's own operators and not traced."""
    from moir_edge.ops.graph import router_graph

    model = ir.from_proto(router_graph(router))
    number_values(model)
    check_graph(model)
    return model


def _read_spec(name: str, model: ir.Model) -> ComponentSpec:
    return ComponentSpec(
        name=name,
        inputs=tuple(read_tensor(value) for value in model.graph.inputs),
        outputs=tuple(read_tensor(value) for value in model.graph.outputs),
    )


def component_module(checkpoint: Checkpoint, name: str) -> nn.Module:
    """Return the module that a component is traced from, in eval mode; its buffers are float32.

    Args:
        checkpoint: Holds the model.
        name: ``vision``, ``embedding`` or ``decoder``.
    """
    model, architecture = checkpoint.model, checkpoint.architecture
    if name == "vision":
        module = architecture.vision_graph(model)
    elif name == "embedding":
        module = EmbeddingGraph(model.get_input_embeddings())
    else:
        module = architecture.decoder_graph(model)
    widen_own_buffers(module)
    return module.eval()


def component_specs(checkpoint: Checkpoint, facts: ModelFacts) -> dict[str, ComponentSpec]:
    """Return the interface of each traced component, in storage order."""
    specs = (_vision(checkpoint), _embedding(facts), _decoder(checkpoint, facts))
    wanted = checkpoint.architecture.components
    return {spec.name: spec for spec in specs if spec.name in wanted}


def _vision(checkpoint: Checkpoint) -> ComponentSpec:
    architecture, config = checkpoint.architecture, checkpoint.config
    return ComponentSpec(
        name="vision",
        inputs=architecture.vision_inputs(config),
        outputs=architecture.vision_outputs(config),
        samples=architecture.vision_samples(config),
    )


def _embedding(facts: ModelFacts) -> ComponentSpec:
    return ComponentSpec(
        name="embedding",
        inputs=(_int("input_ids", "batch", "sequence"),),
        outputs=(_float("inputs_embeds", "batch", "sequence", facts.hidden_size),),
    )


def _decoder(checkpoint: Checkpoint, facts: ModelFacts) -> ComponentSpec:
    axes = checkpoint.architecture.position_axes
    positions = ("batch", "sequence") if axes == 1 else (axes, "batch", "sequence")
    inputs = (
        _float("inputs_embeds", "batch", "sequence", facts.hidden_size),
        _int("attention_mask", "batch", "total_sequence"),
        _int("position_ids", *positions),
        *checkpoint.architecture.decoder_inputs(checkpoint.config),
    )
    return ComponentSpec(
        name="decoder",
        inputs=(*inputs, *_cache(facts, "past_key_values", "past_sequence")),
        outputs=(
            _float("logits", "batch", 1, facts.vocab_size),
            *_cache(facts, "present", "total_sequence"),
        ),
        grouped=len(inputs),
    )


def _cache(facts: ModelFacts, prefix: str, axis: str) -> list[TensorSpec]:
    return [
        _float(name, "batch", facts.num_kv_heads, axis, facts.head_dim)
        for name in cache_names(prefix, facts.num_layers)
    ]


def _float(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def _int(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="int64", shape=shape)
