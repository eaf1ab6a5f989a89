from __future__ import annotations

import pytest

from moir_edge.charts.svg import Scale, element, time_scale


def test_scale_maps_and_clamps() -> None:
    scale = Scale(0.0, 10.0, 100.0, 200.0)
    assert [scale(value) for value in (0, 5, 10, 99)] == [100, 150, 200, 200]
    assert scale.ticks() == [0, 2, 4, 6, 8, 10]


def test_times_far_apart_get_a_logarithmic_scale() -> None:
    near, far = time_scale([10, 30], 0, 100), time_scale([10, 1000], 0, 100)
    assert not near.logarithmic
    assert far.logarithmic
    # equal ratios, equal distances
    assert far(100) - far(10) == pytest.approx(far(1000) - far(100), abs=1e-9)
    assert far.ticks() == [10, 20, 50, 100, 200, 500, 1000]


def test_attributes_are_escaped() -> None:
    assert element("text", "x", class_='a"b', text_anchor="end", x=1.26, id=None) == (
        '<text class="a&quot;b" text-anchor="end" x="1.3">x</text>'
    )
