"""Retrofit and run a tiny model of each vision-language class of transformers.

Every class of the image-text-to-text table is built from its own default config with small sizes and random weights.
`retrofit` asks its probe, which runs a forward and generates a token; where a picture can be made from the config alone,
the same is done with it, and the image features must stand in the embeddings that reach the router.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Result, markdown_table, new_parser, replace_between, run
from benchmarks.shrinking import build_tiny, family_types
from moir_edge.errors import MoirEdgeError, UnsupportedError
from moir_edge.models import architecture_names
from moir_edge.progress import Progress

__all__ = ["Verdict", "main", "measure", "table", "try_family"]

_MOST_TOKENS = 2000
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of one class.

    Attributes:
        model_type: Its type in transformers.
        retrofit: Whether `retrofit` accepts it; None where no tiny model could be built.
        picture: Whether a run with a picture said the same; None where no picture could be made from the config.
        export: Whether `moir-edge export` knows the type.
        reason: Why it was refused or not built.
    """

    model_type: str
    retrofit: bool | None
    picture: bool | None = None
    export: bool
    reason: str = ""


def try_family(model_type: str) -> Verdict:
    """Build a tiny model of a type, retrofit it and run it."""
    from moir_edge.router import RouterConfig, probe_router, retrofit

    known = model_type in architecture_names()
    try:
        model = build_tiny(model_type)
    except Exception as error:  # a config that shrinking does not fit; the table says so
        return Verdict(
            model_type=model_type, retrofit=None, export=known, reason=f"not built: {_line(error)}"
        )
    try:
        retrofit(model, RouterConfig(rank=4))
    except UnsupportedError as error:
        return Verdict(model_type=model_type, retrofit=False, export=known, reason=_line(error))
    picture = None
    for inputs in _pictures(model):
        try:
            probe_router(model, inputs)
            picture = True
            break
        except MoirEdgeError as error:
            if "fails on a short prompt" not in str(error):
                return Verdict(
                    model_type=model_type,
                    retrofit=True,
                    picture=False,
                    export=known,
                    reason=_line(error),
                )
    return Verdict(model_type=model_type, retrofit=True, picture=picture, export=known)


def _pictures(model: Any) -> Iterator[dict[str, Any]]:
    """Yield the inputs of one noisy picture in each layout that the model's encoder accepts."""
    import torch

    for given in _layouts(model.config):
        try:
            with torch.no_grad():
                features = model.get_image_features(**given).pooler_output
        except Exception:
            continue
        tokens = sum(item.reshape(-1, item.shape[-1]).shape[0] for item in features)
        image = int(model.config.image_token_id)
        words = [index for index in range(20, 40) if index != image][:4]
        if 0 < tokens < _MOST_TOKENS:
            ids = torch.tensor([[words[0], *[image] * tokens, *words[1:]]])
            prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            # Some classes need the kind of every token, others do not know the word.
            kinds = (ids == image).long()
            yield {**prompt, **given}
            yield {**prompt, **given, "mm_token_type_ids": kinds}
            yield {**prompt, **given, "token_type_ids": kinds}


def _layouts(config: Any) -> Iterator[dict[str, Any]]:
    """Yield a picture as classes take it: whole, in tiles, with its size, or as a row of patches with their grid."""
    import torch

    vision = getattr(config, "vision_config", None)
    patch = _side(getattr(vision, "patch_size", None))
    size = _side(getattr(vision, "image_size", None))
    if size is not None:
        sizes = torch.tensor([[size, size]])
        yield {"pixel_values": torch.randn(1, 3, size, size)}
        yield {"pixel_values": torch.randn(1, 1, 3, size, size)}
        yield {"pixel_values": torch.randn(1, 3, size, size), "image_sizes": sizes}
        yield {"pixel_values": torch.randn(1, 3, 3, size, size), "image_sizes": sizes}
    elif patch is None:  # a tower of convolutions takes any size
        yield {"pixel_values": torch.randn(1, 3, 128, 128)}
    if patch is not None:
        frames = getattr(vision, "temporal_patch_size", 1)
        yield {
            "pixel_values": torch.randn(64, 3 * frames * patch * patch),
            "image_grid_thw": torch.tensor([[1, 8, 8]]),
        }


def _side(value: Any) -> int | None:
    """Return a side that configs give as a number or as a pair."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, int) else None


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a Markdown table, those that take a router first."""
    order = {True: 0, False: 1, None: 2}
    return markdown_table(
        ("model_type", "retrofit", "with a picture", "export", "why not"),
        [
            (
                one.model_type,
                *map(_word, (one.retrofit, one.picture, one.export)),
                one.reason,
            )
            for one in sorted(verdicts, key=lambda item: (order[item.retrofit], item.model_type))
        ],
    )


def _word(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not tried"}[value]


def _line(error: BaseException) -> str:
    text = " ".join((str(error).strip() or type(error).__name__).split())
    return text if len(text) <= 200 else text[:199] + "…"


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Try every type and, if asked, write the table into a page.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    types = options.only or family_types()
    verdicts = []
    for at, model_type in enumerate(types):
        progress("types", at, len(types))
        verdicts.append(try_family(model_type))
    progress("types", len(types), len(types))
    text = table(verdicts)
    if options.docs is not None:
        replace_between(options.docs, BEGIN, END, text)
    return Result(text=text, record=[asdict(one) for one in verdicts])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("families", __doc__)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="types to try; all by default")
    parser.add_argument("--docs", type=Path, help="page whose table is replaced")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
