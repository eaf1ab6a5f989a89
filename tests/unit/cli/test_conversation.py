"""A conversation keeps its turns and images, and nothing of a message that fails or an answer that is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moir_edge.cli.conversation import Conversation
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.settings import GenerationSettings


@dataclass
class Model:
    """Answers with the number of turns that it was given; refuses ``bad``, and is interrupted at ``stop``."""

    router: bool = True
    asked: list[tuple[list[dict[str, Any]], list[str], bool]] = field(default_factory=list)

    @property
    def sessions(self) -> Any:
        return SimpleNamespace(has_router=self.router)

    @property
    def bundle(self) -> Any:
        return SimpleNamespace(path=Path("b"))

    def stream(self, turns: Any, images: Any, *, settings: GenerationSettings) -> Any:
        text = turns[-1]["content"][-1]["text"]
        if text == "bad":
            raise DataError("a bad message")
        self.asked.append((turns, list(images), settings.router))
        return Pieces(len(turns), stop=text == "stop")


class Pieces(Iterator[str]):
    def __init__(self, turns: int, *, stop: bool) -> None:
        self._pieces = iter(["turn ", str(turns)])
        self._stop = stop
        self.result = SimpleNamespace(routing=None)

    def __next__(self) -> str:
        piece = next(self._pieces)
        if self._stop and piece != "turn ":
            raise KeyboardInterrupt
        return piece


@pytest.fixture
def shown() -> list[str]:
    return []


def start(model: Model, shown: list[str], system: str | None = None) -> Conversation:
    return Conversation(
        model,  # type: ignore[arg-type]
        GenerationSettings(),
        system=system,
        read=lambda path: f"image of {path}",  # type: ignore[arg-type,return-value]
        show=shown.append,
    )


def test_each_answer_sees_all_turns_and_images(shown: list[str]) -> None:
    model = Model()
    talk = start(model, shown, "Be short.")
    talk.command("/image a.png")
    talk.ask("one")
    talk.command("/image 'b c.png'")
    talk.command("/router off")
    talk.ask("two")
    turns, images, router = model.asked[-1]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == [{"type": "text", "text": "turn 2"}]
    assert [part["type"] for part in turns[3]["content"]] == ["image", "text"]
    assert images == ["image of a.png", "image of b c.png"]
    assert not router
    assert "".join(shown) == "turn 2turn 4"


def test_a_message_that_fails_leaves_no_turn_and_keeps_its_image(shown: list[str]) -> None:
    model = Model()
    talk = start(model, shown)
    talk.command("/image a.png")
    with pytest.raises(DataError, match="a bad message"):
        talk.ask("bad")
    talk.ask("good")
    turns, images, _ = model.asked[-1]
    assert len(turns) == 1
    assert images == ["image of a.png"]


def test_a_stopped_answer_keeps_what_was_said(shown: list[str]) -> None:
    model = Model()
    talk = start(model, shown)
    assert talk.ask("stop") is None
    talk.ask("go on")
    assert model.asked[-1][0][1]["content"][0]["text"] == "turn "


def test_new_forgets_all_but_the_system_turn(shown: list[str]) -> None:
    model = Model()
    talk = start(model, shown, "Be short.")
    talk.command("/image a.png")
    talk.ask("one")
    talk.command("/new")
    talk.ask("two")
    turns, images, _ = model.asked[-1]
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert images == []


def test_commands_that_cannot_be_obeyed(shown: list[str]) -> None:
    talk = start(Model(router=False), shown)
    with pytest.raises(UnsupportedError, match="b holds no router"):
        talk.command("/router off")
    with pytest.raises(UnsupportedError, match="b holds no router"):
        talk.command("/map")
    with pytest.raises(DataError, match="`/image` needs the path of an image file"):
        talk.command("/image")
    with pytest.raises(DataError, match="`/map maybe`: expected on or off"):
        talk.command("/map maybe")
    assert not talk.command("/quit")
