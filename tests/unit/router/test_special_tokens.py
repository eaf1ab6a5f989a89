"""Which tokens of a tokenizer never take part in routing."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from moir_edge.router import special_token_ids


def test_marks_that_a_reloaded_tokenizer_forgets_are_found(tmp_path: Path) -> None:
    core = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "red": 2, "<global-img>": 3}, "<pad>"))
    core.add_special_tokens(["<pad>", "<eos>", "<global-img>"])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert sorted(tokenizer.all_special_ids) == [0, 1]
    assert special_token_ids(tokenizer) == (0, 1, 3)
