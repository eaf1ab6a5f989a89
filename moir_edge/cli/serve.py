"""`moir-edge serve`: bundles behind OpenAI's chat API, with metrics and a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moir_edge.cli.common_options import PruneBy, json_option
from moir_edge.cli.image_option import MaxImagePixels
from moir_edge.cli.progress import Quiet
from moir_edge.cli.provider_option import ProviderName
from moir_edge.cli.terminal import print_json, say
from moir_edge.cli.threads_option import Threads, ThreadWaitOption

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel
    from moir_edge.serve.settings import ServeSettings

__all__ = ["register"]

_KEY = "MOIR_EDGE_API_KEY"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("serve")(serve)


def serve(
    *,
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE…", help="Bundle folders; each is a model of its own."),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name of a model, in the order of the bundles; by default the folder's."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default this machine alone can connect.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help=f"File that holds the key which clients send as a bearer token; by default {_KEY}, else none."
        ),
    ] = None,
    allow_image_host: Annotated[
        list[str] | None,
        typer.Option(help="Host whose image URLs are fetched; repeatable; by default none."),
    ] = None,
    allow_image_folder: Annotated[
        Path | None,
        typer.Option(help="Folder whose files may be named by file URLs; by default none."),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=0, help="Requests that wait for the device at most.")
    ] = 16,
    batch: Annotated[
        int,
        typer.Option(
            min=1,
            help="Waiting requests with the same settings that are answered together at most; above 1, rounding may "
            "change a token.",
        ),
    ] = 1,
    image_cache: Annotated[
        int,
        typer.Option(
            min=0,
            max=65536,
            metavar="MB",
            help="Image features of earlier requests that each model keeps, in MB; 0 keeps none.",
        ),
    ] = 64,
    prompt_cache: Annotated[
        int,
        typer.Option(
            min=0,
            max=65536,
            metavar="MB",
            help="Keys and values of earlier prompts that each model keeps, in MB; a prompt that goes on from one of them runs "
            "what is new. 0 keeps none.",
        ),
    ] = 256,
    prune_image_tokens: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the image tokens that the language model does not read, such as 0.25.",
        ),
    ] = 0.0,
    prune_by: PruneBy = "density",
    timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds from a request to the end of its answer, at most."),
    ] = 300.0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds for requests that run when the server stops.")
    ] = 30.0,
    provider: ProviderName = None,
    threads: Threads = None,
    thread_wait: ThreadWaitOption = None,
    max_image_pixels: MaxImagePixels = None,
    as_json: Annotated[
        bool,
        json_option("Print the URL and the names of the models as JSON once the server listens."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Serve bundles over OpenAI's chat API. Metrics for Prometheus are at /metrics, and a page at / asks and shows the routing map."""
    from moir_edge.environment import require

    for package in ("starlette", "uvicorn", "prometheus_client"):
        require(package, extra="serve")
    from moir_edge.serve.images import ImageSources
    from moir_edge.serve.running import run_server
    from moir_edge.serve.settings import LOOPBACK, ServeSettings

    here_alone = host in LOOPBACK
    settings = ServeSettings(
        api_key=_key(api_key_file),
        host_names=LOOPBACK if here_alone else None,
        images=ImageSources(
            hosts=tuple(one.lower() for one in allow_image_host or ()),
            folder=allow_image_folder,
            max_pixels=max_image_pixels,
        ),
        most_waiting=queue,
        most_together=batch,
        timeout=timeout,
        grace=grace,
    )
    models = _models(
        bundles,
        name or [],
        provider,
        threads,
        max_image_pixels,
        image_cache_bytes=image_cache << 20,
        prompt_cache_bytes=prompt_cache << 20,
        prune_image_tokens=prune_image_tokens,
        prune_by=prune_by,
    )

    def started(url: str) -> None:
        if not quiet:
            _tell(url, models, settings, exposed=not here_alone)
        if as_json:
            print_json({"url": url, "models": list(models)})

    run_server(models, settings, host=host, port=port, started=started)


def _models(
    bundles: list[Path],
    names: list[str],
    provider: str | None,
    threads: int | None,
    max_image_pixels: int | None,
    **options: Any,
) -> dict[str, EdgeModel]:
    """Load every bundle under its name; `options` are further ones of `moir_edge.load`."""
    from moir_edge import load
    from moir_edge.errors import DataError

    chosen = names or [bundle.resolve().name for bundle in bundles]
    if len(chosen) != len(bundles):
        raise DataError(f"{len(chosen)} --name for {len(bundles)} bundle(s); give one for each")
    for one in chosen:
        if chosen.count(one) > 1:
            raise DataError(f"two bundles have the name {one!r}; give each a --name of its own")
    return {
        one: load(
            bundle,
            provider=provider,  # type: ignore[arg-type]
            threads=threads,
            max_image_pixels=max_image_pixels,
            **options,
        )
        for one, bundle in zip(chosen, bundles, strict=True)
    }


def _key(file: Path | None) -> str | None:
    from moir_edge.errors import DataError, one_line

    if file is None:
        return os.environ.get(_KEY) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the file of the API key cannot be read ({one_line(error)}); give a text file"
        ) from None
    if not key:
        raise DataError(f"the file of the API key, {file}, is empty; write the key into it")
    return key


def _tell(
    url: str, models: dict[str, EdgeModel], settings: ServeSettings, *, exposed: bool
) -> None:
    for name, model in models.items():
        manifest = model.manifest
        say(
            f"{name}: {manifest.model.model_type}, {manifest.precision}, {model.sessions.backend}",
            err=True,
        )
    say(f"listening on {url} (page at {url}/, API at {url}/v1); Ctrl-C ends it", err=True)
    if exposed and settings.api_key is None:
        say(
            f"note: other machines can connect and no key is asked for; set {_KEY} or --api-key-file",
            err=True,
        )
