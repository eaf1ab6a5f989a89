from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moir_edge.bundle.files import ModelFiles
from moir_edge.errors import BundleError
from moir_edge.runtime.tokenizer import Tokenizer

TEXTS = [
    " A plain answer.",
    "Über naïve café, 漢字 and €",
    "emoji 👩‍👩‍👧 of several code points",
    "  two spaces, a tab\tand a\nline",
]


@pytest.fixture(params=["smolvlm_folder", "llava_folder"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    folder: Path = request.getfixturevalue(request.param)
    return Tokenizer.of(ModelFiles(folder))


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_decoded_at_once(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    growing = tokenizer.grow()
    pieces = [growing.push(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + growing.finish() == tokenizer.decode(ids)


def test_any_token_sequence_joins_to_what_decoding_gives(smolvlm_folder: Path) -> None:
    # Models emit broken characters and special tokens too; nothing of that may be lost or doubled.
    # (Not so with byte fallback: there a broken byte spoils the valid ones before it, already shown.)
    tokenizer = Tokenizer.of(ModelFiles(smolvlm_folder))
    rng = np.random.default_rng(0)
    for length in (1, 2, 7, 40):
        for _ in range(25):
            ids = [int(token) for token in rng.integers(0, 250, length)]
            growing = tokenizer.grow()
            pieces = [growing.push(token) for token in ids]
            assert "".join(pieces) + growing.finish() == tokenizer.decode(ids)


def test_a_character_is_held_back_until_it_is_whole(smolvlm_folder: Path) -> None:
    tokenizer = Tokenizer.of(ModelFiles(smolvlm_folder))
    ids = tokenizer.encode("👍", add_special_tokens=False).ids
    assert len(ids) == 4  # one token per byte: the corpus has no emoji
    growing = tokenizer.grow()
    assert [growing.push(token) for token in ids] == ["", "", "", "👍"]


def test_a_cut_character_comes_out_at_the_end(smolvlm_folder: Path) -> None:
    tokenizer = Tokenizer.of(ModelFiles(smolvlm_folder))
    ids = tokenizer.encode("a👍", add_special_tokens=False).ids[:-1]
    growing = tokenizer.grow()
    assert [growing.push(token) for token in ids] == ["a", "", "", ""]
    assert growing.finish() == "\ufffd"
    assert growing.finish() == ""


def test_special_tokens_have_their_names(smolvlm_folder: Path, llava_folder: Path) -> None:
    assert Tokenizer.of(ModelFiles(smolvlm_folder)).special_tokens["bos_token"] == "<|im_start|>"
    assert Tokenizer.of(ModelFiles(llava_folder)).special_tokens["bos_token"] == "<s>"
    config = {"extra_special_tokens": {"image_token": "<img>"}, "pad_token": None}
    named = Tokenizer(smolvlm_folder / "tokenizer.json", config).special_tokens
    assert named == {"image_token": "<img>"}


def test_truncation_left_in_the_file_does_not_cut_prompts(
    smolvlm_folder: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(smolvlm_folder / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=20)
    backend.save(str(tmp_path / "tokenizer.json"))
    ids = Tokenizer.of(ModelFiles(tmp_path)).encode("one two three four five").ids
    assert ids == tuple(
        Tokenizer.of(ModelFiles(smolvlm_folder)).encode("one two three four five").ids
    )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer file"):
        Tokenizer.of(ModelFiles(tmp_path))


def test_an_unknown_id_is_refused(smolvlm_folder: Path) -> None:
    with pytest.raises(BundleError, match="no token 99999"):
        Tokenizer.of(ModelFiles(smolvlm_folder)).token(99999)
