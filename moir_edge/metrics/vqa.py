"""VQA-v2 accuracy with the normalisation of the official evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moir_edge.arguments import text
from moir_edge.checked import checked, each, required
from moir_edge.data.rows import HUMAN_ANSWERS
from moir_edge.errors import DataError

__all__ = ["normalize_answer", "vqa_accuracy"]

_AGREEING = 3
_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_LOOSE_PERIOD = re.compile(r"\.(?!\d)")
# The official script passes a flag (value 32) where `re.sub` takes its count: no more periods than that go.
_PERIODS_REMOVED = 32

# Forms whose spelling without one of the apostrophes is mended. Read off the table of the official script, which
# is case-sensitive after lowering (so "Im" never matches) and knows no others ("its" and "lets" stay as they are).
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""


def _contractions() -> dict[str, str]:
    """Map every form with exactly one apostrophe left out to the full form."""
    table = {
        "somebody'd": "somebodyd"
    }  # reversed in the official table, and kept so that scores agree
    for form in _CONTRACTED.split():
        for at, letter in enumerate(form):
            if letter == "'":
                table[form[:at] + form[at + 1 :]] = form
    return table


_CONTRACTIONS = _contractions()


@checked(answer=required(text))
def normalize_answer(answer: str) -> str:
    """Bring an answer into the form in which VQA-v2 compares answers.

    In this order: line breaks and tabs to spaces; punctuation dropped where it touches a space or where the answer
    has a comma between digits, else turned into a space; periods dropped unless a digit follows; lower case; the
    words none and zero to ten as digits; a, an, the dropped; apostrophes of contractions put back.

    Args:
        answer: Any text.

    Source: the VQA evaluation code of Agrawal et al., https://visualqa.org/evaluation.html.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    words = (_DIGITS.get(word, word) for word in _strip_punctuation(text).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@checked(prediction=required(text), answers=each(required(text)))
def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Score one prediction, in [0, 1].

    Ten or more answers are human votes: the mean over the leave-one-out sets of min(1, matches / 3), so that of
    ten 1, 2, 3, 4 matches score 0.3, 0.6, 0.9, 1. Fewer than ten are alternatives: 1 if one matches, else 0.

    Args:
        prediction: The model's answer.
        answers: Accepted answers, at least one. They are normalised like the prediction; the official script
            leaves them alone where all ten agree, which only matters for answers it would itself rewrite.

    Raises:
        DataError: There is no answer.

    Source: Antol et al. 2015 (arXiv 1505.00468), section 3; https://visualqa.org/evaluation.html.
    """
    if not answers:
        raise DataError("vqa_accuracy needs at least one answer")
    guess = normalize_answer(prediction)
    matches = sum(normalize_answer(answer) == guess for answer in answers)
    count = len(answers)
    if count < HUMAN_ANSWERS:
        return float(matches > 0)
    without_a_match = min(1.0, (matches - 1) / _AGREEING)
    without_another = min(1.0, matches / _AGREEING)
    return (matches * without_a_match + (count - matches) * without_another) / count


def _strip_punctuation(text: str) -> str:
    result = text
    digit_comma = _DIGIT_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if digit_comma or touches_space else " ")
    return _LOOSE_PERIOD.sub("", result, count=_PERIODS_REMOVED)
