"""MDI and AEI by hand, and the attention of one forward against what generate() gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, NotFiniteError
from moir_edge.evaluation.candidates import spec_of
from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate
from moir_edge.evaluation.diagnosis.attention import (
    AttentionRow,
    attention_figures,
    efficiency_indices,
    measure_attention,
    modality_dominance,
    shown_layers,
)
from moir_edge.export.attention import attention_implementation


def silent(*_: object) -> None: ...


def test_indices_by_hand() -> None:
    row = AttentionRow(
        image=np.array([0.6, 0.1]), text=np.array([0.2, 0.4]), image_tokens=30, text_tokens=5
    )
    # (.2 / 5) / (.6 / 30) = .04 / .02, and (.4 / 5) / (.1 / 30) = .08 / .00333
    np.testing.assert_allclose(modality_dominance(row), [2.0, 24.0])
    text, image = efficiency_indices(row)
    # P_text = .25 and .8, Q_text = 5 / 35
    np.testing.assert_allclose(text, [0.25 * 7, 0.8 * 7])
    np.testing.assert_allclose(image, [0.75 * 7 / 6, 0.2 * 7 / 6])


def test_figures_are_means_over_rows() -> None:
    rows = [
        AttentionRow(image=np.array([a]), text=np.array([b]), image_tokens=2, text_tokens=1)
        for a, b in ((0.4, 0.2), (0.2, 0.4))
    ]
    (layer,) = attention_figures(rows, seed=0).layers
    assert layer.mdi is not None
    assert layer.aei_text is not None
    assert layer.mdi.value == pytest.approx((1.0 + 4.0) / 2)
    assert (layer.mdi.low, layer.mdi.high) == pytest.approx((1.0, 4.0))
    assert layer.aei_text.value == pytest.approx((1.0 + 2.0) / 2)
    assert (layer.mass_image, layer.mass_text) == pytest.approx((0.3, 0.3))


def test_an_index_without_attention_on_a_modality_is_none() -> None:
    rows = [
        AttentionRow(
            image=np.array([image, 0.2]), text=np.array([0.2, 0.2]), image_tokens=2, text_tokens=1
        )
        for image in (0.4, 0.0)
    ]
    first, second = attention_figures(rows, seed=0).layers
    assert first.mdi is None
    assert first.mass_image == pytest.approx(0.2)
    # P_image = 2/3 and 0 over Q = 2/3
    assert first.aei_image is not None
    assert first.aei_image.value == pytest.approx(0.5)
    assert second.mdi is not None
    assert second.mdi.value == pytest.approx(2.0)


def test_attention_that_is_not_finite_is_refused_by_the_layer(
    demo_checkpoint: Path, demo_data: list[Row]
) -> None:
    candidate = CheckpointCandidate(spec_of(demo_checkpoint, threads=1, max_new_tokens=2))
    with torch.no_grad():
        candidate.model.get_decoder().layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    row = next(one for one in demo_data if one.images)
    answers = [Answer(text="", token_ids=())]
    with pytest.raises(NotFiniteError, match=r"attention of layer 1: \d+ of \d+ values are NaN"):
        measure_attention(
            candidate, [row], answers, max_new_tokens=2, progress=silent, stage="attention"
        )
    with pytest.raises(
        DataError, match=r"the decoder gave nan for token 0 \(row 0, step 0\): .*are damaged$"
    ):
        candidate.answer([row])


@pytest.mark.parametrize(
    ("layers", "shown"),
    [(1, (0,)), (2, (0, 1)), (4, (0, 2, 3)), (30, (0, 15, 28, 29))],
)
def test_first_middle_and_last_two_layers_are_shown(layers: int, shown: tuple[int, ...]) -> None:
    assert shown_layers(layers) == shown


def reference(candidate: CheckpointCandidate, row: Row, limit: int) -> tuple[Any, Any]:
    """Return (layers, prompt) attention and the prompt's ids, from generate() itself, step by step."""
    inputs = candidate.encode([row])
    prompt = inputs["input_ids"].shape[1]
    with attention_implementation(candidate.model, "eager"):
        steps = candidate.model.generate(
            **inputs,
            max_new_tokens=limit,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        ).attentions
    # the query of a step is its last one: the prompt's last token, then each generated token
    by_step = [
        [layer[0, :, -1, :prompt].mean(0).double().numpy() for layer in one] for one in steps
    ]
    return np.mean(by_step, axis=0), inputs["input_ids"][0].numpy()


@pytest.mark.parametrize(
    ("model", "limit"), [("checkpoint", 5), ("llava", 5), ("llava", 1), ("demo_checkpoint", 64)]
)
def test_one_forward_equals_generate(
    model: str, limit: int, request: pytest.FixtureRequest, demo_data: list[Row]
) -> None:
    folder: Path = request.getfixturevalue(model)
    candidate = CheckpointCandidate(spec_of(folder, threads=1, max_new_tokens=limit))
    row = demo_data[0]
    answer = candidate.answer([row])
    (ours,) = measure_attention(
        candidate, [row], answer, max_new_tokens=limit, progress=silent, stage=""
    )
    weights, ids = reference(candidate, row, limit)
    tokenizer = candidate.processor.tokenizer
    image = ids == candidate.model.config.image_token_id
    special = np.array([tokenizer.decode([token]).startswith("<") for token in ids])
    assert (ours.image_tokens, ours.text_tokens) == (image.sum(), (~image & ~special).sum())
    # float32 sums in another order: with a cache, token by token, against all at once
    np.testing.assert_allclose(ours.image, weights[:, image].sum(1), atol=1e-5)
    np.testing.assert_allclose(ours.text, weights[:, ~image & ~special].sum(1), atol=1e-5)
    assert candidate.answer([row]) == answer  # the model is as it was


def test_a_model_that_keeps_its_attention_says_so(llava: Path, demo_data: list[Row]) -> None:
    from moir_edge.errors import UnsupportedError

    candidate = CheckpointCandidate(spec_of(llava, threads=1, max_new_tokens=2))
    answer = candidate.answer(demo_data[:1])
    inner = candidate.model.forward
    candidate.model.forward = lambda **kwargs: _without_attention(inner(**kwargs))
    with pytest.raises(UnsupportedError, match="returns no attention weights"):
        measure_attention(
            candidate, demo_data[:1], answer, max_new_tokens=2, progress=silent, stage=""
        )


def _without_attention(output: Any) -> Any:
    output.attentions = None
    return output


def test_generated_image_token_ends_what_is_fed_back(llava: Path, demo_data: list[Row]) -> None:
    candidate = CheckpointCandidate(spec_of(llava, threads=1, max_new_tokens=6))
    image = candidate.model.config.image_token_id
    row = next(row for row in demo_data if len(row.images) == 1)

    def measured(*tokens: int) -> AttentionRow:
        answer = Answer(text="", token_ids=tokens)
        (one,) = measure_attention(
            candidate, [row], [answer], max_new_tokens=6, progress=silent, stage="attention"
        )
        return one

    cut, whole = measured(70, 71, image, 72), measured(70, 71)
    np.testing.assert_array_equal(cut.image, whole.image)
    np.testing.assert_array_equal(cut.text, whole.text)
