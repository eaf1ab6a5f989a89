"""The arms with a balance method, or with missing modalities, train the router, and it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.study.arms import BALANCED, MAIN, MISSING, WINNER, Arm
from benchmarks.study.settings import StudySettings
from benchmarks.study.training import base_checkpoint, train_arm
from moir_edge.checkpoint import load_checkpoint
from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl
from moir_edge.progress import silent
from moir_edge.tuning import BALANCE_METHODS

TINY = StudySettings(steps=2, batch_size=2, train_rows=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_checkpoint(checkpoint_path(), tmp_path_factory.mktemp("study") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(demo_rows("val", count=4), tmp_path_factory.mktemp("rows"))


def test_every_balance_method_has_an_arm() -> None:
    used = {arm.balance for arm in (*MAIN, *BALANCED)} - {None}
    # the hybrid is the other two at once
    assert used == set(BALANCE_METHODS) - {"mwam-hybrid"}


@pytest.mark.parametrize("arm", [*BALANCED, MISSING[0]], ids=lambda arm: arm.name)
def test_an_arm_trains_the_router_alone(arm: Arm, base: Path, data: Path, tmp_path: Path) -> None:
    trained = train_arm(arm, 0, TINY, base=base, data=data, folder=tmp_path, progress=silent)
    assert trained.losses is not None
    before, after = (
        load_checkpoint(folder, exported=False).model for folder in (base, trained.folder)
    )
    stays = before.state_dict()
    for name, value in after.state_dict().items():
        assert name.startswith("moir_router.") or stays[name].equal(value), name
    enriched = [after.moir_router.text]
    if arm.router != WINNER.router:
        enriched.append(after.moir_router.image)
    assert all(side.up.weight.abs().max() > 0 for side in enriched)
    router = sum(weight.numel() for weight in after.moir_router.parameters())
    assert trained.parameters == router
