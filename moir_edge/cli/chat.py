"""`moir-edge chat`: a conversation with a bundle in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moir_edge.cli.common_options import Verify, image_option, json_option
from moir_edge.cli.completions import complete_switch
from moir_edge.cli.conversation import COMMANDS, Conversation, complain
from moir_edge.cli.groups import with_groups
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.line_completion import complete_with_tab
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.provider_option import ProviderName
from moir_edge.cli.run import GenerationFlags, status_line
from moir_edge.cli.terminal import print_json, print_piece, say
from moir_edge.cli.threads_option import Threads
from moir_edge.errors import MoirEdgeError
from moir_edge.finite import json_text

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel, Generation

__all__ = ["register"]

_PROMPT = "> "


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("chat")(with_groups(chat))


def chat(
    *,
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    image: Annotated[
        list[Path] | None,
        image_option("Image file for the first message; repeatable."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="Text of the system's turn.")] = None,
    router: Annotated[
        str,
        typer.Option(
            help="Use of the router at the start: on or off.", autocompletion=complete_switch
        ),
    ] = "on",
    generation: GenerationFlags,
    max_image_pixels: MaxImagePixels = None,
    threads: Threads = None,
    provider: ProviderName = None,
    verify: Verify = True,
    quiet: Quiet = False,
    as_json: Annotated[
        bool, json_option("Print each answer, its tokens and the timings as one line of JSON.")
    ] = False,
) -> None:
    """Chat with a bundle in the terminal. Takes images by path and switches the router; /help in the chat lists its commands."""
    from moir_edge.errors import UnsupportedError
    from moir_edge.progress import single_step
    from moir_edge.runtime import load
    from moir_edge.runtime.image_cache import DEFAULT_IMAGE_CACHE_BYTES
    from moir_edge.runtime.images import read_image
    from moir_edge.runtime.prompt_cache import DEFAULT_PROMPT_CACHE_BYTES

    if router not in ("on", "off"):
        raise UnsupportedError(f"--router {router!r}: expected on or off")
    settings = generation.settings(router=router == "on")
    pictures = [(path, read_image(path)) for path in image or []]
    with show_progress("chat", quiet=quiet) as progress, single_step(progress, "loading"):
        model = load(
            bundle,
            threads=threads,
            provider=provider,  # type: ignore[arg-type]
            verify=verify,
            max_image_pixels=max_image_pixels,
            image_cache_bytes=DEFAULT_IMAGE_CACHE_BYTES,
            prompt_cache_bytes=DEFAULT_PROMPT_CACHE_BYTES,
            lazy_vision=not pictures,
        )
    opened = dict(pictures)
    talk = Conversation(
        model,
        settings,
        system=system,
        read=lambda path: opened.pop(path, None) or read_image(path),
        show=_hide if as_json else print_piece,
    )
    for path, _ in pictures:
        talk.add_image(path)
    _talk(model, talk, quiet=quiet, as_json=as_json)


def _talk(model: EdgeModel, talk: Conversation, *, quiet: bool, as_json: bool) -> None:
    """Take lines until there are none."""
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        complete_with_tab(COMMANDS)
        if not quiet:
            say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends the chat", err=True)
    goes_on, interrupted = True, False
    while goes_on:
        try:
            # Said here: a second Ctrl-C comes easily while the first is being answered.
            if interrupted:
                interrupted = False
                say("")
            goes_on = _turn(model, talk, _PROMPT if on_terminal else "", quiet, as_json)
        except KeyboardInterrupt:
            if not on_terminal:
                raise
            interrupted = True
    if on_terminal:
        say("")


def _turn(model: EdgeModel, talk: Conversation, prompt: str, quiet: bool, as_json: bool) -> bool:
    """Take one line and do what it asks for; False where the chat ends."""
    try:
        line = input(prompt).strip()
    except EOFError:
        return False
    try:
        if line.startswith("/"):
            return talk.command(line)
        if line:
            _answer(model, talk, line, quiet=quiet, as_json=as_json)
    except MoirEdgeError as error:
        complain(error)
    return True


def _answer(model: EdgeModel, talk: Conversation, line: str, *, quiet: bool, as_json: bool) -> None:
    answer = talk.ask(line)
    if as_json:
        if answer is not None:
            print_json(json_text(_record(model, talk, answer), ensure_ascii=False))
        return
    print_piece("\n")
    if answer is None:
        say("[stopped]", err=True)
        return
    if not quiet:
        say(status_line(model, answer, "on" if talk.settings.router else "off"), err=True)
    if talk.shows_map and answer.routing is not None:
        for text in talk.map_lines():
            say(text)


def _record(model: EdgeModel, talk: Conversation, answer: Generation) -> dict[str, object]:
    return {
        "text": answer.texts[0],
        "token_ids": list(answer.token_ids[0]),
        "finish_reason": answer.finish_reasons[0],
        "prompt_tokens": answer.prompt_tokens[0],
        "cached_tokens": answer.cached_tokens,
        "router": talk.settings.router and answer.routing is not None,
        "provider": model.sessions.provider,
        "timings": answer.timings.to_dict(),
    }


def _hide(piece: str) -> None:
    del piece
