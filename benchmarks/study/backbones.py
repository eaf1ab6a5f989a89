"""The models that the study tunes: what they see, where they are, and how much blur takes half of their pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from benchmarks.icons.theme import ICONS
from benchmarks.study.settings import StudySettings
from moir_edge.demo import checkpoint_path
from moir_edge.demo.theme import DIGITS, Theme
from moir_edge.errors import DataError, closest

__all__ = ["BACKBONES", "DEMO", "ICON_CHECKPOINT", "ICON_LLAVA", "Backbone", "find_backbone"]


ICON_CHECKPOINT = Path(__file__).parents[1] / "icons" / "checkpoint"
"""What `benchmarks.icons.train` wrote; the repository keeps it, since a training on another machine gives other weights."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One model of the study.

    Attributes:
        name: Folder of its runs, and what `--backbone` takes.
        title: What tables call it.
        about: What it is, in a few words.
        theme: Pictures and words of its rows.
        blur_sigma_px: "50 % blur": the Gaussian that leaves half of the variance of its pictures.
        checkpoint: Its checkpoint, with a router or without.
    """

    name: str
    title: str
    about: str
    theme: Theme
    blur_sigma_px: float
    checkpoint: Path

    def settings(self, common: StudySettings) -> StudySettings:
        """Return the study's settings with this backbone's blur."""
        return dataclasses.replace(common, blur_sigma_px=self.blur_sigma_px)


DEMO = Backbone(
    name="digits",
    title="SmolVLM, digits",
    about="the demo's VLM: a SigLIP tower with pixel shuffle and a Llama decoder, on handwritten digits",
    theme=DIGITS,
    blur_sigma_px=3.5,
    checkpoint=checkpoint_path(),
)
ICON_LLAVA = Backbone(
    name="icons",
    title="LLaVA, icons",
    about="trained by `benchmarks.icons.train`: a CLIP tower and a Qwen2 decoder, on icons of six fonts",
    theme=ICONS,
    blur_sigma_px=2.9,
    checkpoint=ICON_CHECKPOINT,
)
BACKBONES = (DEMO, ICON_LLAVA)


def find_backbone(name: str) -> Backbone:
    """Return a backbone by name.

    Raises:
        DataError: There is none of this name.
    """
    known = {one.name: one for one in BACKBONES}
    if name not in known:
        raise DataError(f"unknown backbone {name!r}: {closest(name, known)}")
    return known[name]
