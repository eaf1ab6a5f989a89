"""A vision tower that is opened when a picture comes: answers, what is open, threads, and bad values."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.cli.main import main
from moir_edge.errors import DataError
from moir_edge.runtime import sessions
from moir_edge.runtime.model import EdgeModel
from moir_edge.runtime.sessions import GraphSessions


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs that are opened, in order."""
    names: list[str] = []
    whole = sessions.open_graph

    def noted(bundle: Any, component: str, **options: Any) -> Any:
        names.append(component)
        return whole(bundle, component, **options)

    monkeypatch.setattr(sessions, "open_graph", noted)
    return names


def ids(model: EdgeModel, prompt: str, image: Any = None) -> list[int]:
    return list(model.generate(prompt, image, max_new_tokens=6).token_ids[0])


def test_the_tower_opens_with_the_first_picture(
    tiny_bundle: Path, opened: list[str], picture: Callable[..., Image.Image]
) -> None:
    whole = moir_edge.load(tiny_bundle, threads=1, provider="cpu")
    assert "vision" in opened
    opened.clear()
    lazy = moir_edge.load(tiny_bundle, threads=1, provider="cpu", lazy_vision=True)
    assert ids(lazy, "a red box") == ids(whole, "a red box")
    assert opened
    assert "vision" not in opened
    for size in ((40, 30), (30, 50)):
        image = picture(*size)
        assert ids(lazy, "a red box", image) == ids(whole, "a red box", image)
    assert opened.count("vision") == 1
    assert lazy.sessions.component_providers() == whole.sessions.component_providers()


def test_what_runs_the_tower_is_told_before_a_picture_came(
    tiny_bundle: Path, opened: list[str]
) -> None:
    lazy = moir_edge.load(tiny_bundle, threads=1, provider="cpu", lazy_vision=True)
    assert lazy.sessions.component_providers()["vision"] == "CPUExecutionProvider"
    assert opened.count("vision") == 1


def test_sessions_without_a_tower_tell_what_runs_the_rest(tiny_bundle: Path) -> None:
    whole = GraphSessions.of(open_bundle(tiny_bundle), threads=1)
    rest = {name: one for name, one in whole.components.items() if name != "vision"}
    told = GraphSessions(rest, whole.facts).component_providers()
    assert told == dict.fromkeys(rest, "CPUExecutionProvider")


def test_threads_that_ask_at_once_open_it_once(tiny_bundle: Path, opened: list[str]) -> None:
    bundle = open_bundle(tiny_bundle)
    lazy = GraphSessions.of(bundle, threads=1, lazy_vision=True)
    with ThreadPoolExecutor(8) as pool:
        towers = list(pool.map(lambda _: lazy._vision(), range(16)))
    assert len({id(one) for one in towers}) == 1
    assert opened.count("vision") == 1


def test_run_opens_no_tower_for_words_alone(
    tiny_bundle: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(tiny_bundle), "-p", "a red box", "--max-new-tokens", "2", "-q"]
    assert main([*words, "--provider", "cpu"]) == 0
    capsys.readouterr()
    assert opened
    assert "vision" not in opened


def test_a_wrong_value_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(DataError, match=r"^lazy_vision is 1 \(int\)"):
        moir_edge.load(tiny_bundle, lazy_vision=1)  # type: ignore[arg-type]
