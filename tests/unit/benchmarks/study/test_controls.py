"""Controls of the router's size: how large, what they look up, and that they are trained and measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.study.arms import EQUAL, EQUAL_LORA, KEPT, MAIN, WINNER, Arm
from benchmarks.study.control_training import attach_control
from benchmarks.study.controls import (
    ROUTERS,
    become,
    equal_config,
    lora_ranks,
    router_weights,
)
from benchmarks.study.runs import Job, read_run, run_jobs
from benchmarks.study.settings import StudySettings
from benchmarks.study.training import Trained, base_checkpoint, train_arm
from moir_edge.checkpoint import load_checkpoint
from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
from moir_edge.errors import DataError
from moir_edge.progress import silent
from moir_edge.router import RouterConfig, TokenRouter

HIDDEN, IMAGES, TEXTS = 192, 9, 5
TINY = StudySettings(steps=2, batch_size=2, train_rows=4, test_rows=6, attention_rows=3)


def _config() -> RouterConfig:
    assert WINNER.router is not None
    return WINNER.router


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_checkpoint(checkpoint_path(), tmp_path_factory.mktemp("study") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(demo_rows("val", count=4), tmp_path_factory.mktemp("rows"))


@pytest.fixture
def inputs() -> tuple[Tensor, ...]:
    """Embeddings, image positions, text positions and mask of two samples; the second has a word less."""
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, IMAGES + TEXTS, HIDDEN, generator=generator)
    images = torch.arange(IMAGES).expand(2, -1)
    texts = torch.arange(IMAGES, IMAGES + TEXTS).expand(2, -1)
    mask = torch.ones(2, TEXTS, dtype=torch.bool)
    mask[1, -1] = False
    return embeds, images, texts, mask


def _control(name: str) -> TokenRouter:
    torch.manual_seed(1)
    router = TokenRouter(equal_config(_config(), HIDDEN, name), HIDDEN).eval()
    torch.nn.init.normal_(router.text.up.weight, std=0.1)
    become(router, name)
    return router


def test_sizes_are_the_routers_within_some_per_cent(base: Path) -> None:
    assert router_weights(_config(), HIDDEN) == 16_514
    sizes = {
        name: router_weights(equal_config(_config(), HIDDEN, name), HIDDEN, name)
        for name in ROUTERS
    }
    assert sizes == {"own-modality": 16_514, "random-sources": 16_705, "no-look-up": 16_705}
    model = load_checkpoint(base, exported=False).model
    assert lora_ranks(model, 16_514) == {
        "q_proj": 2, "k_proj": 1, "v_proj": 2, "o_proj": 1, "gate_proj": 1, "up_proj": 1, "down_proj": 1,
    }  # fmt: skip
    # half of it is less than rank 1 of every layer: some kinds get an adapter, the others none
    assert lora_ranks(model, 8_000) == {
        "q_proj": 1, "v_proj": 1, "down_proj": 1, "k_proj": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", ROUTERS)
def test_the_weights_that_are_counted_are_those_that_learn(
    name: str, inputs: tuple[Tensor, ...]
) -> None:
    router = _control(name).train()
    router(*inputs).inputs_embeds.square().sum().backward()
    reached = {n for n, item in router.named_parameters() if item.grad is not None}
    assert reached == {n for n, item in router.named_parameters() if item.requires_grad}


@pytest.mark.parametrize("name", ROUTERS)
def test_a_fresh_control_changes_no_bit(name: str, inputs: tuple[Tensor, ...]) -> None:
    router = _control(name)
    torch.nn.init.zeros_(router.text.up.weight)
    assert torch.equal(router(*inputs).inputs_embeds, inputs[0])


def test_words_look_up_words_and_no_picture(inputs: tuple[Tensor, ...]) -> None:
    router = _control("own-modality")
    embeds, images, texts, mask = inputs
    output = router(*inputs)
    found = output.indices[:, IMAGES:]
    assert set(found[0].unique().tolist()) <= {*range(IMAGES, IMAGES + TEXTS), -1}
    assert found[0, 0].tolist()[:TEXTS] != [-1] * TEXTS
    other = embeds.clone()
    other[:, :IMAGES] += 1
    again = router(other, images, texts, mask)
    assert torch.equal(again.inputs_embeds[:, IMAGES:], output.inputs_embeds[:, IMAGES:])


def test_random_sources_are_valid_even_and_drawn_alike_at_each_evaluation(
    inputs: tuple[Tensor, ...],
) -> None:
    router = _control("random-sources")
    embeds, images, texts, mask = inputs
    images = images.clone()
    images[1, 3:] = -1
    output = router(embeds, images, texts, mask)
    found = output.indices[:, IMAGES:]
    assert all(len(set(row.tolist())) == 8 for row in found[0])
    assert len({tuple(sorted(row.tolist())) for row in found[0]}) > 1
    for row in found[1, : TEXTS - 1]:
        assert sorted(row.tolist()) == [-1] * 5 + [0, 1, 2]
    # three sources, each a third
    values = embeds[1, :3] @ router.image.down.weight.T
    normal = router.text.norm(embeds[1, IMAGES])
    context = values.mean(dim=0) + router.text.own(normal)
    expected = embeds[1, IMAGES] + output.gate[1, IMAGES] * router.text.up(context)
    torch.testing.assert_close(output.inputs_embeds[1, IMAGES], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(router(embeds, images, texts, mask).indices, output.indices)
    router.train()
    assert not torch.equal(router(embeds, images, texts, mask).indices, output.indices)


def test_an_adapter_looks_nothing_up(inputs: tuple[Tensor, ...]) -> None:
    router = _control("no-look-up")
    embeds, *_ = inputs
    output = router(*inputs)
    assert (output.indices == -1).all()
    row = embeds[0, IMAGES]
    normal = router.text.norm(row)
    gate = 1 - torch.sigmoid(router.text.head(normal))
    expected = row + gate * router.text.up(router.text.own(normal))
    torch.testing.assert_close(output.inputs_embeds[0, IMAGES], expected)
    assert torch.equal(output.inputs_embeds[:, :IMAGES], embeds[:, :IMAGES])


def test_other_routers_are_no_ground_for_a_control() -> None:
    router = TokenRouter(RouterConfig(rank=4), HIDDEN)
    with pytest.raises(DataError) as refused:
        become(router, "no-look-up")
    assert str(refused.value) == (
        "a control is made of a router with merge concat and direction image-to-text, not add and both"
    )


def _train(arm: Arm, base: Path, data: Path, folder: Path) -> Trained:
    return train_arm(arm, 0, TINY, base=base, data=data, folder=folder, progress=silent)


@pytest.mark.parametrize("arm", [*KEPT, *EQUAL], ids=lambda arm: arm.name)
def test_every_arm_trains_its_own_weights_and_is_made_whole_again(
    arm: Arm, base: Path, data: Path, tmp_path: Path
) -> None:
    trained = _train(arm, base, data, tmp_path)
    assert trained.parameters == pytest.approx(16_514, rel=0.02)
    assert trained.losses is not None
    before, after = (
        load_checkpoint(folder, exported=False).model for folder in (base, trained.folder)
    )
    attach_control(after, frozenset(), trained.folder)
    stays = {name: value for name, value in after.state_dict().items() if "moir_router" not in name}
    changed = {name for name, value in before.state_dict().items() if not stays[name].equal(value)}
    if arm.control == EQUAL_LORA:
        assert changed
        assert all("_proj" in name for name in changed)
        return
    assert not changed
    assert type(after.moir_router) is ROUTERS.get(str(arm.control), TokenRouter)
    assert after.moir_router.text.up.weight.abs().max() > 0
    # nothing of the training stays in the config
    assert after.config.use_cache == before.config.use_cache


def test_a_control_is_measured(base: Path, data: Path, tmp_path: Path) -> None:
    """One arm through the study's own run, on few rows; the words of the picture must not be read."""
    arm = next(one for one in EQUAL if one.control == "no-look-up")
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "train").symlink_to(data.parent)
    write_jsonl(demo_rows("val", count=6, seed=3), tmp_path / "test")
    job = Job(arm=arm, seed=0, settings=TINY, folder=tmp_path, records=tmp_path)
    run_jobs([job], processes=1, threads=1, progress=silent)
    run = read_run(job.record)
    assert (run.arm, run.parameters) == ("no-look-up", 16_705)
    blank, absent = {"image-blank", "text-blank"}, {"image-absent", "context-absent"}
    assert set(run.scores) == {"clean", TINY.blur, TINY.dropout} | blank | absent


def test_arms_have_names_of_their_own_and_the_decisive_ones_one_objective() -> None:
    names = [arm.name for arm in MAIN]
    assert len(set(names)) == len(names)
    assert len({arm.keep_clean for arm in (*KEPT, *EQUAL)}) == 1
    assert all(arm.router == WINNER.router for arm in EQUAL)
