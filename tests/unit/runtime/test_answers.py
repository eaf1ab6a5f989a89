from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from moir_edge.bundle.files import ModelFiles
from moir_edge.runtime.answers import AnswerRow, StopStrings
from moir_edge.runtime.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(smolvlm_folder: Path) -> Tokenizer:
    return Tokenizer.of(ModelFiles(smolvlm_folder))


def _push_all(row: AnswerRow, ids: list[int]) -> list[str]:
    return [row.push(token) for token in ids]


@pytest.mark.parametrize("pieces", list(itertools.product(["a", "ab", "b\n", "\n", "c"], repeat=4)))
def test_stop_strings_are_found_across_pieces(pieces: tuple[str, ...]) -> None:
    stops = ("b\n\n", "ca")
    whole = "".join(pieces)
    ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
    checker = StopStrings(stops)
    shown = ""
    stopped = False
    for piece in pieces:
        text, stopped = checker.push(piece)
        shown += text
        if stopped:
            break
    shown += "" if stopped else checker.finish()
    assert stopped == bool(ends)
    # The first stop string to be complete ends the answer; nothing of it is shown.
    assert whole.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not stopped:
        assert shown == whole


def test_nothing_is_held_back_without_need() -> None:
    checker = StopStrings(("END",))
    assert checker.push("the E") == ("the ", False)
    assert checker.push("lk") == ("Elk", False)
    assert StopStrings(()).push("anything") == ("anything", False)


def test_a_row_ends_at_its_stop_token(tokenizer: Tokenizer) -> None:
    words = list(tokenizer.encode(" blue seven").ids)
    stop = 2
    row = AnswerRow(tokenizer, 50, (stop,), ())
    pieces = _push_all(row, [*words, stop, *words])
    assert row.text == "".join(pieces) == "blue seven"  # without the space before the first word
    assert row.token_ids == [*words, stop]
    assert row.finish_reason == "stop_token"


def test_a_row_ends_at_its_limit(tokenizer: Tokenizer) -> None:
    words = list(tokenizer.encode(" blue seven left of it").ids)
    row = AnswerRow(tokenizer, 3, (2,), ())
    _push_all(row, words)
    assert row.token_ids == words[:3]
    assert row.finish_reason == "length"
    assert row.text == tokenizer.decode(words[:3]).lstrip()


def test_a_row_ends_before_its_stop_string(tokenizer: Tokenizer) -> None:
    row = AnswerRow(tokenizer, 50, (2,), (" of",))
    _push_all(row, list(tokenizer.encode(" left of it").ids))
    assert row.text == "left"
    assert row.finish_reason == "stop_string"


def test_the_limit_releases_what_was_held_back(tokenizer: Tokenizer) -> None:
    ids = list(tokenizer.encode("x👍").ids)[:-1]
    row = AnswerRow(tokenizer, len(ids), (2,), ("xyz",))
    _push_all(row, ids)
    assert row.text == tokenizer.decode(ids) == "x\ufffd"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("<row_2_col_3>", "left blue"),
        ("blue<row_2_col_3>", "left "),
        ("<row_2_col_3> of", "left blue"),
        ("l_3> o", "left blue"),
    ],
)
def test_the_text_of_a_special_token_stops_and_is_not_shown(
    tokenizer: Tokenizer, stop: str, text: str
) -> None:
    special = tokenizer.encode("<row_2_col_3>").ids
    assert len(special) == 1
    ids = [*tokenizer.encode(" left blue").ids, *special, *tokenizer.encode(" of it").ids]
    row = AnswerRow(tokenizer, 50, (2,), (stop,))
    pieces = _push_all(row, ids)
    assert row.finish_reason == "stop_string"
    assert row.text == "".join(pieces) == text
    # The special token stands between the words, so that they do not follow each other.
    unstopped = AnswerRow(tokenizer, 50, (2,), ("blue of",))
    _push_all(unstopped, [*ids, 2])
    assert unstopped.finish_reason == "stop_token"
    assert unstopped.text == "left blue of it"


def test_white_space_before_the_answer_is_left_out_across_tokens(tokenizer: Tokenizer) -> None:
    row = AnswerRow(tokenizer, 50, (2,), ())
    pieces = _push_all(row, [*tokenizer.encode(" \n \n  blue  seven \n").ids, 2])
    assert row.text == "".join(pieces) == "blue  seven \n"
