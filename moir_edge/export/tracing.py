"""Trace one torch module into an ONNX graph whose dynamic axes carry the project's names."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch.export import Dim

from moir_edge.bundle import TensorSpec
from moir_edge.export.cleanup import OPSET, clean, simplify
from moir_edge.export.parameters import (
    Weights,
    attach,
    canonical_names,
    detach,
    module_weights,
    shapes_only,
)

__all__ = ["ComponentSpec", "trace"]

# Concrete sizes of a sample; no two alike and none of them 1, so that no axis is taken for constant or for
# another one. `total_sequence` is their sum.
_SAMPLE_SIZES = {"batch": 2, "images": 3, "sequence": 5, "past_sequence": 4, "total_sequence": 9}


@dataclass(frozen=True, kw_only=True)
class ComponentSpec:
    """Inputs and outputs of one graph.

    Attributes:
        name: ``vision``, ``embedding``, ``router`` or ``decoder``.
        inputs: In order.
        outputs: In order.
        grouped: How many leading inputs the module takes one by one; the rest come as one list.
        samples: Inputs to trace with; None for zeros and ones.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    grouped: int | None = None
    samples: tuple[torch.Tensor, ...] | None = None


def trace(
    module: torch.nn.Module,
    spec: ComponentSpec,
    *,
    weights: Weights | None = None,
) -> ir.Model:
    """Trace a module with a batch of two or more and a padded row, and clean the graph.

    Args:
        module: In eval mode; its forward takes the inputs of `spec` in order.
        spec: Names, dtypes and axes.
        weights: Gives each parameter its tensor; None takes the module's own.

    Returns:
        The cleaned model; its initializers are the tensors that `weights` gives.

    Raises:
        UnsupportedError: The graph broke the contract of `moir_edge.export.cleanup`.
    """
    names = canonical_names(module)
    with shapes_only(module):
        model = _translated(module, spec)
    detach(model, names)
    simplify(model)
    attach(model, names, weights or module_weights(module))
    return clean(model, inputs=spec.inputs, outputs=spec.outputs)


def _translated(module: torch.nn.Module, spec: ComponentSpec) -> ir.Model:
    """Return the graph as torch gives it."""
    samples = spec.samples or [_sample(tensor) for tensor in spec.inputs]
    axes = [_dynamic_axes(tensor, _dims(spec)) for tensor in spec.inputs]
    with torch.no_grad(), _quiet_export():
        program = torch.export.export(
            module,
            _group(samples, spec.grouped),
            dynamic_shapes=_group(axes, spec.grouped),
            strict=False,
        )
        exported = torch.onnx.export(
            program,
            (),
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    if exported is None:
        raise RuntimeError(f"torch.onnx.export gave no program for {spec.name}")
    return exported.model


def _dims(spec: ComponentSpec) -> Mapping[str, object]:
    names = {axis for tensor in spec.inputs for axis in tensor.shape if isinstance(axis, str)}
    # The total is a sum of two axes, which a `Dim` cannot say; torch derives it.
    return {name: Dim.DYNAMIC if name == "total_sequence" else Dim(name) for name in sorted(names)}


def _dynamic_axes(tensor: TensorSpec, dims: Mapping[str, object]) -> dict[int, object]:
    return {index: dims[axis] for index, axis in enumerate(tensor.shape) if isinstance(axis, str)}


def _sample(tensor: TensorSpec) -> torch.Tensor:
    shape = [axis if isinstance(axis, int) else _SAMPLE_SIZES[axis] for axis in tensor.shape]
    if tensor.dtype == "float32":
        return torch.zeros(shape)
    sample = torch.ones(shape, dtype=torch.int64)
    if tensor.name == "attention_mask":
        sample[0, :2] = 0
    return sample


def _group(items: Sequence[object], grouped: int | None) -> tuple[object, ...]:
    if grouped is None:
        return tuple(items)
    return (*items[:grouped], list(items[grouped:]))


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Silence notes that the user can do nothing about, such as that torchvision is absent."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # copyreg touches a class that torch itself deprecated (seen in torch 2.13).
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
