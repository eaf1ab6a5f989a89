"""Tokenizers of a forged bundle: each part of `tokenizer.json` in other forms, valid ones and wrong ones."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.folders import link_copy, prove_again, rewrite
from tests.fuzz.mutate.json_text import alter_json

PROMPT = "What is left of the red digit? é 漢字 🙂  12345\t\n"
_NUMBERS = (0, 1, -1, 3, 511, 512, 10**6, 2**31, 2**32, 2**63, 1.5, None, "3", True)
_TEXTS = ("", " ", "a", "é", "Ġ", "▁", "<image>", "<unk>", "x" * 5000, "\ud83d", "\0", "##")
_PATTERNS: tuple[Any, ...] = ({"String": " "}, {"String": ""}, {"Regex": r"\s+"}, {"Regex": "("}, {"Regex": ""}, {"Regex": "[a-z]|."}, {}, None, 3)  # fmt: skip
_BEHAVIOURS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Other")


@register
class Tokenizers(Area):
    """The parts of a tokenizer."""

    name = "tokenizers"
    share = 900
    sliced = 20
    needs = ("int4",)

    def warm(self) -> None:
        self.attempt(self.seeds / "int4")

    def strategies(self) -> Sequence[Strategy]:
        return (self._parts, self._vocabulary, self._added, self._settings, self._parts)

    def attempt(self, payload: Any) -> None:
        from moir_edge import load

        tokenizer = load(payload, threads=1, provider="cpu").processor.tokenizer
        ids = tokenizer.encode(PROMPT).ids
        tokenizer.decode(ids)
        growing = tokenizer.grow()
        for one in (*ids[:40], 0, 1, 510):
            growing.push(one)
        growing.finish()

    def _parts(self, rng: random.Random, folder: Path) -> Case:
        part, make = rng.choice(
            (
                ("normalizer", _normalizer),
                ("pre_tokenizer", _pre_tokenizer),
                ("post_processor", _post_processor),
                ("decoder", _decoder),
            )
        )
        value = make(rng, 2)
        return self._case(rng, folder, {part: value}, f"{part}: {ascii(value)[:100]}")

    def _vocabulary(self, rng: random.Random, folder: Path) -> Case:
        tokenizer = json.loads((self.seeds / "int4" / "tokenizer.json").read_text())
        model = tokenizer["model"]
        way = rng.choice(("ids", "gap", "merges", "type", "unigram", "drop", "large", "option"))
        names = list(model["vocab"])
        if way == "ids":
            model["vocab"][rng.choice(names)] = rng.choice(_NUMBERS)
        elif way == "gap":
            model["vocab"][rng.choice(names)] = 10**6
        elif way == "drop":
            for name in rng.sample(names, rng.choice((1, 10, 200))):
                del model["vocab"][name]
        elif way == "merges":
            odd: tuple[Any, ...] = (
                "a b",
                "a",
                ["a", "b", "c"],
                ["a"],
                [],
                3,
                None,
                ["é", ""],
                ["a", "zzzz"],
            )
            model["merges"] = [*model.get("merges", []), *rng.choices(odd, k=rng.choice((1, 3)))]
        elif way == "large":
            model["vocab"] |= {f"token{at}": 512 + at for at in range(rng.choice((1000, 100_000)))}
        elif way == "type":
            model["type"] = rng.choice(("WordLevel", "WordPiece", "Unigram", "BPE", "Other", None))
            model["unk_token"] = rng.choice(("<unk>", names[0], None))
        elif way == "unigram":
            pieces = [[name, -rng.random()] for name in names]
            model = {
                "type": "Unigram",
                "unk_id": rng.choice((*_NUMBERS, 5)),
                "vocab": pieces,
                "byte_fallback": rng.random() < 0.5,
            }
        else:
            key = rng.choice(
                (
                    "dropout",
                    "unk_token",
                    "continuing_subword_prefix",
                    "end_of_word_suffix",
                    "fuse_unk",
                    "byte_fallback",
                    "ignore_merges",
                )
            )
            model[key] = rng.choice((*_NUMBERS, *_TEXTS, 0.5, float("nan")))
        return self._case(rng, folder, {"model": model}, f"model: {way}")

    def _added(self, rng: random.Random, folder: Path) -> Case:
        tokenizer = json.loads((self.seeds / "int4" / "tokenizer.json").read_text())
        added = tokenizer["added_tokens"]
        for _ in range(rng.choice((1, 1, 2))):
            one = rng.choice(added)
            key = rng.choice(sorted(one))
            one[key] = (
                rng.choice((*_TEXTS, *_NUMBERS))
                if key in ("content", "id")
                else rng.choice((True, False, None, 1))
            )
        if rng.random() < 0.1:
            added += [
                {**added[0], "id": 600 + at, "content": f"<{at}>"}
                for at in range(rng.choice((3, 20_000)))
            ]
        return self._case(rng, folder, {"added_tokens": added}, f"added tokens: {ascii(one)[:80]}")

    def _settings(self, rng: random.Random, folder: Path) -> Case:
        """Alter any part as JSON."""
        path = self._copy(folder) / "tokenizer.json"
        text, how = alter_json(rng, path.read_text())
        rewrite(path, text)
        prove_again(path.parent)
        return Case(f"tokenizer.json: {how}", path.parent)

    def _copy(self, folder: Path) -> Path:
        return link_copy(self.seeds / "int4", folder / "bundle")

    def _case(self, rng: random.Random, folder: Path, parts: dict[str, Any], how: str) -> Case:
        path = self._copy(folder) / "tokenizer.json"
        tokenizer = json.loads(path.read_text()) | parts
        if rng.random() < 0.1:
            limits = {
                "max_length": rng.choice(_NUMBERS),
                "strategy": "LongestFirst",
                "stride": rng.choice(_NUMBERS),
                "direction": "Right",
            }
            tokenizer["truncation"] = limits
        rewrite(path, json.dumps(tokenizer))
        prove_again(path.parent)
        return Case(how, path.parent)


def _sequence(rng: random.Random, depth: int, key: str, make: Any) -> dict[str, Any]:
    return {"type": "Sequence", key: [make(rng, depth - 1) for _ in range(rng.randint(0, 3))]}


def _normalizer(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.4:
        return _sequence(rng, depth, "normalizers", _normalizer)
    return rng.choice(
        (
            {"type": rng.choice(("NFC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel", "Other"))},
            {"type": "Replace", "pattern": rng.choice(_PATTERNS), "content": rng.choice(_TEXTS)},
            {"type": "Prepend", "prepend": rng.choice(_TEXTS)},
            {"type": "Strip", "strip_left": True, "strip_right": rng.choice((True, False, None))},
            {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
            {"type": "Precompiled", "precompiled_charsmap": rng.choice(("", "AAAA", "x", None))},
            None,
        )
    )  # fmt: skip


def _pre_tokenizer(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.4:
        return _sequence(rng, depth, "pretokenizers", _pre_tokenizer)
    return rng.choice(
        (
            {"type": rng.choice(("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts", "Other"))},
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": rng.random() < 0.5},
            {"type": "Split", "pattern": rng.choice(_PATTERNS), "behavior": rng.choice(_BEHAVIOURS), "invert": rng.random() < 0.5},
            {"type": "Metaspace", "replacement": rng.choice(_TEXTS), "prepend_scheme": rng.choice(("always", "never", "x"))},
            {"type": "Digits", "individual_digits": True},
            {"type": "Punctuation", "behavior": rng.choice(_BEHAVIOURS)},
            {"type": "CharDelimiterSplit", "delimiter": rng.choice(_TEXTS)},
            {"type": "FixedLength", "length": rng.choice(_NUMBERS)},
            None,
        )
    )  # fmt: skip


def _post_processor(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.3:
        return _sequence(rng, depth, "processors", _post_processor)
    pair = [rng.choice(_TEXTS), rng.choice(_NUMBERS)]
    piece = rng.choice(
        (
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<x>", "type_id": 0}},
            {"Sequence": {"id": "C", "type_id": -1}},
        )
    )
    return rng.choice(
        (
            {"type": "TemplateProcessing", "single": [piece] * rng.choice((0, 1, 2, 3000)), "pair": [piece], "special_tokens": {}},
            {"type": "TemplateProcessing", "single": [piece], "pair": [piece], "special_tokens": {"<x>": {"id": "<x>", "ids": [rng.choice(_NUMBERS)], "tokens": ["<x>"]}}},
            {"type": "RobertaProcessing", "sep": pair, "cls": pair, "trim_offsets": True, "add_prefix_space": True},
            {"type": "BertProcessing", "sep": pair, "cls": pair},
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            None,
        )
    )  # fmt: skip


def _decoder(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.4:
        return _sequence(rng, depth, "decoders", _decoder)
    return rng.choice(
        (
            {"type": rng.choice(("ByteFallback", "Fuse", "ByteLevel", "Other"))},
            {"type": "Replace", "pattern": rng.choice(_PATTERNS), "content": rng.choice(_TEXTS)},
            {"type": "Strip", "content": rng.choice(_TEXTS), "start": rng.choice(_NUMBERS), "stop": rng.choice(_NUMBERS)},
            {"type": "WordPiece", "prefix": rng.choice(_TEXTS), "cleanup": True},
            {"type": "CTC", "pad_token": rng.choice(_TEXTS), "word_delimiter_token": rng.choice(_TEXTS), "cleanup": True},
            {"type": "BPEDecoder", "suffix": rng.choice(_TEXTS)},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            None,
        )
    )  # fmt: skip
