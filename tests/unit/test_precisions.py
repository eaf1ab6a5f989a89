"""One table of precisions, and no fact of one anywhere else."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from moir_edge.calibration.formats import FORMATS
from moir_edge.precisions import PRECISIONS, PrecisionName, Product, lacks_gpu_form
from moir_edge.targets import TARGETS

ROOT = Path(__file__).parents[2] / "moir_edge"
# Where the name of a precision stands as a text, and why.
ELSEWHERE = {
    "bundle/consistency.py": "the type of numbers in a file, which has a precision's name",
    "bundle/manifest.py": "as above",
    "export/look_up.py": "as above",
    "runtime/token_table.py": "as above",
    "targets.py": "one device's list of a single name, in a table of lists",
}
HALF = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def test_no_precision_is_named_outside_the_table() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if path.name != "precisions.py" or path.parent != ROOT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in PRECISIONS
    }
    assert found == set(ELSEWHERE)


def test_what_a_manifest_may_hold_is_what_is_exported() -> None:
    assert set(get_args(PrecisionName)) == set(PRECISIONS)
    assert {row.product for row in PRECISIONS.values()} <= set(get_args(Product))


@pytest.mark.parametrize("name", PRECISIONS)
def test_facts_of_a_row_agree_with_its_storage(name: str) -> None:
    row = PRECISIONS[name]
    assert ir.DataType[row.storage].bitwidth == row.bits
    assert row.hardware in PRECISIONS
    assert row.towers is None or PRECISIONS[row.towers].bits >= row.bits
    assert lacks_gpu_form(name, gpu_form=False, for_cpu=False) == row.quantized
    assert lacks_gpu_form(name, gpu_form=False, for_cpu=True) == (row.quantized or name == "fp16")
    assert not lacks_gpu_form(name, gpu_form=True, for_cpu=False)
    # Half of the distance between two numbers next to each other, as a share of the smaller one.
    assert row.rounding == (ml_dtypes.finfo(HALF[name]).eps / 2 if name in HALF else 0)
    # Where activations are rounded, the product is computed in their type.
    assert row.needs_data == (row.product in ("int8", "fp8"))


@pytest.mark.parametrize("name", FORMATS)
def test_every_fall_back_ends_in_a_float(name: str) -> None:
    seen = [name]
    while (following := PRECISIONS[seen[-1]].fallback) is not None:
        assert following not in seen
        assert PRECISIONS[following].bits >= PRECISIONS[seen[-1]].bits
        seen.append(following)
    assert seen[-1] == "fp32"
    assert FORMATS[name].storage.bitwidth == PRECISIONS[name].bits
    assert (FORMATS[name].activation is not None) == PRECISIONS[name].needs_data


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_only_what_its_sm_computes(name: str) -> None:
    target = TARGETS[name]
    assert set(target.hardware_precisions) <= set(PRECISIONS)
    for row in PRECISIONS.values():
        if target.sm is not None and row.hardware in target.hardware_precisions:
            assert row.first_sm <= target.sm
