"""`moir-edge run`: a bundle answers a prompt about images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moir_edge.cli.common_options import Verify, image_option, json_option
from moir_edge.cli.completions import complete_selector, complete_switch
from moir_edge.cli.groups import Flags, values_of, with_groups
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.progress import Quiet, show_progress
from moir_edge.cli.provider_option import ProviderName
from moir_edge.cli.standard_input import read_pictures, read_prompt
from moir_edge.cli.terminal import print_json, print_piece, say
from moir_edge.cli.threads_option import Threads, ThreadWaitOption
from moir_edge.finite import json_text

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel, Generation, RoutingMap
    from moir_edge.runtime.settings import GenerationSettings

__all__ = ["GenerationFlags", "register", "status_line"]


@dataclass(frozen=True, kw_only=True)
class GenerationFlags(Flags):
    """Flags of an answer, named as the fields of `GenerationSettings` are."""

    argument: str = "settings"
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of the answer; by default the checkpoint's own limit, else 64."
        ),
    ] = None
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.0
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the most likely tokens up to this total probability; by default the "
            "checkpoint's value, else 1."
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Sample from this many most likely tokens, 0 for all; by default the checkpoint's "
            "value, else 0."
        ),
    ] = None
    seed: Annotated[int | None, typer.Option(help="Seed of sampling.")] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="String before which the answer ends; repeatable; by default the checkpoint's stop strings."
        ),
    ] = None
    prune_image_tokens: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the image tokens that the language model does not read, such as 0.25; by default 0.",
        ),
    ] = None
    prune_by: Annotated[
        str | None,
        typer.Option(
            help="Image tokens to drop: least density (the router's score; the default), norm, similarity (to kept ones) or random.",
            autocompletion=complete_selector,
        ),
    ] = None
    generation_config: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a key of the checkpoint's generation_config.json, such as "
            "repetition_penalty=1.1; null removes the key; repeatable.",
        ),
    ] = None
    ignore_generation_config: Annotated[
        bool,
        typer.Option(
            "--ignore-generation-config",
            help="Ignore the checkpoint's generation_config.json, except its end tokens.",
        ),
    ] = False

    def settings(self, *, router: bool) -> GenerationSettings:
        """Return the settings.

        Args:
            router: Let the router enrich the prompt.

        Raises:
            DataError: A value has a wrong type or is out of range.
            UnsupportedError: A key of the generation config that the runtime does not apply.
        """
        from moir_edge.runtime.settings import GenerationSettings

        own = {"router": router, "generation_config": parse_overrides(self.generation_config or [])}
        return GenerationSettings(**values_of(self) | own)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("run")(with_groups(run))


def run(
    *,
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    prompt: Annotated[
        str, typer.Option("-p", "--prompt", help="Prompt text; - reads it from standard input.")
    ],
    image: Annotated[
        list[Path] | None,
        image_option(
            "Image file; repeatable, in the order of the prompt; - reads an image from standard input."
        ),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Text to put before the prompt.")] = None,
    split_special_tokens: Annotated[
        bool,
        typer.Option(
            "--split-special-tokens",
            help="Encode control tokens in the prompt's words, such as <image>, as the ordinary text that they are.",
        ),
    ] = False,
    router: Annotated[
        str, typer.Option(help="Use of the router: on or off.", autocompletion=complete_switch)
    ] = "on",
    routing_map: Annotated[
        Path | None, typer.Option(help="Write the routing map to this PNG file.")
    ] = None,
    routing_json: Annotated[
        Path | None, typer.Option(help="Write the routing map to this JSON file.")
    ] = None,
    generation: GenerationFlags,
    stream: Annotated[bool, typer.Option(help="Print the answer as it is generated.")] = True,
    max_image_pixels: MaxImagePixels = None,
    threads: Threads = None,
    thread_wait: ThreadWaitOption = None,
    provider: ProviderName = None,
    verify: Verify = True,
    quiet: Quiet = False,
    as_json: Annotated[
        bool, json_option("Print the answer, its tokens and the timings as JSON.")
    ] = False,
) -> None:
    """Answer a prompt about images with a bundle. Needs neither torch nor transformers."""
    _check_options(router, image or [], [routing_map, routing_json])
    from moir_edge.runtime.chat import user_message

    # Everything that the user may have got wrong is found before the graphs are loaded.
    images = image or []
    prompt = read_prompt(prompt, images)
    user_message(prompt, images=len(images), context=context)
    pictures = read_pictures(images)
    settings = generation.settings(router=router == "on")
    from moir_edge.progress import single_step
    from moir_edge.runtime import load

    with show_progress("run", quiet=quiet) as progress, single_step(progress, "loading"):
        model = load(
            bundle,
            threads=threads,
            provider=provider,  # type: ignore[arg-type]
            verify=verify,
            split_special_tokens=split_special_tokens,
            lazy_vision=not images,
        )
    text = model.stream(prompt, pictures, context=context, settings=settings)
    show_pieces = stream and not as_json
    _read(text, show=show_pieces)
    if show_pieces:
        print_piece("\n")
    off = ""
    if routing_map is not None and text.result.routing is not None:
        # The picture shows what the router changed in the answer.
        without = replace(settings, router=False, prune_image_tokens=0.0)
        off = "".join(model.stream(prompt, pictures, context=context, settings=without))
    _write_maps(model, text.result, off, pictures, routing_map, routing_json)
    if as_json:
        answer = _as_dict(model, text.result, bundle, router)
        print_json(answer)
        return
    if not show_pieces:
        print_piece(f"{text.result.texts[0]}\n")
    say(status_line(model, text.result, router), err=True)


def _check_options(router: str, images: list[Path], maps: list[Path | None]) -> None:
    from moir_edge.errors import DataError, UnsupportedError

    if router not in ("on", "off"):
        raise UnsupportedError(f"--router {router!r}: expected on or off")
    for path in filter(None, maps):
        if router == "off":
            raise DataError(f"{path} needs the router; leave out --router off")
        if not images:
            raise DataError("a routing map needs an image and a prompt; give at least one --image")
        if not path.absolute().parent.is_dir():
            raise DataError(f"cannot write {path}: {path.parent} is not a folder; make it first")
        from moir_edge.whole_files import check_file

        check_file(path)


def parse_overrides(options: list[str]) -> dict[str, Any]:
    """Return ``{"repetition_penalty": 1.1}`` from ``["repetition_penalty=1.1"]``; values are JSON, or else text.

    Raises:
        DataError: An option without ``=``.
    """
    from moir_edge.errors import DataError

    parsed: dict[str, Any] = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise DataError(f"--set {option!r}: expected KEY=VALUE, such as repetition_penalty=1.1")
        try:
            parsed[key] = json.loads(value)
        except ValueError:
            parsed[key] = value
    return parsed


def _read(pieces: Iterable[str], *, show: bool) -> None:
    """Take the answer to its end, printing it on the way."""
    for piece in pieces:
        if show:
            print_piece(piece)


def _write_maps(
    model: EdgeModel,
    generation: Generation,
    without_router: str,
    pictures: list[Any],
    png: Path | None,
    json_file: Path | None,
) -> None:
    if png is None and json_file is None:
        return
    from moir_edge.whole_files import write_whole

    routing = _only_map(model, generation)
    if json_file is not None:
        data = json_text(routing.to_dict(), indent=1, ensure_ascii=False) + "\n"
        write_whole(json_file, data)
    if png is not None:
        from io import BytesIO

        from moir_edge.runtime.routing_picture import draw_routing_map

        buffer = BytesIO()
        answers = generation.texts[0], without_router
        draw_routing_map(routing, pictures, answers=answers).save(buffer, format="PNG")
        write_whole(png, buffer.getvalue())


def _only_map(model: EdgeModel, generation: Generation) -> RoutingMap:
    from moir_edge.errors import DataError, UnsupportedError

    if generation.routing is not None:
        return generation.routing[0]
    if not model.sessions.has_router:
        raise UnsupportedError(
            f"{model.bundle.path} holds no router, so a routing map cannot be made; "
            "export a retrofitted checkpoint"
        )
    raise DataError("a routing map needs an image and a prompt; give at least one --image")


def _as_dict(model: EdgeModel, generation: Generation, bundle: Path, router: str) -> dict[str, Any]:
    from moir_edge.runtime.generation_config import not_carried
    from moir_edge.runtime.timing import peak_memory_bytes

    return {
        "bundle": str(bundle),
        "text": generation.texts[0],
        "token_ids": list(generation.token_ids[0]),
        "finish_reason": generation.finish_reasons[0],
        "prompt_tokens": generation.prompt_tokens[0],
        "dropped_image_tokens": generation.dropped_image_tokens[0],
        "router": router == "on" and generation.routing is not None,
        "not_carried": list(not_carried(model.generation_config).values()),
        "provider": model.sessions.provider,
        "backend": model.sessions.backend,
        "timings": generation.timings.to_dict(),
        "peak_memory_bytes": peak_memory_bytes(),
        "device_memory_bytes": model.sessions.memory(),
    }


def status_line(model: EdgeModel, generation: Generation, router: str) -> str:
    """Return sizes and times of an answer as one line.

    Args:
        model: The bundle that answered.
        generation: The answer.
        router: ``on`` or ``off``.
    """
    timings = generation.timings
    speed = timings.tokens_per_second
    dropped = generation.dropped_image_tokens[0]
    known = f" ({generation.cached_tokens} known)" if generation.cached_tokens else ""
    parts = [
        f"{generation.prompt_tokens[0]} prompt tokens{known}",
        *([f"{dropped} image tokens dropped"] if dropped else []),
        f"{len(generation.token_ids[0])} generated",
        f"first token {timings.ttft_ms:.1f} ms (vision {timings.vision_ms:.1f}, "
        f"router {timings.router_ms:.1f}, prefill {timings.prefill_ms:.1f})",
        *([f"{speed:.1f} tok/s"] if speed else []),
        f"router {router if model.sessions.has_router else 'absent'}",
        model.sessions.provider,
    ]
    return "[" + " · ".join(parts) + "]"
