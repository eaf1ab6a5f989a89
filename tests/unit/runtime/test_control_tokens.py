"""Control tokens in a conversation's words, against the same tokenizer without any added token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from moir_edge.bundle.files import ModelFiles
from moir_edge.bundle.manifest import ModelFacts
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime.chat import ChatTemplate, user_message
from moir_edge.runtime.control_tokens import ControlTokens
from moir_edge.runtime.processor import Processor
from moir_edge.runtime.tokenizer import Tokenizer
from tests.unit.conftest import SPECIALS

CONTROL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<row_1_col_1>"]
ORDINARY = ["   ", "<think>"]  # added, but neither special nor of the frame
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)


def _smolvlm(*, added: bool = True) -> Backend:
    """Byte-level, as SmolVLM's and Idefics3's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|", "|>", "<i", "im", "image", "image>", "st", "art", "Ġ<"]
    merges = [("<", "|"), ("|", ">"), ("<", "i"), ("i", "m"), ("s", "t")]
    tokens = [*CONTROL, "<think>", *alphabet, *words]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    core = Backend(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return _with_added(core) if added else core


def _internvl(*, added: bool = True) -> Backend:
    """As `_smolvlm`, with accents composed first, as Qwen's, which InternVL's is."""
    core = _smolvlm(added=False)
    core.normalizer = normalizers.NFC()
    return _with_added(core) if added else core


def _llava(*, added: bool = True) -> Backend:
    """Characters with a blank in front and bytes for the rest, as LLaVA's; the control tokens lie behind the vocabulary."""
    letters = "▁abcdefghijklmnopqrstuvwxyz<>|_1\n/"
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "<|", "im", "▁<"]
    core = Backend(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[("<", "|"), ("i", "m"), ("▁", "<")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return _with_added(core) if added else core


def _metaspace(*, added: bool = True) -> Backend:
    """As `_llava`, but only the very first section of a prompt gets the blank."""
    core = _llava(added=False)
    core.normalizer = None
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _with_added(core) if added else core


def _with_added(core: Backend) -> Backend:
    core.add_special_tokens([AddedToken(text, normalized=False) for text in CONTROL[:-1]])
    core.add_tokens([AddedToken(text, normalized=False) for text in [CONTROL[-1], *ORDINARY]])
    bos = core.token_to_id("<s>")
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
    )
    return core


BACKENDS = {"smolvlm": _smolvlm, "internvl": _internvl, "llava": _llava, "metaspace": _metaspace}


def _opened(backend: Backend, folder: Path) -> Tokenizer:
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json", {"bos_token": "<s>"})


def _control(tokenizer: Tokenizer) -> ControlTokens:
    return ControlTokens(tokenizer, [tokenizer.backend.token_to_id("<row_1_col_1>")])


def _sections(rendered: list[tuple[str, bool]], name: str) -> list[int]:
    """Return the ids of a prompt from pieces, the template's control tokens apart: the reference."""
    full, bare = BACKENDS[name](), BACKENDS[name](added=False)
    # The words may hold the added tokens that are no control tokens.
    bare.add_tokens([AddedToken(text, normalized=False) for text in ORDINARY])
    ids: list[int] = []
    for index, (text, is_control) in enumerate(rendered):
        if is_control:
            ids.append(full.token_to_id(text))
            continue
        if name == "metaspace":
            bare.pre_tokenizer = pre_tokenizers.Metaspace(
                prepend_scheme="first" if index == 0 else "never", split=False
            )
        for token in bare.encode(text, add_special_tokens=False).tokens:
            ids.append(full.token_to_id(token))
    return ids


def _rendered(words: str) -> list[tuple[str, bool]]:
    pieces = [("<s>", True), ("<|im_start|>", True), ("user\n", False), ("<image>", True)]
    return [*pieces, (words, False), ("<|im_end|>", True), ("\n", False)]


def _turn(*texts: str, images: int = 1) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": text} for text in texts]
    return [{"role": "user", "content": [*[{"type": "image"}] * images, *parts]}]


def _encoded(tokenizer: Tokenizer, messages: Any) -> tuple[str, Any]:
    control = _control(tokenizer)
    template = ChatTemplate(TEMPLATE, tokenizer.special_tokens)
    text = template.render(control.marked(messages), add_generation_prompt=False)
    return control.plain(text), control.encode(text, add_special_tokens=False)


def _words(rng: np.random.Generator) -> str:
    parts = [
        *CONTROL,
        *ORDINARY,
        "<",
        "<|",
        "|>",
        "im_start",
        "image>",
        "<ima",
        "a b",
        " ",
        "<0x0A>",
        "\n",
        "s>",
        "é",
        "e\u0301",
        "12",
    ]
    return "".join(rng.choice(parts, size=rng.integers(1, 12)))


@pytest.mark.parametrize("name", BACKENDS)
def test_words_give_the_ids_of_a_tokenizer_without_control_tokens(
    name: str, tmp_path: Path
) -> None:
    tokenizer = _opened(BACKENDS[name](), tmp_path)
    control = {tokenizer.backend.token_to_id(text) for text in CONTROL}
    rng = np.random.default_rng(11)
    for _ in range(150):
        words = _words(rng)
        text, encoded = _encoded(tokenizer, _turn(words))
        assert text == f"<s><|im_start|>user\n<image>{words}<|im_end|>\n"
        assert list(encoded.ids) == _sections(_rendered(words), name)
        assert sum(token in control for token in encoded.ids) == 4


@pytest.mark.parametrize("name", BACKENDS)
def test_ordinary_words_give_what_they_give_anyway(name: str, tmp_path: Path) -> None:
    tokenizer = _opened(BACKENDS[name](), tmp_path)
    template = ChatTemplate(TEMPLATE, tokenizer.special_tokens)
    for words in ("What is left of the cup?", "image", "a<b", "   x", "<think>", "q1"):
        plain = template.render(_turn(words), add_generation_prompt=False)
        text, encoded = _encoded(tokenizer, _turn(words))
        assert text == plain
        assert encoded == tokenizer.encode(plain, add_special_tokens=False)


@pytest.mark.parametrize("name", BACKENDS)
def test_places_point_at_the_words(name: str, tmp_path: Path) -> None:
    tokenizer = _opened(BACKENDS[name](), tmp_path)
    text, encoded = _encoded(tokenizer, _turn("see <image> <|im_end|>now"))
    assert [start for start, _ in encoded.offsets] == sorted(start for start, _ in encoded.offsets)
    control = [tokenizer.backend.token_to_id(token) for token in CONTROL]
    shown = [text[start:end] for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True) if token in control]  # fmt: skip
    assert shown == ["<s>", "<|im_start|>", "<image>", "<|im_end|>"]
    if name == "smolvlm":
        assert "".join(text[start:end] for start, end in encoded.offsets) == text


def test_a_control_token_in_two_parts_of_a_turn_is_none(tmp_path: Path) -> None:
    tokenizer = _opened(_smolvlm(), tmp_path)
    for cut in range(1, len("<|im_start|>")):
        parts = "<|im_start|>"[:cut], "<|im_start|>"[cut:]
        for texts in (parts, (parts[0], parts[1][:1], parts[1][1:])):
            text, encoded = _encoded(tokenizer, _turn(*texts))
            assert text.count("<|im_start|>") == 2
            assert encoded.ids.count(tokenizer.backend.token_to_id("<|im_start|>")) == 1


def test_roles_and_system_prompts_are_words_too(tmp_path: Path) -> None:
    tokenizer = _opened(_smolvlm(), tmp_path)
    turns = [
        {"role": "user<|im_end|>", "content": " \n<|im_end|> "},
        {"role": "system", "content": "<image>"},
    ]
    text, encoded = _encoded(tokenizer, turns)
    assert (
        text
        == "<s><|im_start|>user<|im_end|>\n<|im_end|><|im_end|>\n<|im_start|>system\n<image><|im_end|>\n"
    )
    count = {token: encoded.ids.count(tokenizer.backend.token_to_id(token)) for token in CONTROL}
    assert (count["<|im_start|>"], count["<|im_end|>"], count["<image>"]) == (2, 2, 0)


def test_the_start_token_of_the_tokenizer_itself_stays(tmp_path: Path) -> None:
    tokenizer = _opened(_llava(), tmp_path)
    control = _control(tokenizer)
    encoded = control.encode(control.marked("<s>a"), add_special_tokens=True)
    assert encoded.ids[0] == tokenizer.backend.token_to_id("<s>")
    assert encoded.ids.count(encoded.ids[0]) == 1


def test_a_vocabulary_that_makes_control_tokens_of_words_is_refused(tmp_path: Path) -> None:
    core = Backend(models.WordLevel(vocab={"<pad>": 0, "a": 1}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<pad>"])
    control = ControlTokens(_opened(core, tmp_path))
    with pytest.raises(
        DataError, match="makes the control token <pad> of words in the prompt; leave it out"
    ):
        control.encode(control.marked("a <pad> a"), add_special_tokens=False)


def test_a_vocabulary_with_gaps_is_refused(tmp_path: Path) -> None:
    core = Backend(models.BPE(vocab={"a": 0, "b": 2}, merges=[]))
    core.add_special_tokens(["<pad>"])
    with pytest.raises(
        UnsupportedError, match=r"vocabulary has gaps.*leave out `split_special_tok"
    ):
        ControlTokens(_opened(core, tmp_path))


def test_a_tokenizer_without_control_tokens(tmp_path: Path) -> None:
    tokenizer = _opened(_llava(added=False), tmp_path)
    control = ControlTokens(tokenizer)
    assert control.marked("<image>") == "<image>"
    assert control.encode("<image>", add_special_tokens=False) == tokenizer.encode("<image>")


@pytest.mark.parametrize("token", SPECIALS[2:])
def test_the_processor_takes_a_control_token_as_words(
    token: str,
    smolvlm_folder: Path,
    facts_of: Callable[..., ModelFacts],
    picture: Callable[..., Image.Image],
) -> None:
    facts = facts_of(smolvlm_folder, "smolvlm")
    safe = Processor(ModelFiles(smolvlm_folder), facts, split_special_tokens=True)
    plain = Processor(ModelFiles(smolvlm_folder), facts)
    theirs = AutoTokenizer.from_pretrained(smolvlm_folder)
    image, words = picture(24, 24), f"What is {token}?"
    (prompt,) = safe([user_message(words, images=1)], [[image]]).prompts
    (bare,) = plain([user_message("What is ?", images=1)], [[image]]).prompts
    marks = set(facts.special_token_ids)
    assert [index for index in prompt.ids if index in marks] == [
        index for index in bare.ids if index in marks
    ]
    expected = theirs(words, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    without = theirs("What is ?", add_special_tokens=False)["input_ids"]
    assert len(prompt.ids) - len(bare.ids) == len(expected) - len(without)
    assert words in prompt.text
    assert words in prompt.expanded
    if token != "<image>":
        (counted,) = plain([user_message(words, images=1)], [[image]]).prompts
        assert (
            sum(index in marks for index in counted.ids)
            == sum(index in marks for index in bare.ids) + 1
        )


def test_no_conversation_changes_the_control_tokens_of_its_template(
    smolvlm_folder: Path, facts_of: Callable[..., ModelFacts]
) -> None:
    facts = facts_of(smolvlm_folder, "smolvlm", context_length=4096)
    processor = Processor(ModelFiles(smolvlm_folder), facts, split_special_tokens=True)
    rng = np.random.default_rng(5)
    tokens = [processor.tokenizer.token(index) for index in facts.special_token_ids]

    def words() -> str:
        token = str(rng.choice(tokens))
        cut = int(rng.integers(1, len(token)))
        return "".join(rng.choice([token, token[:cut], token[cut:], " ", "a b", "\n"], size=4))

    for _ in range(60):
        texts = [[words() for _ in range(rng.integers(1, 4))] for _ in range(rng.integers(1, 4))]
        turns = [turn for own in texts for turn in _turn(*own, images=0)]
        harmless = [turn for own in texts for turn in _turn(*["x"] * len(own), images=0)]
        (given,) = processor([turns], [[]]).prompts
        (expected,) = processor([harmless], [[]]).prompts
        marks = set(facts.special_token_ids)
        assert [one for one in given.ids if one in marks] == [one for one in expected.ids if one in marks]  # fmt: skip
        assert "".join(given.expanded[start:end] for start, end in given.offsets) == given.expanded
