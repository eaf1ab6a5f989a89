"""Find the tokens of a prompt that take part in routing, in numpy, for the runtime and the torch hook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from moir_edge.arguments import given, integer, integers, wrong_type
from moir_edge.checked import checked, required
from moir_edge.errors import ShapeError

__all__ = ["PromptPositions", "prompt_positions"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class PromptPositions(NamedTuple):
    """Sequence positions of the tokens that take part, packed to the left of each row.

    Both widths are at least 1, so that no graph input is ever empty.

    Attributes:
        image_positions: (batch, image_tokens) int64; -1 fills the rows of samples with fewer image tokens.
        text_positions: (batch, text_tokens) int64; 0 where `text_mask` is False.
        text_mask: (batch, text_tokens) bool, True where a text token stands.
    """

    image_positions: IntArray
    text_positions: IntArray
    text_mask: BoolArray


def token_ids(name: str, value: object) -> tuple[int, ...]:
    """Return token ids as a tuple.

    Raises:
        DataError: They are not whole numbers that an id can be.
    """
    found = given(name, integers(name, value))
    if not all(abs(one) < 1 << 63 for one in found):
        raise wrong_type(name, value, "token ids")
    return found


def _array(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return an array of numbers.

    Raises:
        DataError: There is something else in it, or its rows differ in length.
    """
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):
        raise wrong_type(name, value, "an array of whole numbers") from None
    if found.dtype.kind not in "bui":
        raise wrong_type(name, value, "an array of whole numbers")
    return found


@checked(image_token_id=required(integer), special_ids=token_ids, newline_ids=token_ids)
def prompt_positions(
    input_ids: npt.ArrayLike,
    attention_mask: npt.ArrayLike | None,
    image_token_id: int,
    special_ids: Iterable[int],
    newline_ids: Iterable[int] = (),
    *,
    answers: npt.ArrayLike | None = None,
) -> PromptPositions:
    """Find the image tokens and the text tokens of a prompt.

    Text tokens are all tokens that are neither image tokens, nor padding, nor special tokens. Newlines between two
    image tokens, with nothing but special tokens and other newlines around them, are no text tokens either: they
    separate the tiles of a split image, or two images.

    Args:
        input_ids: (batch, sequence) token ids of the prompt, padded on either side.
        attention_mask: (batch, sequence), 0 at padding; None when nothing is padded.
        image_token_id: The id that stands where an image feature goes.
        special_ids: The tokenizer's special token ids.
        newline_ids: Ids of the tokens that hold line ends alone; none makes every newline a text token.
        answers: (batch, sequence), True at tokens of the answer, which are not text tokens; None for a prompt alone.

    Raises:
        ShapeError: The ids are not two-dimensional, or the mask has another shape.
    """
    ids = _array("input_ids", input_ids)
    mask = np.ones(ids.shape, bool)
    if attention_mask is not None:
        mask = _array("attention_mask", attention_mask) != 0
    if ids.ndim != 2 or mask.shape != ids.shape:
        raise ShapeError(
            f"prompt positions: got input_ids {ids.shape} and attention_mask {mask.shape}; "
            "expected one (batch, sequence) shape for both"
        )
    image = (ids == image_token_id) & mask
    special = np.isin(ids, np.fromiter(special_ids, np.int64))
    newline = np.isin(ids, np.fromiter(newline_ids, np.int64))
    text = mask & ~special & (ids != image_token_id)
    text &= ~(newline & _between_images(image, image | (text & ~newline)))
    if answers is not None:
        mask = _array("answers", answers) != 0
        if mask.shape != ids.shape:
            raise ShapeError(f"prompt positions: got answers {mask.shape}; expected {ids.shape}")
        text &= ~mask
    image_positions, image_valid = _pack(image)
    text_positions, text_mask = _pack(text)
    return PromptPositions(
        np.where(image_valid, image_positions, -1),
        np.where(text_mask, text_positions, 0),
        text_mask,
    )


def _pack(member: BoolArray) -> tuple[IntArray, BoolArray]:
    """Move the positions of the True entries (batch, sequence) to the left, in order: (batch, width) each."""
    counts = member.sum(axis=1)
    width = max(1, int(counts.max(initial=0)))
    order = np.argsort(~member, axis=1, kind="stable")[:, :width].astype(np.int64)
    valid = np.arange(width) < counts[:, None]
    return order, valid[:, : order.shape[1]]


def _between_images(image: BoolArray, solid: BoolArray) -> BoolArray:
    """Return the places whose nearest solid tokens on both sides are image tokens, (batch, sequence).

    Args:
        image: Where image tokens stand.
        solid: Where image tokens and words stand: neither padding, nor special tokens, nor newlines.
    """
    before = _last_solid_is_image(image, solid)
    after = _last_solid_is_image(image[:, ::-1], solid[:, ::-1])[:, ::-1]
    return np.asarray(before & after)


def _last_solid_is_image(image: BoolArray, solid: BoolArray) -> BoolArray:
    places = np.where(solid, np.arange(solid.shape[1]), -1)
    latest = np.maximum.accumulate(places, axis=1)
    return (latest >= 0) & np.take_along_axis(image, np.maximum(latest, 0), axis=1)
