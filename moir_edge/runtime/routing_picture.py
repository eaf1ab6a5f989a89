"""The routing map as a picture: how dense each part of the image is, and which words enriched it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from moir_edge.errors import DataError
from moir_edge.runtime.drawing import (
    INK,
    PAPER,
    Colour,
    fitted,
    heat_colour,
    sized_font,
    stack,
    wrapped,
)
from moir_edge.runtime.images import ImageInput, read_image
from moir_edge.runtime.routing import Cell, RoutedToken, RoutingMap

__all__ = ["draw_routing_map"]

_PANEL = 440  # longest side of one panel in pixels
_MARGIN = 24
_WIDTH = 2 * _PANEL + 3 * _MARGIN
_INNER = _WIDTH - 2 * _MARGIN
_LINE = 24
_MUTED: Colour = (110, 116, 128)
_OTHER: Colour = (150, 150, 150)
_TAKEN: Colour = (0, 114, 178)
# Told apart also with the common colour-vision deficiencies (Okabe and Ito's order, yellow darkened).
_WORD_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 61, 40),
    (204, 121, 167),
    (86, 180, 233),
    (150, 140, 20),
    (110, 64, 170),
)
_MAX_WORDS_ENRICHED = 8
_SPECIAL_TOKEN = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class _Layer:
    """The cells of one image that tile it once: its tiles, or its overview."""

    image: int
    is_overview: bool
    rows: tuple[int, ...]
    cells: tuple[Cell, ...]


def draw_routing_map(
    routing: RoutingMap,
    images: Sequence[ImageInput],
    *,
    answers: tuple[str, str] | None = None,
    max_image_pixels: int | None = None,
) -> Image.Image:
    """Draw what the router did over the images of a prompt.

    Per image, the left panel shows the information density of every cell (dark is weak); the right
    one fills each enriched cell with the colour of the word that it took most from, the stronger the
    gate the fuller, and numbers the cells that words took from. A cell whose token was dropped is crossed out on the left. The legend names the words. Where only words were
    enriched, a cell is the fuller the more of them it was a source of. Routers that take from the mean of the other
    modality (`channel`, `gate`) leave the scores on the left and the gates on the right.

    Args:
        routing: The map of one prompt.
        images: The same images as were given with the prompt, in order.
        answers: The answer with the router and the one without, shown under the prompt.
        max_image_pixels: As in `moir_edge.load`.

    Returns:
        An RGB picture, as wide as two panels and as high as it takes.

    Raises:
        DataError: The number of images is not the prompt's.
    """
    if len(images) != len(routing.prompt.images):
        raise DataError(
            f"the routing map has {len(routing.prompt.images)} image(s), {len(images)} were given; "
            "give the same images as with the prompt"
        )
    colours = _word_colours(routing)
    enriched = _enriched_words(routing)
    blocks = [_header(routing, answers)]
    for layer in _layers(routing):
        # One at a time: a prompt may have many.
        picture = read_image(images[layer.image], max_pixels=max_image_pixels)
        blocks.append(_layer_block(routing, layer, picture, colours, enriched))
    blocks.append(_legend(routing, colours, enriched))
    return stack(blocks)


def _word_colours(routing: RoutingMap) -> dict[str, Colour]:
    """Give the words that most image cells took from a colour each."""
    counts = _cells_by_word(routing)
    words = [word for word, _ in counts.most_common(len(_WORD_COLOURS)) if word is not None]
    return dict(zip(words, _WORD_COLOURS, strict=False))


def _cells_by_word(routing: RoutingMap) -> Counter[str | None]:
    """Count the enriched cells by the word that each took most from; image tokens that show nothing have none."""
    return Counter(_best_word(token) for token in routing.routed if token.cell is not None)


def _best_word(token: RoutedToken) -> str | None:
    return token.sources[0].word if token.sources else None


def _enriched_words(routing: RoutingMap) -> list[RoutedToken]:
    """Return the words that took most from the image, the strongest gate first."""
    tokens = [token for token in routing.routed if token.side == "text" and _best_cell(token)]
    strongest: dict[str | None, RoutedToken] = {}  # a word of several tokens is shown once
    for token in sorted(tokens, key=lambda token: -token.gate):
        strongest.setdefault(token.word, token)
    return list(strongest.values())[:_MAX_WORDS_ENRICHED]


def _best_cell(token: RoutedToken) -> Cell | None:
    return token.sources[0].cell if token.sources else None


def _layers(routing: RoutingMap) -> list[_Layer]:
    found: dict[tuple[int, bool], list[tuple[int, Cell]]] = {}
    for row, cell in routing.cells():
        found.setdefault((cell.image, cell.view == "global"), []).append((row, cell))
    return [
        _Layer(image, is_overview, tuple(row for row, _ in cells), tuple(cell for _, cell in cells))
        for (image, is_overview), cells in found.items()
    ]


def _header(routing: RoutingMap, answers: tuple[str, str] | None) -> Image.Image:
    """Draw the prompt, the answers, how many tokens were enriched, and how to read the picture."""
    question = " ".join(_SPECIAL_TOKEN.sub(" ", routing.prompt.text).split())
    lines = [(line, 18, INK) for line in wrapped(question, sized_font(18), _INNER)[:4]]
    if answers is not None:
        told = (
            f"answer with the router: {answers[0].strip()}   \u00b7   without: {answers[1].strip()}"
        )
        lines += [(line, 15, INK) for line in wrapped(told, sized_font(15), _INNER)[:2]]
    for note in filter(None, (_counts(routing), _dropped(routing), _reading(routing))):
        lines += [(line, 15, _MUTED) for line in wrapped(note, sized_font(15), _INNER)]
    block = Image.new("RGB", (_WIDTH, 2 * _MARGIN + len(lines) * 26), PAPER)
    draw = ImageDraw.Draw(block)
    for number, (line, size, colour) in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * 26), line, fill=colour, font=sized_font(size))
    return block


def _counts(routing: RoutingMap) -> str:
    image_side = sum(token.side == "image" for token in routing.routed)
    text_side = len(routing.routed) - image_side
    texts = len(routing.positions) - routing.image_tokens
    hidden = sum(token.side == "image" and token.cell is None for token in routing.routed)
    without = f" ({hidden} without a part of the image)" if hidden else ""
    return (
        f"enriched: {image_side} of {routing.image_tokens} image tokens{without}, {text_side} of {texts} text tokens; "
        "marks such as <image> and newlines between tiles never take part"
    )


def _dropped(routing: RoutingMap) -> str:
    if routing.dropped is None:
        return ""
    return (
        f"dropped: {int(routing.dropped.sum())} of {routing.image_tokens} image tokens, crossed out on the left; "
        "the language model did not read them"
    )


def _reading(routing: RoutingMap) -> str:
    """Say what the colours are and what they are not."""
    if not routing.names_sources:
        return "Colours show what the router did, not what matters in the image."
    return (
        "Density is the router's own score: a dark cell is one that it calls weak, which need not be an empty one unless "
        "the router was tuned with `rank_density`. The map shows what the router did, not what matters in the image."
    )


def _layer_block(
    routing: RoutingMap,
    layer: _Layer,
    picture: Image.Image,
    colours: dict[str, Colour],
    enriched: list[RoutedToken],
) -> Image.Image:
    scale = _PANEL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    panel = picture.resize(size, Image.Resampling.BICUBIC)
    name = f"image {layer.image + 1}" + (", overview" if layer.is_overview else "")
    block = Image.new("RGB", (_WIDTH, size[1] + _LINE + 58), PAPER)
    draw = ImageDraw.Draw(block)
    right = 2 * _MARGIN + _PANEL
    score = "the router's density" if routing.names_sources else "own share"
    draw.text((_MARGIN, 0), f"{name}: {score}", fill=INK, font=sized_font(15))
    draw.text((right, 0), f"{name}: {_links_title(routing)}", fill=INK, font=sized_font(15))
    block.paste(_density_panel(routing, layer, panel), (_MARGIN, _LINE))
    block.paste(_links_panel(routing, layer, panel, colours, enriched), (right, _LINE))
    _scale_bar(draw, routing, _LINE + size[1] + 8)
    return block


def _links_title(routing: RoutingMap) -> str:
    if _only_words(routing):
        return "cells that words took from"
    return f"enriched cells, by {'word' if routing.names_sources else 'gate'}"


def _only_words(routing: RoutingMap) -> bool:
    """Say whether words were enriched from single cells, and no image token was."""
    return (
        routing.names_sources
        and bool(routing.routed)
        and all(token.side == "text" for token in routing.routed)
    )


def _density_panel(routing: RoutingMap, layer: _Layer, panel: Image.Image) -> Image.Image:
    grey = panel.convert("L").convert("RGB")
    heat = grey.copy()
    draw = ImageDraw.Draw(heat)
    low, high = _score_range(routing)
    for row, cell in zip(layer.rows, layer.cells, strict=True):
        share = (float(routing.scores[row]) - low) / (high - low)
        draw.rectangle(_pixels(cell, panel.size), fill=heat_colour(share))
    blended = Image.blend(grey, heat, 0.62)
    if routing.dropped is not None:
        gone = [
            cell for row, cell in zip(layer.rows, layer.cells, strict=True) if routing.dropped[row]
        ]
        _cross_out(blended, gone)
    return blended


def _cross_out(panel: Image.Image, cells: Sequence[Cell]) -> None:
    """Draw both diagonals of cells, dark on light so that they show on any colour."""
    draw = ImageDraw.Draw(panel)
    for cell in cells:
        left, top, right, bottom = _pixels(cell, panel.size)
        for colour, width in ((PAPER, 4), (INK, 2)):
            draw.line((left, top, right, bottom), fill=colour, width=width)
            draw.line((left, bottom, right, top), fill=colour, width=width)


def _links_panel(
    routing: RoutingMap,
    layer: _Layer,
    panel: Image.Image,
    colours: dict[str, Colour],
    enriched: list[RoutedToken],
) -> Image.Image:
    faded = Image.blend(panel, Image.new("RGB", panel.size, PAPER), 0.45).convert("RGBA")
    cells = set(layer.cells)
    for token in routing.routed:
        if token.cell is not None and token.cell in cells:
            colour = colours.get(_best_word(token) or "", _OTHER)
            faded = _tinted(faded, token.cell, token.gate, colour)
    if _only_words(routing):
        for cell, share in _shares_taken(routing).items():
            if cell in cells:
                faded = _tinted(faded, cell, share, _TAKEN)
    draw = ImageDraw.Draw(faded)
    numbers: dict[Cell, list[str]] = {}
    for number, token in enumerate(enriched, start=1):
        source = _best_cell(token)
        if source is not None and source in cells:
            numbers.setdefault(source, []).append(str(number))
    for cell, shown in numbers.items():
        _marker(draw, cell, panel.size, ",".join(shown))
    return faded.convert("RGB")


def _shares_taken(routing: RoutingMap) -> dict[Cell, float]:
    """Return, for each cell that a word took from, the share of the enriched words that did."""
    sources = [source.cell for token in routing.routed for source in token.sources]
    counts = Counter(cell for cell in sources if cell is not None)
    return {cell: count / len(routing.routed) for cell, count in counts.items()}


def _tinted(panel: Image.Image, cell: Cell, strength: float, colour: Colour) -> Image.Image:
    """Lay a colour over a cell, fuller for a strength near 1."""
    left, top, right, bottom = _pixels(cell, panel.size)
    shade = Image.new("RGBA", panel.size, (0, 0, 0, 0))
    opacity = round(255 * (0.20 + 0.45 * min(1.0, max(0.0, strength))))
    ImageDraw.Draw(shade).rectangle(
        (left, top, right, bottom), fill=(*colour, opacity), outline=(*colour, 255), width=2
    )
    return Image.alpha_composite(panel, shade)


def _marker(draw: ImageDraw.ImageDraw, cell: Cell, size: tuple[int, int], text: str) -> None:
    left, top, right, bottom = _pixels(cell, size)
    small = sized_font(13)
    half = max(10.0, draw.textlength(text, font=small) / 2 + 5)
    x = min(max((left + right) / 2, half), size[0] - half)
    y = min(max((top + bottom) / 2, 10), size[1] - 10)
    draw.rounded_rectangle((x - half, y - 10, x + half, y + 10), radius=10, fill=INK, outline=PAPER)
    draw.text((x, y), text, fill=PAPER, font=small, anchor="mm")


def _legend(
    routing: RoutingMap, colours: dict[str, Colour], enriched: list[RoutedToken]
) -> Image.Image:
    counts = _cells_by_word(routing)
    named = [(word, counts[word], colour) for word, colour in colours.items()]
    others = sum(counts.values()) - sum(count for _, count, _ in named)
    if others:
        rest = "other words" if routing.names_sources else "the mean of all words"
        named.append((rest, others, _OTHER))
    height = _LINE * (max(len(named), len(enriched), 1) + 1) + _MARGIN
    block = Image.new("RGB", (_WIDTH, height), PAPER)
    draw = ImageDraw.Draw(block)
    right = 2 * _MARGIN + _PANEL
    taken = _only_words(routing)
    left_title = "no image token was enriched" if taken else "words that the image took most from"
    draw.text((_MARGIN, 0), left_title, fill=INK, font=sized_font(15))
    if taken:
        note = f"a cell is the fuller, the more of the {len(routing.routed)} words took from it"
        draw.text((_MARGIN, _LINE + 1), fitted(note, _PANEL), fill=_MUTED, font=sized_font(15))
    for line, (word, count, colour) in enumerate(named, start=1):
        top = line * _LINE
        draw.rectangle((_MARGIN, top + 3, _MARGIN + 16, top + 19), fill=colour)
        label = fitted(f"{_shown(word)}  ({count} cell{'s' if count != 1 else ''})", _PANEL - 30)
        draw.text((_MARGIN + 26, top + 1), label, fill=INK, font=sized_font(15))
    draw.text((right, 0), _words_title(routing, enriched), fill=INK, font=sized_font(15))
    for line, token in enumerate(enriched, start=1):
        label = fitted(f"{line}  {_shown(token.word)}  (gate {token.gate:.2f})", _PANEL)
        draw.text((right, line * _LINE + 1), label, fill=INK, font=sized_font(15))
    if not enriched:
        texts = any(token.side == "text" for token in routing.routed)
        took = "none" if routing.names_sources or not texts else "all, from the mean of the image"
        draw.text((right, _LINE + 1), took, fill=_MUTED, font=sized_font(15))
    return block


def _words_title(routing: RoutingMap, enriched: list[RoutedToken]) -> str:
    """Say which words the list holds: those with the strongest gates, each once."""
    words = {token.word for token in routing.routed if token.side == "text" and _best_cell(token)}
    if not words:
        return "words that took from the image"
    return f"words by gate, {len(enriched)} of {len(words)}; their number is on the best source"


def _shown(word: str | None) -> str:
    return word if word and word.strip() else "(space)"


def _scale_bar(draw: ImageDraw.ImageDraw, routing: RoutingMap, top: int) -> None:
    low, high = _score_range(routing)
    width = 160
    for step in range(width):
        colour = heat_colour(step / (width - 1))
        draw.line((_MARGIN + 76 + step, top, _MARGIN + 76 + step, top + 12), fill=colour)
    small = sized_font(13)
    draw.text((_MARGIN, top - 1), f"weak {low:.2f}", fill=_MUTED, font=small)
    draw.text((_MARGIN + 84 + width, top - 1), f"{high:.2f} dense", fill=_MUTED, font=small)


def _score_range(routing: RoutingMap) -> tuple[float, float]:
    scores = routing.scores[: routing.image_tokens]
    low, high = float(scores.min()), float(scores.max())
    return low, max(high, low + 1e-6)


def _pixels(cell: Cell, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = cell.box
    x0, y0 = round(left * size[0]), round(top * size[1])
    return x0, y0, max(x0, round(right * size[0]) - 1), max(y0, round(bottom * size[1]) - 1)
