"""OPM: probabilities worked by hand, and what a step hides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moir_edge.router import last_routing
from moir_edge.tuning.balancing import opm
from moir_edge.tuning.balancing.opm import Opm, drop_probabilities
from moir_edge.tuning.loss import answer_loss


# tanh(1) = 0.76159 and tanh(0.5) = 0.46212, by a table
@pytest.mark.parametrize(
    ("image", "text", "expected"),
    [
        (4.0, 2.0, (0.5 * (1 + 0.5 * 0.76159), 0.0)),
        (1.0, 1.5, (0.0, 0.5 * (1 + 0.5 * 0.46212))),
        (2.0, 2.0, (0.0, 0.0)),
        (1.0, 0.0, (0.75, 0.0)),
        (0.0, 0.0, (0.0, 0.0)),
    ],
)
def test_the_better_branch_is_dropped_more_often(
    image: float, text: float, expected: tuple[float, float]
) -> None:
    got = drop_probabilities({"image": image, "text": text})
    assert (got["image"], got["text"]) == pytest.approx(expected, abs=1e-5)


def test_a_step_hides_the_dominant_rows_of_the_samples_that_were_drawn(
    both: Any, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opm, "answer_scores", lambda *_: {"image": 4.0, "text": 2.0})
    seen: list[torch.Tensor] = []
    both.get_decoder().layers[0].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].detach())
    )
    both(**batch)
    method = Opm(both)
    hidden = []
    for seed in range(40):
        torch.manual_seed(seed)
        method.before_forward(batch)
        logits = both(**batch).logits
        answers = answer_loss(logits, batch["labels"])
        assert method.loss(answers, batch, logits) is answers
        assert method.rows.change is None  # an objective's own forward pass sees everything
        hidden.append([_image_is_hidden(both, seen[0], seen[-1], row) for row in range(2)])
    assert method.record() == {
        "score_image": 4.0,
        "score_text": 2.0,
        "q_image": pytest.approx(0.69040, abs=1e-5),
        "q_text": 0.0,
    }
    # 80 samples at 0.7 · 0.69 = 0.48: 39 ± 4.5, but steps that drop nothing come in pairs; three deviations of those
    assert 22 <= sum(map(sum, hidden)) <= 56
    assert [True, False] in hidden  # each sample is drawn for itself


def _image_is_hidden(model: Any, whole: torch.Tensor, seen: torch.Tensor, row: int) -> bool:
    """Say whether a sample's image rows are zero; all its other rows must be as without the method."""
    routing = last_routing(model)
    assert routing is not None
    image = routing.image_positions[row]
    image = image[image >= 0]
    rest = [at for at in range(whole.shape[1]) if at not in image.tolist()]
    assert torch.equal(seen[row, rest], whole[row, rest])
    is_hidden = not seen[row, image].any()
    assert is_hidden or torch.equal(seen[row, image], whole[row, image])
    return is_hidden
