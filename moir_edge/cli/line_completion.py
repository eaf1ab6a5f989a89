"""Completion of a line of the chat by the tab key: its commands, and paths after `/image`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["complete_line", "complete_with_tab"]

_IMAGE = "/image "


def complete_line(line: str, commands: Iterable[str]) -> list[str]:
    """Return the whole lines that a line may become.

    Args:
        line: As typed so far.
        commands: Lines that are known, such as ``/router on``.
    """
    if line.startswith(_IMAGE):
        return [_IMAGE + path for path in _paths(line.removeprefix(_IMAGE))]
    return [one for one in commands if line.startswith("/") and one.startswith(line)]


def complete_with_tab(commands: Iterable[str]) -> None:
    """Let the tab key complete lines that `input` reads; nothing happens where Python has no readline."""
    try:
        import readline
    except ImportError:  # Windows
        return
    known = list(commands)

    def choose(line: str, state: int) -> str | None:
        found = complete_line(line, known)
        return found[state] if state < len(found) else None

    readline.set_completer_delims("")  # the completer sees the whole line
    readline.set_completer(choose)
    # The editing library of macOS has another word for it.
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")


def _paths(beginning: str) -> list[str]:
    """Return the files and folders whose paths begin so; folders end with a slash."""
    folder, slash, name = beginning.rpartition("/")
    at = Path(f"{folder}{slash}" or ".").expanduser()
    found: list[str] = []
    with suppress(OSError):
        for path in sorted(at.iterdir()):
            if path.name.startswith(name) and (name or not path.name.startswith(".")):
                found.append(f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}")
    return found
