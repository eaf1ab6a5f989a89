"""CIDEr-D, the consensus metric for captions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from moir_edge.arguments import text as text_of
from moir_edge.checked import checked, each, required
from moir_edge.errors import DataError

__all__ = ["cider_d", "tokenize_caption"]

MAX_NGRAM = 4
SIGMA = 6.0
SCALE = 10.0

_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))\b")
_TOKEN = re.compile(r"n't\b|'(?:s|re|ve|ll|d|m)\b|\w+(?:[-']\w+|(?<=\d)[.,]\d+)*")

Ngram = tuple[str, ...]
Vector = dict[Ngram, float]


@checked(text=required(text_of))
def tokenize_caption(text: str) -> list[str]:
    """Split a caption into words as the Penn Treebank tokeniser of the COCO evaluation does for plain English.

    Lower case; punctuation dropped; hyphenated words and numbers such as 3.5 kept whole; clitics apart
    ("doesn't" becomes "does", "n't"; "dog's" becomes "dog", "'s"). Brackets, quotes and currency signs, which
    that tokeniser keeps as tokens of their own in some places, are dropped here always.

    Args:
        text: A caption.
    """
    return _TOKEN.findall(_CLITIC.sub(r" \1", text.lower().replace("\u2019", "'")))


@checked(predictions=each(required(text_of)), references=each(each(required(text_of))))
def cider_d(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Score captions against their references; the corpus score is the mean of what is returned.

    For n = 1 to 4, the tf·idf vectors of prediction and reference are compared by a cosine whose numerator takes
    the smaller of both weights, times exp(−(difference in length)² / 2σ²) with σ = 6; the mean over n and over the
    references, times 10. idf is log(rows) − log(rows whose references hold the n-gram), taken from `references`.

    Args:
        predictions: One caption per row.
        references: The reference captions of each row, at least one. With a single row every idf is log 1 = 0,
            hence every score 0.

    Returns:
        One score per row, in [0, 10].

    Raises:
        DataError: The lists differ in length, or a row has no reference.

    Source: Vedantam et al. 2015 (arXiv 1411.5726), section 4 and eq. 6, with the details of the authors' scorer:
        length is counted in bigrams, an unseen n-gram has a document frequency of 1.
    """
    if len(predictions) != len(references):
        raise DataError(f"{len(predictions)} predictions for {len(references)} reference lists")
    if not all(references):
        raise DataError("every row needs at least one reference caption")
    counted = [[_ngrams(text) for text in texts] for texts in references]
    frequency = Counter(gram for row in counted for gram in {key for ref in row for key in ref})
    log_rows = math.log(len(references)) if references else 0.0
    idf = {gram: log_rows - math.log(rows) for gram, rows in frequency.items()}
    weigh = _Weigher(idf, log_rows)
    return [
        _row_score(weigh(_ngrams(text)), [weigh(ref) for ref in refs])
        for text, refs in zip(predictions, counted, strict=True)
    ]


class _Weigher:
    """Turns n-gram counts into one tf·idf vector per n."""

    def __init__(self, idf: Vector, unseen: float) -> None:
        self._idf = idf
        self._unseen = unseen

    def __call__(self, counts: Counter[Ngram]) -> _Document:
        vectors: list[Vector] = [{} for _ in range(MAX_NGRAM)]
        for gram, count in counts.items():
            vectors[len(gram) - 1][gram] = count * self._idf.get(gram, self._unseen)
        return _Document(vectors, sum(count for gram, count in counts.items() if len(gram) == 2))


class _Document:
    """A caption: its vector and norm for each n, and its length in bigrams."""

    def __init__(self, vectors: list[Vector], bigrams: int) -> None:
        self.vectors = vectors
        self.norms = [math.sqrt(sum(w * w for w in vector.values())) for vector in vectors]
        self.bigrams = bigrams


def _ngrams(text: str) -> Counter[Ngram]:
    words = tokenize_caption(text)
    return Counter(_windows(words))


def _windows(words: Sequence[str]) -> Iterable[Ngram]:
    for size in range(1, MAX_NGRAM + 1):
        for start in range(len(words) - size + 1):
            yield tuple(words[start : start + size])


def _row_score(prediction: _Document, references: Sequence[_Document]) -> float:
    total = sum(_similarity(prediction, reference) for reference in references)
    return SCALE * total / len(references)


def _similarity(prediction: _Document, reference: _Document) -> float:
    """Return the mean over n of the clipped, length-penalised cosine."""
    penalty = math.exp(-((prediction.bigrams - reference.bigrams) ** 2) / (2 * SIGMA**2))
    cosines = 0.0
    for n in range(MAX_NGRAM):
        norm = prediction.norms[n] * reference.norms[n]
        if norm > 0:
            target = reference.vectors[n]
            # in the order of the words: over a set, sums would differ in the last bits from run to run
            dot = sum(
                min(weight, target[gram]) * target[gram]
                for gram, weight in prediction.vectors[n].items()
                if gram in target
            )
            cosines += dot / norm
    return penalty * cosines / MAX_NGRAM
