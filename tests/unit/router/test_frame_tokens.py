"""Which tokens of a tokenizer are marks or newlines, and where `retrofit` finds the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import AutoTokenizer, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from moir_edge.errors import DataError
from moir_edge.router import newline_token_ids, retrofit, special_token_ids

MARKS = ["<pad>", "<s>", "</s>", "<image>", "<global-img>"]


def byte_level() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer as SmolVLM's: one and two newlines are ordinary words, row marks are added tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = "\u010a"
    words = [*MARKS, *alphabet, newline * 2]
    core = Tokenizer(BPE({word: index for index, word in enumerate(words)}, [(newline, newline)]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(MARKS)
    core.add_tokens([AddedToken("<row_1_col_1>", special=False), AddedToken("  ", special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def test_marks_that_a_reloaded_tokenizer_forgets_are_found(tmp_path: Path) -> None:
    core = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "red": 2, "<global-img>": 3}, "<pad>"))
    core.add_special_tokens(["<pad>", "<eos>", "<global-img>"])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert sorted(tokenizer.all_special_ids) == [0, 1]
    assert special_token_ids(tokenizer) == (0, 1, 3)


def test_added_marks_are_found_whether_special_or_not_and_added_text_is_not() -> None:
    tokenizer = byte_level()
    row, spaces = tokenizer.convert_tokens_to_ids(["<row_1_col_1>", "  "])
    found = special_token_ids(tokenizer)
    assert set(found) == {0, 1, 2, 3, 4, row}
    assert spaces not in found


def test_newline_tokens_of_a_byte_level_tokenizer() -> None:
    tokenizer = byte_level()
    expected = {
        tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("\n", "\n\n", "\r")
    }
    assert len(expected) == 3
    assert set(newline_token_ids(tokenizer)) == expected


def test_newline_tokens_of_a_sentencepiece_vocabulary() -> None:
    # bytes that the vocabulary has no piece for fall back to <0x0A>
    words = ["<unk>", "<0x0A>", "<0x41>", "\n\n", "\u2581red", "\u010a"]
    core = Tokenizer(BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    # the letter that byte-level tokenizers write a newline with is a letter here
    assert newline_token_ids(tokenizer) == (1, 3)


def test_retrofit_takes_the_marks_of_a_tokenizer_or_a_processor(vlm: Any) -> None:
    tokenizer = byte_level()
    retrofit(vlm.model, tokenizer=LlavaProcessor(CLIPImageProcessorPil(), tokenizer, patch_size=8))
    record = vlm.model.config.moir_router
    assert record["special_token_ids"] == list(special_token_ids(tokenizer))
    assert record["newline_token_ids"] == list(newline_token_ids(tokenizer))


def test_retrofit_finds_the_tokenizer_beside_the_weights(vlm: Any, tmp_path: Path) -> None:
    tokenizer = byte_level()
    vlm.model.save_pretrained(tmp_path)
    model = type(vlm.model).from_pretrained(tmp_path)
    retrofit(model)
    assert model.config.moir_router["special_token_ids"] == [0, 1, 2]
    assert model.config.moir_router["newline_token_ids"] == []
    tokenizer.save_pretrained(tmp_path)
    model = type(vlm.model).from_pretrained(tmp_path)
    retrofit(model)
    assert model.config.moir_router["special_token_ids"] == list(special_token_ids(tokenizer))
    assert model.config.moir_router["newline_token_ids"] == list(newline_token_ids(tokenizer))


def test_a_broken_tokenizer_beside_the_weights_is_named(vlm: Any, tmp_path: Path) -> None:
    vlm.model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    model = type(vlm.model).from_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"the tokenizer of .* cannot be read .*pass tokenizer="):
        retrofit(model)
    assert not hasattr(model.config, "moir_router")
