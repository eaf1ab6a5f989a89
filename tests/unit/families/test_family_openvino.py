"""Every family by OpenVINO against ONNX Runtime: tokens, logits, padded batches, and answers that go on side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import moir_edge
from moir_edge.export import TracedModel
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.generation import prepare_prompt
from moir_edge.runtime.timing import Stopwatch
from tests.unit.conftest import require_openvino
from tests.unit.families.conftest import picture

require_openvino()

pytestmark = pytest.mark.slow  # an export for each family

STEPS = 8
# Float32 on two libraries; the same bound as between torch and ONNX Runtime.
LOGITS = 1e-3
PROMPTS = ["no image?", "what is it, then?", "which of the two is the longer one?", "short"]
IMAGES: list[list[Any]] = [[], [picture(31, 77)], [picture(64, 65, 1), picture(90, 20, 2)], []]
SOFTCAPPED = {"paligemma"}


class Both(NamedTuple):
    """One bundle, twice."""

    model_type: str
    ort: EdgeModel
    openvino: EdgeModel


@pytest.fixture(scope="module")
def both(traced: TracedModel, fp32_bundle: Path) -> Both:
    models = [moir_edge.load(fp32_bundle, threads=1, provider=one) for one in ("cpu", "openvino")]
    return Both(traced.facts.model_type, *models)


def test_a_padded_batch_answers_as_onnx_runtime_does(both: Both) -> None:
    expected = both.ort.generate(PROMPTS, IMAGES, max_new_tokens=STEPS)
    found = both.openvino.generate(PROMPTS, IMAGES, max_new_tokens=STEPS)
    assert found.token_ids == expected.token_ids
    assert found.routing is not None
    assert expected.routing is not None
    for ours, theirs in zip(found.routing, expected.routing, strict=True):
        np.testing.assert_array_equal(ours.indices, theirs.indices)


def test_answers_that_go_on_in_turns_do_not_mix(both: Both) -> None:
    expected = [_Answer(both.ort, at) for at in ([1], [2], [0, 1, 2, 3])]
    found = [_Answer(both.openvino, at) for at in ([1], [2], [0, 1, 2, 3])]
    for _ in range(STEPS):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours.logits, theirs.logits, atol=LOGITS)
        for ours, theirs in zip(found, expected, strict=True):
            tokens = theirs.logits.argmax(axis=-1)
            ours.step(tokens)
            theirs.step(tokens)


def test_what_is_slower_than_it_could_be_says_why(both: Both) -> None:
    backend = both.openvino.sessions.backend
    capped = both.model_type in SOFTCAPPED
    assert ("the scores are changed before the mask" in backend) == capped
    assert ("(" in backend) == capped


class _Answer:
    """A batch on its way, fed by the test."""

    def __init__(self, model: EdgeModel, rows: list[int]) -> None:
        inputs = model.encode([PROMPTS[row] for row in rows], [IMAGES[row] for row in rows])
        prompt = prepare_prompt(
            model.sessions, model.processor.family, inputs, Stopwatch(), router=True
        )
        self._sessions = model.sessions
        self.logits, self._state = model.sessions.prefill(prompt.embeds, prompt.decoder)

    def step(self, tokens: Any) -> None:
        self.logits = self._sessions.decode(tokens, self._state)
