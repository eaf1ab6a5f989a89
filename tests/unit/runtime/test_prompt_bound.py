"""The bound on characters follows from the tokenizer, and refuses nothing that fits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from moir_edge.errors import DataError
from moir_edge.limits import CHARACTERS_PER_TOKEN
from moir_edge.runtime.prompt_bound import PromptBound, characters_of
from tests.unit.conftest import build_tokenizer

TEXTS = [
    "the cup is left of the spoon " * 3,
    "    " * 40 + "if x:",
    "ℵ ﷺ café ΐ ᾧ naïve 한국어",
    "𝔘" * 9,
]


def _trained(core: Tokenizer, trainer: Any, texts: Sequence[str] = TEXTS) -> Tokenizer:
    core.train_from_iterator(list(texts) * 4, trainer)
    return core


def _byte_level(*parts: Any, texts: Sequence[str] = TEXTS) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    return _trained(core, trainer, texts)


def _llama() -> Tokenizer:
    """A BPE of characters with bytes for those it lacks, as LLaVA's, whose texts get a blank in front."""
    trained = _trained(
        Tokenizer(models.BPE()), trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for token in trained.get_vocab():
        vocabulary.setdefault(token.replace(" ", "▁"), len(vocabulary))
    core = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return core


def _with(core: Tokenizer, *, normalizer: Any = None, added: AddedToken | None = None) -> Tokenizer:
    core.normalizer = normalizer or core.normalizer
    core.add_special_tokens([added] if added else [])
    return core


BOUNDED = {
    "bytes": lambda: build_tokenizer().backend_tokenizer,
    "smolvlm": lambda: _byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "qwen": lambda: _with(
        _byte_level(pre_tokenizers.Split(Regex(r"\s+"), "isolated")), normalizer=normalizers.NFC()
    ),
    "llava": _llama,
    "unknown characters one by one": lambda: Tokenizer(
        models.BPE(vocab={"?": 0, "a": 1}, merges=[], unk_token="?")
    ),
}
UNBOUNDED = {
    "words": lambda: Tokenizer(models.WordLevel(vocab={"a": 0}, unk_token="a")),
    "unigram": lambda: Tokenizer(models.Unigram([("?", 0.0)], unk_id=0)),
    "characters without a token": lambda: Tokenizer(models.BPE(vocab={"a": 0}, merges=[])),
    "runs of unknown characters": lambda: Tokenizer(
        models.BPE(vocab={"?": 0}, merges=[], unk_token="?", fuse_unk=True)
    ),
    "blanks removed": lambda: _byte_level(pre_tokenizers.WhitespaceSplit()),
    "blanks removed by a split": lambda: _byte_level(pre_tokenizers.Split(" ", "removed")),
    "blanks stripped": lambda: _with(_llama(), normalizer=normalizers.Strip()),
    "blanks replaced by a pattern": lambda: _with(
        _llama(), normalizer=normalizers.Replace(Regex(" +"), " ")
    ),
    "blanks taken by a token": lambda: _with(_llama(), added=AddedToken("<mask>", lstrip=True)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_has_more_characters_for_each_token_than_the_bound(name: str) -> None:
    backend = BOUNDED[name]()
    per_token = PromptBound(backend, 2).most_characters
    longest = max(map(len, backend.get_vocab()))
    assert per_token == longest * (4 if name == "qwen" else 1)
    rng = np.random.default_rng(0)
    letters = [*"abc the  \n\t0123ﷺ한̈͂ͅα𝔘", *backend.get_vocab()]
    for length in rng.integers(1, 200, size=200):
        text = "".join(rng.choice(letters, size=length))
        assert len(text) <= per_token * len(backend.encode(text).ids)


def test_the_longest_tokens_alone_fill_the_context_exactly() -> None:
    backend = _byte_level(texts=[" understanding" * 5])
    bound = PromptBound(backend, 101)
    text = " understanding" * 100
    assert len(backend.encode(text).ids) == 100
    assert len(text) == bound.most_characters
    bound.check(len(text))
    with pytest.raises(DataError, match=rf"has {len(text) + 1} characters, and the model's context of 101 tokens holds {len(text)} at most; shorten"):  # fmt: skip
        bound.check(len(text) + 1)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_a_tokenizer_that_drops_characters_has_the_general_bound(name: str) -> None:
    assert PromptBound(UNBOUNDED[name](), 11).most_characters == 10 * CHARACTERS_PER_TOKEN


def test_short_prompts_do_not_look_at_the_vocabulary() -> None:
    PromptBound(None, 100).check(99)


def test_the_characters_of_a_conversation_are_those_of_all_its_strings() -> None:
    turns = [
        {"role": "system", "content": "  be brief \n"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "why?"}]},
        {"role": "user", "content": None, "n": 7, "raw": b"1234"},
    ]
    assert characters_of(turns) == len("systembe briefuserwhy?user")


def test_a_conversation_that_holds_itself_is_refused() -> None:
    turn: dict[str, Any] = {"role": "user"}
    turn["content"] = [turn]
    doubled: Any = "x"
    for _ in range(60):
        doubled = [doubled, doubled]
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    for messages in ([turn], doubled, nested):
        with pytest.raises(
            DataError, match="nested deeper than 64 levels or has more than 1000000"
        ):
            characters_of(messages)


_COST = """
import sys, time
from pathlib import Path
from moir_edge.bundle.files import ModelFiles
from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import DataError
from moir_edge.runtime.processor import Processor
from moir_edge.runtime.timing import peak_memory_bytes
facts = ModelFacts.model_validate_json(sys.argv[2])
processor = Processor(ModelFiles(Path(sys.argv[1])), facts)
turns = [{"role": "user", "content": [{"type": "text", "text": "long word " * 1_000_000}]}]
before, start = peak_memory_bytes(), time.process_time()
try:
    processor([turns], [[]])
except DataError as error:
    print(time.process_time() - start, peak_memory_bytes() - before, error)
"""


def test_ten_megabytes_are_refused_at_once(smolvlm_folder: Path, facts_of: Any) -> None:
    facts = facts_of(smolvlm_folder, "smolvlm").model_dump_json()
    words = [sys.executable, "-c", _COST, str(smolvlm_folder), facts]
    child = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds, peak, message = child.stdout.split(maxsplit=2)
    # 50 ms of a quiet core is what it may cost; one that is shared computes more slowly.
    assert float(seconds) < 0.2
    assert int(peak) < 20 << 20
    assert message.startswith("the prompt has 10000003 characters, and the model's context of")
