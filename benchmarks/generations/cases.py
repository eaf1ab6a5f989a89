"""The prompts, the pictures of odd shapes and modes, and the generation configs that every checkpoint answers under."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["SETTINGS", "Case", "cases", "write_pictures"]

NEW_TOKENS = 14
_BASE: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "repetition_penalty below 1": {"repetition_penalty": 0.8},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[token] for token in range(60, 200)] + [[210, 220]]},
    "sequence_bias": {"sequence_bias": [[[token], 4.0] for token in range(80, 110)]},
    "min_new_tokens": {"min_new_tokens": 9, "eos_token_id": list(range(2, 160))},
    "min_length": {"min_length": 40, "eos_token_id": list(range(2, 160))},
    "eos_token_id list": {"eos_token_id": [2, *range(100, 320)]},
    "forced_eos_token_id": {"forced_eos_token_id": 2},
    "suppress_tokens": {"suppress_tokens": list(range(70, 240))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(4, 240))},
    "exponential_decay": {"exponential_decay_length_penalty": [3, 1.7]},
    "max_new_tokens": {"max_new_tokens": 5},
    "max_length": {"max_length": 400, "forced_eos_token_id": 2, "exponential_decay_length_penalty": [2, 1.5]},
    "stop_strings": {"stop_strings": ["<row_1_col_1>", "e", "o", "t", "<global-img>", "1", "k"]},
    "several": {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 4, "suppress_tokens": [5, 6, 90],
        "bad_words_ids": [[91], [92, 93]], "renormalize_logits": True, "remove_invalid_values": True,
        "do_sample": True, "temperature": 0.6, "top_k": 5,
    },
}  # fmt: skip
"""Name to generation config. Those that hold no length are run for `NEW_TOKENS`."""

_PROMPTS = (
    "What is left of the cup?",
    "Name both, in 1 word: ünïcode 漢字?",
    "x",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One generation.

    Attributes:
        setting: Key of `SETTINGS`.
        prompt: What is asked.
        pictures: Names of the image files, in order.
        max_new_tokens: None leaves the length to the setting.
    """

    setting: str
    prompt: str
    pictures: tuple[str, ...]
    max_new_tokens: int | None

    @property
    def config(self) -> dict[str, Any]:
        """The content of `generation_config.json`."""
        return {**_BASE, **SETTINGS[self.setting]}


def write_pictures(folder: Path) -> tuple[str, ...]:
    """Write the image files and return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise).resize((42, 30), Image.Resampling.BICUBIC)
    rgb = rgba.convert("RGB")
    palette = rgb.quantize(8)
    deep = np.random.default_rng(1).integers(0, 65536, (24, 31), dtype=np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (rgb, {}),
        "rgba.png": (rgba, {}),
        "grey.png": (rgb.convert("L"), {}),
        "grey-alpha.png": (rgb.convert("LA"), {}),
        "palette-transparent.png": (palette, {"transparency": 2}),
        "one-bit.png": (rgb.convert("1"), {}),
        "16-bit.png": (Image.fromarray(deep), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 95}),
        "turned.jpg": (rgb, {"quality": 95, "exif": turned}),
        "one-pixel-wide.png": (rgb.resize((1, 40)), {}),
        "one-pixel.png": (rgb.resize((1, 1)), {}),
        "three-pixels.png": (rgb.resize((3, 3)), {}),
        "very-wide.png": (rgb.resize((700, 8)), {}),
        "very-high.png": (rgb.resize((6, 500)), {}),
    }
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return tuple(pictures)


def cases(pictures: tuple[str, ...], *, per_setting: int) -> Iterator[Case]:
    """Give every picture once without settings, then each setting over prompts and pictures in turn.

    Args:
        pictures: Names of the image files.
        per_setting: Generations per setting.
    """
    shown: list[tuple[str, ...]] = [(name,) for name in pictures]
    shown += [(), (pictures[1], pictures[8])]
    for at, names in enumerate(shown):
        yield _case("none", at, names)
    at = 0
    for setting in SETTINGS:
        for _ in range(per_setting if setting != "none" else 0):
            yield _case(setting, at, shown[at % len(shown)])
            at += 1


def _case(setting: str, at: int, names: tuple[str, ...]) -> Case:
    has_length = {"max_new_tokens", "max_length"} & set(SETTINGS[setting])
    return Case(
        setting=setting,
        prompt=_PROMPTS[at % len(_PROMPTS)],
        pictures=names,
        max_new_tokens=None if has_length else NEW_TOKENS,
    )
