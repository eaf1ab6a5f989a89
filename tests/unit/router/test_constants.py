"""The routers' numbers: one place, and the same in torch, the numpy reference, ONNX text and GPU kernels."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from moir_edge.ops import function_protos, reference
from moir_edge.ops import functions as texts
from moir_edge.ops import graph as graph_texts
from moir_edge.ops import pooled_graph as pooled_texts
from moir_edge.router import RouterConfig, constants, token
from moir_edge.router.steps import entropy_density

ROOT = Path(__file__).parents[3] / "moir_edge"
# docs/architecture.md and the published methods; written out here so that a changed number is seen.
WRITTEN = {
    "LAYER_NORM_EPSILON": 1e-5,
    "DENSITY_SLOPE": 3.814697265625e-06,
    "SIMILARITY_SLOPE": 6.103515625e-05,
    "DENSITY_FLOOR": 1e-6,
    "SHARE_FLOOR": 1e-30,
    "ABSENT": -1e9,
    "EXISTS": -5e8,
    "BEHIND": 9.0,
    "FLOAT32_MAX": 3.4028234e38,
    "CHANNEL_RATIO": 0.1,
    "GATE_GAIN": 10.0,
    "SCALE_RANGE": (0.1, 10.0),
    "LEAST_MEAN_SQUARE": 1e-12,
}


def test_the_numbers_are_as_written() -> None:
    assert {name: getattr(constants, name) for name in WRITTEN} == WRITTEN
    assert set(constants.__all__) == {*WRITTEN, "spelled"}


def test_no_router_spells_a_number_of_its_own() -> None:
    known = {value for value in WRITTEN.values() if isinstance(value, float)} - {0.1, 9.0, 10.0}
    for path in [*(ROOT / "router").rglob("*.py"), *(ROOT / "ops").rglob("*.py")]:
        if path.name == "constants.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Constant) and node.value in known), path


def test_onnx_text_names_its_numbers() -> None:
    for module in (texts, graph_texts, pooled_texts):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        numbers = re.findall(r"value = float \{+([^{}]+)\}", source)
        plain = {one for one in numbers if not one.startswith("$")}
        assert plain <= {"0.0", "0.5", "1.0", "count"}  # what a formula itself holds
    with pytest.raises(KeyError, match="NOTHING"):
        constants.spelled("$NOTHING")
    assert constants.spelled("$SCALE_LOW to $SCALE_HIGH, $ABSENT") == "0.1 to 10.0, -1000000000.0"


def test_parsed_functions_hold_the_numbers_in_float32() -> None:
    found = set()
    for config in (RouterConfig(), RouterConfig(density="entropy")):
        for function in function_protos(config):
            for node in function.node:
                for attribute in node.attribute:
                    if attribute.name == "epsilon":
                        found.add(np.float32(attribute.f))
                    if attribute.name == "value" and attribute.t.data_type == 1:
                        found.add(np.float32(attribute.t.float_data[0]))
    names = ("LAYER_NORM_EPSILON", "DENSITY_SLOPE", "SIMILARITY_SLOPE", "DENSITY_FLOOR")
    names += ("SHARE_FLOOR", "ABSENT", "EXISTS", "BEHIND")
    assert {np.float32(WRITTEN[name]) for name in names} <= found


def test_torch_and_reference_use_them() -> None:
    for module in (token, reference):
        for name in ("DENSITY_SLOPE", "SIMILARITY_SLOPE", "DENSITY_FLOOR", "LAYER_NORM_EPSILON"):
            assert getattr(module, name) == WRITTEN[name]
    # Without the floor a token of zeros has no entropy but NaN.
    assert entropy_density(torch.zeros(1, 4)).tolist() == [0.0]


@pytest.mark.skipif(sys.platform != "linux", reason="triton has wheels for Linux alone")
def test_kernels_use_them() -> None:
    from moir_edge.router.fused import kernel_parts

    for name in ("DENSITY_SLOPE", "SIMILARITY_SLOPE", "DENSITY_FLOOR", "SHARE_FLOOR", "ABSENT"):
        assert getattr(kernel_parts, name).value == WRITTEN[name]
    for name in ("EXISTS", "BEHIND", "FLOAT32_MAX"):
        assert getattr(kernel_parts, name).value == WRITTEN[name]
    assert kernel_parts.EPSILON.value == WRITTEN["LAYER_NORM_EPSILON"]
