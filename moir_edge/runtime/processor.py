"""From prompts and images to the arrays that the graphs take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.files import ModelFiles
from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.chat import ChatTemplate, Messages
from moir_edge.runtime.control_tokens import ControlTokens
from moir_edge.runtime.families import ImageTokens, family_of
from moir_edge.runtime.image_processing import image_processor_from
from moir_edge.runtime.image_processor import ImageProcessor, ImageShape, ProcessedImage, View
from moir_edge.runtime.images import ImageInput, read_image
from moir_edge.runtime.prompt_bound import PromptBound, characters_of
from moir_edge.runtime.tokenizer import Tokenizer

__all__ = ["EncodedPrompt", "EncodedRow", "ModelInputs", "Processor"]


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One row of a batch before padding.

    Attributes:
        text: The rendered prompt with one image token per image: what a person would read.
        expanded: The prompt as tokenized, image tokens repeated.
        ids: Token ids of `expanded`.
        offsets: Per token, (start, end) in characters of `expanded`.
        images: Per image, its blocks of image tokens.
    """

    text: str
    expanded: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    images: tuple[tuple[View, ...], ...]


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """One row of a batch with its images.

    Attributes:
        prompt: The tokens.
        pictures: The images as the vision tower reads them.
    """

    prompt: EncodedPrompt
    pictures: tuple[ProcessedImage, ...]


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """A left-padded batch.

    Attributes:
        input_ids: (batch, sequence) int64.
        attention_mask: (batch, sequence) int64, 0 at padding.
        pixel_values: Float32, the tiles or patches of all images in order, or None.
        prompts: One per row.
        images: The shapes of the images of all rows, in order.
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    pixel_values: npt.NDArray[np.float32] | None
    prompts: tuple[EncodedPrompt, ...]
    images: tuple[ImageShape, ...] = ()

    @property
    def prompt_lengths(self) -> tuple[int, ...]:
        """Prompt tokens per row, padding not counted."""
        return tuple(len(prompt.ids) for prompt in self.prompts)


class Processor:
    """Tokenizer, chat template and image processor of one model.

    Args:
        files: A bundle's or a checkpoint's Hugging Face JSON files.
        facts: What the manifest says of the model.
        image_settings: The image processor's JSON object; None takes that of the files. A checkpoint's files may lack what
            the class of its processor sets in its call.
        max_image_pixels: Width times height of an image at most; None takes `moir_edge.image_limit.image_pixels`.
        split_special_tokens: Encode control tokens in a conversation's words as the ordinary text that they are.

    Raises:
        BundleError: A file is missing or cannot be read.
        UnsupportedError: The image processor or the model type is unknown.
    """

    def __init__(
        self,
        files: ModelFiles,
        facts: ModelFacts,
        *,
        image_settings: Mapping[str, Any] | None = None,
        max_image_pixels: int | None = None,
        split_special_tokens: bool = False,
    ) -> None:
        self.facts = facts
        self.family = family_of(facts)
        self._max_pixels = max_image_pixels
        self.tokenizer = Tokenizer.of(files)
        self.chat_template = ChatTemplate.of(files, self.tokenizer.special_tokens)
        settings = _image_config(files) if image_settings is None else image_settings
        self.image_processor: ImageProcessor = image_processor_from(
            self.family.image_settings(settings),
            max_pixels=max_image_pixels,
            max_tiles=(facts.context_length - 1) // (facts.tokens_per_tile or 1),
        )
        self._control = (
            ControlTokens(self.tokenizer, {*facts.special_token_ids, facts.image_token_id})
            if split_special_tokens
            else None
        )
        self._bound = PromptBound(self.tokenizer.backend, facts.context_length)
        self._image_tokens = ImageTokens(
            image=self.tokenizer.token(facts.image_token_id),
            special_tokens=self.tokenizer.special_tokens,
        )

    def __call__(
        self, conversations: Sequence[Messages], images: Sequence[Sequence[ImageInput]]
    ) -> ModelInputs:
        """Encode a batch.

        Args:
            conversations: One list of messages per row.
            images: The images of each row, in the order in which its messages name them.

        Raises:
            DataError: An image cannot be used, image parts and images differ in number, or a prompt
                is longer than the model's context; by its characters, before it is rendered.
        """
        for messages in conversations:
            self._bound.check(characters_of(messages))
        return self.batch(list(map(self.row, conversations, images)))

    def row(self, messages: Messages, images: Sequence[ImageInput]) -> EncodedRow:
        """Encode one row; several threads may do so at a time.

        Args:
            messages: The conversation.
            images: In the order in which the messages name them.

        Raises:
            DataError: See `__call__`.
        """
        self._bound.check(characters_of(messages))
        pictures = self._processed(images)
        words = messages if self._control is None else self._control.marked(messages)
        prompt = self.encode(self.chat_template.render(words), pictures)
        return EncodedRow(prompt=prompt, pictures=tuple(pictures))

    def batch(self, rows: Sequence[EncodedRow]) -> ModelInputs:
        """Join rows to a left-padded batch.

        Args:
            rows: At least one.
        """
        prompts = tuple(row.prompt for row in rows)
        pictures = [picture for row in rows for picture in row.pictures]
        input_ids, attention_mask = _left_padded(
            [prompt.ids for prompt in prompts], self.facts.pad_token_id
        )
        return ModelInputs(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=_joined([picture.pixel_values for picture in pictures]),
            prompts=prompts,
            images=tuple(picture.shape for picture in pictures),
        )

    def _processed(self, sources: Sequence[ImageInput]) -> list[ProcessedImage]:
        """Read the images of one row, one at a time, once it is clear that the context has room for so many."""
        room = self.image_processor.max_tiles
        if room is not None and len(sources) > room:
            raise DataError(
                f"{len(sources)} images were given, the model's context has room for {room} tiles; give fewer images"
            )
        process = self.image_processor if len(sources) == 1 else self.image_processor.together
        return [process(read_image(source, max_pixels=self._max_pixels)) for source in sources]

    def encode(self, text: str, images: Sequence[ProcessedImage]) -> EncodedPrompt:
        """Expand the image tokens of a rendered prompt and tokenize it.

        Raises:
            DataError: See `__call__`.
        """
        readable = self._plain(text)
        self._bound.check(len(readable))
        expanded = self._expanded(text, images)
        # A template that writes the start token itself must not get a second one (as transformers).
        start = self.tokenizer.special_tokens.get("bos_token")
        written = self.family.writes_start or (start is not None and expanded.startswith(start))
        encode = self.tokenizer.encode if self._control is None else self._control.encode
        encoded = encode(expanded, add_special_tokens=not written)
        self._check_length(encoded.ids, images)
        return EncodedPrompt(
            text=readable,
            expanded=self._plain(expanded),
            ids=encoded.ids,
            offsets=encoded.offsets,
            images=tuple(self.family.views(image.shape) for image in images),
        )

    def _plain(self, text: str) -> str:
        return text if self._control is None else self._control.plain(text)

    def _expanded(self, text: str, images: Sequence[ProcessedImage]) -> str:
        mark = self.family.image_mark(self._image_tokens)
        pieces = self.family.prompt(text, self._image_tokens).split(mark)
        if len(pieces) - 1 != len(images):
            raise DataError(
                f"the prompt names {len(pieces) - 1} image(s) and {len(images)} were given; "
                f"give one image per {mark} and leave that word out of the prompt"
            )
        joined = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            joined += self.family.placeholders(self._image_tokens, image.shape) + piece
        return joined

    def _check_length(self, ids: Sequence[int], images: Sequence[ProcessedImage]) -> None:
        limit = self.facts.context_length
        if len(ids) < limit:
            return
        from_images = sum(token == self.facts.image_token_id for token in ids)
        tiles = sum(len(image.shape.views) for image in images)
        raise DataError(
            f"the prompt has {len(ids)} tokens ({from_images} of them from {tiles} image tile(s)), "
            f"the model's context holds {limit} with at least one for the answer; "
            "shorten the prompt or give fewer images"
        )


def _image_config(files: ModelFiles) -> dict[str, Any]:
    """Return the image processor's JSON object; transformers looks in the same order."""
    for name, part in (
        ("processor_config.json", "image_processor"),
        ("preprocessor_config.json", ""),
    ):
        record = files.object(name)
        config = record.get(part) if record is not None and part else record
        if isinstance(config, dict):
            return config
    raise BundleError(
        f"{files.folder} has neither preprocessor_config.json nor an image_processor in "
        "processor_config.json; export the bundle again"
    )


def _joined(tiles: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32] | None:
    """Return the tiles of all images as one array; those of a single image are not copied."""
    if len(tiles) == 1:
        return tiles[0]
    return np.concatenate(tiles) if tiles else None


def _left_padded(
    rows: Sequence[Sequence[int]], pad_token_id: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return ids and mask, (batch, sequence) each; the last token of every row is in the last column."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = row
        mask[index, width - len(row) :] = 1
    return ids, mask
