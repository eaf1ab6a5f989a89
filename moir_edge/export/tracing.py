"""Trace one torch module into an ONNX graph whose dynamic axes carry the project's names."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch.export import Dim

from moir_edge.bundle import TensorSpec
from moir_edge.export.axis_reads import read_axes_once
from moir_edge.export.borrowed_cache import BorrowedCache
from moir_edge.export.cleanup import OPSET, clean, simplify
from moir_edge.export.interfaces import ComponentSpec
from moir_edge.export.marks import translations
from moir_edge.export.operator_table import operator_table_once
from moir_edge.export.parameters import (
    Weights,
    attach,
    canonical_names,
    detach,
    module_weights,
    shapes_only,
)
from moir_edge.export.repeated_layers import RepeatedLayers
from moir_edge.export.stamping import stamp

__all__ = ["trace"]

_log = logging.getLogger("moir_edge")

# Concrete sizes of a sample; no two alike and none of them 1, so that no axis is taken for constant or for
# another one. `total_sequence` is their sum.
_SAMPLE_SIZES = {"batch": 2, "images": 3, "sequence": 5, "past_sequence": 4, "total_sequence": 9}
# The total is a sum of two axes, and patches come in whole blocks, which a `Dim` cannot say; torch derives both.
_DERIVED = frozenset({"total_sequence", "patches"})


def trace(
    module: torch.nn.Module,
    spec: ComponentSpec,
    *,
    weights: Weights | None = None,
    whole: bool = False,
) -> ir.Model:
    """Trace a module with a batch of two or more and a padded row, and clean the graph.

    One layer of each kind is traced, without its weights, and put in the place of the others.

    Args:
        module: In eval mode; its forward takes the inputs of `spec` in order.
        spec: Names, dtypes and axes.
        weights: Gives each parameter its tensor; None takes the module's own.
        whole: Trace every layer.

    Returns:
        The cleaned model; its initializers are the tensors that `weights` gives.

    Raises:
        UnsupportedError: The graph broke the contract of `moir_edge.export.cleanup`.
    """
    names = canonical_names(module)
    model = None if whole else _stamped(module, spec, names)
    if model is None:
        with shapes_only(module):
            model = _translated(module, spec)
        detach(model, names)
        simplify(model)
    read_axes_once(model, spec.inputs)
    attach(model, names, weights or module_weights(module))
    return clean(model, inputs=spec.inputs, outputs=spec.outputs)


def _stamped(
    module: torch.nn.Module, spec: ComponentSpec, names: Mapping[str, str]
) -> ir.Model | None:
    """Trace one layer of each kind and stamp it; None where layers hang together in another way."""
    layers = RepeatedLayers(module)
    while layers:
        cache = BorrowedCache(spec, layers.twins())
        layers.borrowing = cache.borrowing
        try:
            with shapes_only(module), layers.replaced(), cache.lent(module):
                model = _translated(module, cache.spec)
            detach(model, names)
            simplify(model)
            stamp(model, layers.calls, names, cache)
            cache.put_in_order(model)
        # Whatever it is: the whole trace meets it again if it is not of the marks' making.
        except Exception as error:
            if layers.want_missing():
                continue
            reason = str(error).partition("\n")[0]
            _log.warning(f"{spec.name}: every layer is traced, which takes longer: {reason}")
            return None
        return model
    return None


def _translated(module: torch.nn.Module, spec: ComponentSpec) -> ir.Model:
    """Return the graph as torch gives it."""
    samples = spec.samples or [_sample(tensor) for tensor in spec.inputs]
    axes = [_dynamic_axes(tensor, _dims(spec)) for tensor in spec.inputs]
    with (
        torch.no_grad(),
        _quiet_export(),
        operator_table_once(),
        _axes_unified(module, spec),
    ):
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
            custom_translation_table=translations(),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    if exported is None:
        raise RuntimeError(f"torch.onnx.export gave no program for {spec.name}")
    return exported.model


def _dims(spec: ComponentSpec) -> Mapping[str, object]:
    names = {axis for tensor in spec.inputs for axis in tensor.shape if isinstance(axis, str)}
    return {name: Dim.DYNAMIC if name in _DERIVED else Dim(name) for name in sorted(names)}


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


@contextmanager
def _axes_unified(module: torch.nn.Module, spec: ComponentSpec) -> Iterator[None]:
    """Tell tracing at once that axes of one name are one; it would find out at the first layer that needs it."""
    require: Callable[[Any], None] = torch._check

    def check(_: torch.nn.Module, given: tuple[Any, ...]) -> None:
        tensors = [one for part in given for one in (part if isinstance(part, list) else [part])]
        sizes: dict[str, Any] = {}
        for tensor, shape in zip(tensors, [one.shape for one in spec.inputs], strict=True):
            for axis, name in enumerate(shape):
                if isinstance(name, str):
                    require(tensor.shape[axis] == sizes.setdefault(name, tensor.shape[axis]))
        if "total_sequence" in sizes:
            require(sizes["total_sequence"] == sizes["past_sequence"] + sizes["sequence"])

    hook = module.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


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
