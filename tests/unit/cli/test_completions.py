"""A shell gets every value that a command takes, and no other."""

from __future__ import annotations

from typing import get_args

from moir_edge.cli.completions import (
    complete_precision,
    complete_provider,
    complete_switch,
    complete_target,
)
from moir_edge.precisions import PRECISIONS
from moir_edge.runtime.providers import Provider
from moir_edge.targets import TARGETS


def test_nothing_typed_gives_every_value() -> None:
    assert [name for name, _ in complete_target("")] == list(TARGETS)
    assert complete_precision("") == list(PRECISIONS)
    assert complete_provider("") == list(get_args(Provider))
    assert complete_switch("") == ["on", "off"]


def test_a_beginning_gives_those_that_begin_so() -> None:
    assert [name for name, _ in complete_target("rtx-4")] == ["rtx-40"]
    assert complete_precision("int8-") == ["int8-weight-only"]
    assert complete_provider("cu") == ["cuda"]
    assert complete_switch("of") == ["off"]
    assert complete_switch("x") == []
