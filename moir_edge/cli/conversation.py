"""A conversation in a terminal: its turns and images, the router's switch, and the commands that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moir_edge.cli.terminal import print_piece, say
from moir_edge.errors import DataError, MoirEdgeError, UnsupportedError, closest

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel, Generation
    from moir_edge.runtime.images import ImageInput
    from moir_edge.runtime.settings import GenerationSettings

__all__ = ["COMMANDS", "HELP", "Conversation", "complain"]

HELP = {
    "/image PATH": "add an image to the next message",
    "/router on|off": "switch the router for the next answers",
    "/map": "show the routing map of the last answer",
    "/map on|off": "show it after each answer",
    "/history": "show the conversation",
    "/new": "forget the conversation and its images",
    "/help": "show these lines",
    "/quit": "end the chat; Ctrl-D does too",
}

COMMANDS = (
    "/help", "/history", "/image ", "/map", "/map off", "/map on", "/new", "/quit", "/router off", "/router on",
)  # fmt: skip
"""Lines that the tab key completes."""


class Conversation:
    """Turns with a bundle; every answer sees all turns before it.

    Args:
        model: The loaded bundle.
        settings: How answers are generated.
        system: The system's turn; None for none.
        read: Opens an image file.
        show: Takes the pieces of an answer as they come.
    """

    def __init__(
        self,
        model: EdgeModel,
        settings: GenerationSettings,
        *,
        system: str | None,
        read: Callable[[Path], ImageInput],
        show: Callable[[str], None] = print_piece,
    ) -> None:
        self._model = model
        self.settings = settings
        self._read = read
        self._show = show
        self._opening = [] if system is None else [_turn("system", system)]
        self._turns: list[dict[str, Any]] = list(self._opening)
        self._images: list[ImageInput] = []
        self._waiting: list[tuple[Path, ImageInput]] = []
        self._last: Generation | None = None
        self._map_each = False

    def add_image(self, path: Path) -> None:
        """Add an image to the next message.

        Raises:
            DataError: The file cannot be used.
        """
        self._waiting.append((path, self._read(path)))

    def ask(self, text: str) -> Generation | None:
        """Answer a message, piece by piece; an interrupt keeps what was said so far.

        Returns:
            The answer with its timings; None where it was interrupted.

        Raises:
            MoirEdgeError: The message cannot be answered; the conversation is as before, and its images wait again.
        """
        images = [image for _, image in self._waiting]
        turns = [*self._turns, _turn("user", text, images=len(images))]
        stream = self._model.stream(turns, [*self._images, *images], settings=self.settings)
        said: list[str] = []
        self._last = None
        with suppress(KeyboardInterrupt):
            for piece in stream:
                said.append(piece)
                self._show(piece)
            self._last = stream.result
        self._turns = [*turns, _turn("assistant", "".join(said))]
        self._images += images
        self._waiting = []
        return self._last

    @property
    def shows_map(self) -> bool:
        """Whether the routing map is shown after each answer."""
        return self._map_each

    def command(self, line: str) -> bool:
        """Obey a line that begins with a slash.

        Returns:
            Whether the chat goes on.

        Raises:
            MoirEdgeError: There is no such command, or it cannot be obeyed.
        """
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/router": self._router,
            "/map": self._map,
            "/history": lambda _: _print(self._told()),
            "/new": lambda _: self._forget(),
            "/help": lambda _: _print(f"{key:<16} {text}" for key, text in HELP.items()),
        }
        if name in ("/quit", "/exit"):
            return False
        if name not in commands:
            raise DataError(f"there is no command {name!r}: {closest(name, [*commands, '/quit'])}")
        commands[name](argument)
        return True

    def map_lines(self) -> list[str]:
        """Return the routing map of the last answer.

        Raises:
            DataError: There is no answer, or the router had nothing to do in it.
            UnsupportedError: The bundle holds no router.
        """
        from moir_edge.runtime.routing_text import routing_lines

        if not self._model.sessions.has_router:
            raise UnsupportedError(f"{self._model.bundle.path} holds no router")
        if self._last is None:
            raise DataError("there is no answer to show a map of; ask something first")
        if self._last.routing is None:
            reason = "the router was off" if not self.settings.router else "it had no image"
            raise DataError(f"the last answer has no routing map: {reason}")
        return routing_lines(self._last.routing[0])

    def _image(self, argument: str) -> None:
        if not argument:
            raise DataError("`/image` needs the path of an image file, as in `/image photo.jpg`")
        self.add_image(Path(argument.strip("'\"")).expanduser())
        count = len(self._waiting)
        say(f"{count} image{'' if count == 1 else 's'} for the next message", err=True)

    def _router(self, argument: str) -> None:
        if not self._model.sessions.has_router:
            raise UnsupportedError(f"{self._model.bundle.path} holds no router")
        self.settings = replace(self.settings, router=_switch("/router", argument))

    def _map(self, argument: str) -> None:
        if argument:
            self._map_each = _switch("/map", argument)
        else:
            _print(self.map_lines())

    def _forget(self) -> None:
        self._turns, self._images, self._waiting = list(self._opening), [], []
        self._last = None

    def _told(self) -> Iterable[str]:
        """Give the turns, a line each."""
        for turn in self._turns:
            images = sum(part["type"] == "image" for part in turn["content"])
            text = turn["content"][-1]["text"]
            marks = f" [{images} image{'' if images == 1 else 's'}]" if images else ""
            yield f"{turn['role']}:{marks} {text}"
        for path, _ in self._waiting:
            yield f"(for the next message: {path})"


def complain(error: MoirEdgeError) -> None:
    """Print an error and go on."""
    say(f"error: {error}", err=True)


def _turn(role: str, text: str, *, images: int = 0) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def _switch(command: str, argument: str) -> bool:
    if argument not in ("on", "off"):
        raise DataError(f"`{command} {argument}`: expected on or off")
    return argument == "on"


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)
