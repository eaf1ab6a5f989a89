"""The fused kernels, in Triton's interpreter on the CPU, against the numpy reference of the router."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from moir_edge.router.fused import fused_obstacle

# float32 sums of up to 96 products in another order differ by a few units in the last place of values near 10.
TOLERANCE = 2e-5
FIELDS = ("inputs_embeds", "scores", "indices", "margin", "gate")
# The smallest there are, so that tiny inputs take several steps of every loop.
SMALL = {"moments": 16, "channels": 16, "written": 16, "sources": 16, "ordered": 16}
SETTINGS = list(
    product(
        ("confidence", "entropy"),
        ("add", "concat", "interpolate"),
        ("both", "text-to-image", "image-to-text", "auto"),
    )
)
# Threshold between the densities that each scoring gives random rows.
EDGE = {"confidence": 0.6, "entropy": 0.85}
RULES = ((0.5, False), (None, True), (0.3, True))


def assert_same(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    for name in FIELDS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if name == "indices":
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(found.gate > 0, expected.gate > 0)


@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=lambda at: "-".join(SETTINGS[at]))
def test_every_density_merge_and_direction(cases: Any, interpreter: Any, number: int) -> None:
    density, merge, direction = SETTINGS[number]
    ratio, by_threshold = RULES[number % 3]
    router = cases.router(
        density=density,
        merge=merge,
        direction=direction,
        ratio=ratio,
        threshold=EDGE[density] if by_threshold else None,
        top_k=1 + number % 8,
    )
    inputs = cases.inputs(1, 9, 17, 28)
    inputs[1][0, 6:] = -1
    inputs[3][0, 12:] = False
    expected = cases.expected(router, inputs)
    assert (expected.gate > 0).any()
    assert_same(interpreter(router, inputs, tiles=SMALL), expected)


@pytest.mark.parametrize("density", ["confidence", "entropy"])
@pytest.mark.parametrize("direction", ["both", "image-to-text", "auto"])
def test_learned_gate(cases: Any, interpreter: Any, density: str, direction: str) -> None:
    router = cases.router(density=density, direction=direction, learned_gate=True)
    inputs = cases.inputs(1, 9, 17, 28)
    inputs[1][0, 6:] = -1
    expected = cases.expected(router, inputs)
    assert density == "entropy" or 0 < (expected.gate > 0).sum() < (expected.scores > 0).sum()
    assert_same(interpreter(router, inputs, tiles=SMALL), expected)


@pytest.mark.parametrize("k", range(1, 9))
def test_every_k(cases: Any, interpreter: Any, k: int) -> None:
    router = cases.router(top_k=k, ratio=1.0)
    inputs = cases.inputs(1, 5, 23, 30)
    assert_same(interpreter(router, inputs, tiles=SMALL), cases.expected(router, inputs))


@pytest.mark.parametrize(
    ("sizes", "hidden", "rank", "tiles"),
    [
        ((1, 1, 1, 2), 24, 8, SMALL),
        ((1, 2, 3, 6), 24, 8, {}),
        ((3, 16, 16, 32), 32, 16, SMALL),
        ((1, 33, 70, 110), 40, 20, SMALL),
        ((1, 70, 33, 110), 40, 20, {}),
        ((2, 9, 5, 15), 300, 33, {}),
        ((1, 6, 7, 13), 17, 1, SMALL),
    ],
    ids=str,
)
def test_every_size(
    cases: Any, interpreter: Any, sizes: Any, hidden: int, rank: int, tiles: Any
) -> None:
    router = cases.router(hidden, rank=rank, merge="concat", ratio=0.6)
    inputs = cases.inputs(*sizes, hidden=hidden)
    assert_same(interpreter(router, inputs, tiles=tiles), cases.expected(router, inputs))


def test_samples_without_tokens_on_one_side_or_both(cases: Any, interpreter: Any) -> None:
    router, inputs = cases.router(direction="auto"), cases.inputs(4, 6, 7, 15)
    inputs[1][1] = -1
    inputs[3][2] = False
    inputs[1][3], inputs[3][3] = -1, False
    found = interpreter(router, inputs)
    assert_same(found, cases.expected(router, inputs))
    np.testing.assert_array_equal(found.inputs_embeds[1:], inputs[0][1:])
    assert found.gate[0].any()
    assert not found.gate[1:].any()


def test_no_token_columns_at_all(cases: Any, interpreter: Any) -> None:
    router, inputs = cases.router(), cases.inputs(1, 0, 4, 5)
    found = interpreter(router, inputs)
    np.testing.assert_array_equal(found.inputs_embeds, inputs[0])
    assert found.indices.shape == (1, 4, 4)
    assert (found.indices == -1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_sample_that_is_not_finite_comes_back_as_it_was(
    cases: Any, interpreter: Any, value: float
) -> None:
    router, inputs = cases.router(), cases.inputs(2, 5, 6, 14)
    # Two of 3e38 add up to more than float32 holds, which counts as not finite.
    inputs[0][0, inputs[2][0, :2], 4] = value
    found = interpreter(router, inputs)
    np.testing.assert_array_equal(found.inputs_embeds[0], inputs[0][0])
    for name, nothing in (("scores", 0), ("gate", 0), ("margin", 0), ("indices", -1)):
        assert (getattr(found, name)[0] == nothing).all()
    clean = tuple(item[1:] for item in inputs)
    expected = cases.expected(router, clean)
    np.testing.assert_array_equal(found.indices[1:], expected.indices)
    np.testing.assert_allclose(found.inputs_embeds[1:], expected.inputs_embeds, atol=TOLERANCE)


def test_value_that_is_not_finite_in_a_row_that_takes_no_part(cases: Any, interpreter: Any) -> None:
    router, inputs = cases.router(), cases.inputs(1, 5, 6, 14)
    spare = sorted(set(range(14)) - {*inputs[1][0].tolist(), *inputs[2][0].tolist()})[0]
    inputs[0][0, spare, 3] = math.nan
    found = interpreter(router, inputs)
    assert found.gate.any()
    assert_same(found, cases.expected(router, inputs))


def test_of_equal_tokens_the_first_is_weak_and_the_first_is_read(
    cases: Any, interpreter: Any
) -> None:
    router, inputs = cases.router(top_k=3), cases.inputs(2, 33, 47, 90)
    for sample in range(2):
        for positions, kinds in ((inputs[1], 3), (inputs[2], 5)):
            rows = positions[sample]
            inputs[0][sample, rows] = inputs[0][sample, rows[np.arange(len(rows)) % kinds]]
    assert_same(interpreter(router, inputs, tiles=SMALL), cases.expected(router, inputs))


@pytest.mark.parametrize("offset", [1e2, 1e3])
def test_rows_far_from_zero_are_normalised_as_exactly(
    cases: Any, interpreter: Any, offset: float
) -> None:
    """One pass over sums and sums of squares would lose the variance; merged blocks do not."""
    router, inputs = cases.router(96), cases.inputs(1, 7, 9, 18, hidden=96)
    inputs[0][:] += np.float32(offset)
    exact = cases.expected(router, (inputs[0].astype(np.float64), *inputs[1:]))
    # The rows themselves are rounded to 6e-8 of the offset, and normalising brings that to the scale of 1.
    tolerance = TOLERANCE + 1e-6 * offset
    found = interpreter(router, inputs, tiles=SMALL)
    np.testing.assert_allclose(found.scores, exact.scores, atol=tolerance)
    np.testing.assert_allclose(found.inputs_embeds, exact.inputs_embeds, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2.0**-11), ("bfloat16", 2.0**-7)])
def test_half_precision_is_computed_in_float32_and_rounded_once(
    cases: Any, interpreter: Any, dtype: str, step: float
) -> None:
    """Rounding is off by half a step; the interpreter, unlike a GPU, cuts bfloat16 off: a whole step."""
    router, inputs = cases.router(), cases.inputs(2, 9, 8, 20)
    rounded = torch.from_numpy(inputs[0]).to(getattr(torch, dtype)).float().numpy()
    expected = cases.expected(router, (rounded, *inputs[1:]))
    found = interpreter(router, inputs, dtype=dtype)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.scores, expected.scores, atol=TOLERANCE)
    np.testing.assert_allclose(
        found.inputs_embeds, expected.inputs_embeds, rtol=step, atol=TOLERANCE
    )


@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
def test_fresh_router_changes_no_bit(cases: Any, interpreter: Any, merge: str) -> None:
    inputs = cases.inputs(2, 9, 8, 20)
    router = cases.router(merge=merge)
    for side in (router.image, router.text):
        torch.nn.init.zeros_(side.blend if merge == "interpolate" else side.up.weight)
    found = interpreter(router, inputs)
    assert found.gate.any()
    np.testing.assert_array_equal(found.inputs_embeds, inputs[0])


def test_router_takes_the_kernels_by_itself_and_leaves_them_when_told(
    cases: Any, interpreter: Any
) -> None:
    router, inputs = cases.router(), cases.inputs(2, 9, 8, 20)
    fused = interpreter(router, inputs, through="router")
    kernels = interpreter(router, inputs)
    plain = interpreter(router, inputs, through="router", fused="off")
    assert fused.obstacle is None
    assert plain.obstacle == "router.fused is 'off'"
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(fused, name), getattr(kernels, name))
    assert_same(fused, plain)
    # The sums run in another order: were all bits the same, one way would have been taken twice.
    assert (fused.inputs_embeds != plain.inputs_embeds).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("merge", ["add", "concat", "interpolate"])
def test_kernels_on_a_gpu(cases: Any, merge: str, dtype: str) -> None:
    router = cases.router(192, merge=merge, rank=16)
    inputs = cases.inputs(2, 150, 70, 230, hidden=192)
    rounded = torch.from_numpy(inputs[0]).to(getattr(torch, dtype))
    expected = cases.expected(router, (rounded.float().numpy(), *inputs[1:]))
    given = [rounded.cuda(), *(torch.from_numpy(item).cuda() for item in inputs[1:])]
    with torch.no_grad():
        assert fused_obstacle(router.cuda(), given[0]) is None
        output = router(*given)
    # Three TF32 products round to about 2e-6 of terms near 10; float16 to half a step of 2**-10 besides.
    step = {"float32": 0.0, "float16": 2.0**-11}[dtype]
    assert (output.indices.cpu().numpy() == expected.indices).mean() >= 0.999
    np.testing.assert_allclose(output.scores.cpu(), expected.scores, atol=1e-4)
    np.testing.assert_allclose(
        output.inputs_embeds.float().cpu(), expected.inputs_embeds, rtol=step, atol=1e-3
    )
