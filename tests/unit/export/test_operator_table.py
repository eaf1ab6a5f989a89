"""Torch's operator table: one is built, each export gets its own copy, and torch is as before."""

from __future__ import annotations

import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from moir_edge.export.operator_table import operator_table_once


def own(tensor: torch.Tensor) -> torch.Tensor:
    """Stand for a form of one export's own."""
    return tensor


def test_each_export_gets_a_copy_of_one_table() -> None:
    original = vars(ONNXRegistry)["from_torchlib"]
    target = torch.ops.aten.abs.default
    with operator_table_once():
        first, second = (ONNXRegistry.from_torchlib(opset_version=21) for _ in range(2))
        before = len(second.get_decomps(target))
        first.register_op(target, own)
        third = ONNXRegistry.from_torchlib(opset_version=21)
    assert vars(ONNXRegistry)["from_torchlib"] is original
    assert [len(one.get_decomps(target)) for one in (second, third)] == [before, before]
    assert first.get_decomps(target)[0].onnx_function is own
    assert second.get_decomps(target)[0] is third.get_decomps(target)[0]
    built = ONNXRegistry.from_torchlib(opset_version=21)
    assert built.opset_version == second.opset_version == 21
    assert set(built.functions) == set(second.functions)


def test_torch_is_as_before_after_an_error() -> None:
    original = vars(ONNXRegistry)["from_torchlib"]
    try:
        with operator_table_once():
            raise KeyError
    except KeyError:
        pass
    assert vars(ONNXRegistry)["from_torchlib"] is original
