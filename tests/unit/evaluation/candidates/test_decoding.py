"""A checkpoint and its fp32 bundle stay alike under every generation config, and reports name what neither follows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moir_edge.bundle import open_bundle, seal
from moir_edge.bundle.files import ModelFiles
from moir_edge.data.answers import Answer
from moir_edge.data.rows import Row
from moir_edge.evaluation import CompareSettings, compare
from moir_edge.evaluation.candidates import load_candidate, spec_of
from moir_edge.evaluation.candidates.decoding import decoding_notices
from moir_edge.runtime.tokenizer import Tokenizer

pytestmark = pytest.mark.slow  # traces and exports a model once, some seconds on an idle machine

BASE = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture
def twins(checkpoint: Path, bundle: Path, tmp_path: Path) -> Callable[[dict[str, Any]], list[Path]]:
    """Return a function that copies checkpoint and bundle and gives both one generation config."""

    def make(settings: dict[str, Any]) -> list[Path]:
        copies = [tmp_path / "checkpoint", tmp_path / "bundle"]
        for source, copy in zip((checkpoint, bundle), copies, strict=True):
            shutil.copytree(source, copy, dirs_exist_ok=True)
            text = json.dumps({**BASE, **settings})
            (copy / "generation_config.json").write_text(text, encoding="utf-8")
        seal(copies[1], open_bundle(copies[1], verify=False).manifest)
        return copies

    return make


def _answers(folder: Path, rows: list[Row]) -> list[Answer]:
    return load_candidate(spec_of(folder, threads=1, max_new_tokens=8)).answer(rows)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        # Padding would count here: rows of different length, one batch.
        {"min_length": 60, "encoder_repetition_penalty": 1.3, "suppress_tokens": [9, 11]},
        # Nothing of this is carried; transformers alone would search by beams.
        {"num_beams": 3, "num_return_sequences": 2, "max_time": 1e-9, "guidance_scale": 1.5,
         "watermarking_config": {"bias": 9.0}, "penalty_alpha": 0.6, "top_k": 4, "do_sample": True},
    ],
    ids=lambda one: "+".join(one),
)  # fmt: skip
def test_both_sides_follow_one_rule(
    twins: Callable[[dict[str, Any]], list[Path]], picture_rows: list[Row], settings: dict[str, Any]
) -> None:
    single = [row for row in picture_rows if len(row.images) == 1]
    theirs, ours = (_answers(folder, single) for folder in twins(settings))
    assert ours == theirs
    assert any(answer.token_ids for answer in ours)


def test_a_stop_string_of_the_config_ends_both(
    twins: Callable[[dict[str, Any]], list[Path]], picture_rows: list[Row]
) -> None:
    single = [row for row in picture_rows if len(row.images) == 1]
    folders = twins({})
    plain = _answers(folders[1], single)
    tokens = max((answer.token_ids for answer in plain), key=len)
    assert len(tokens) > 3
    # Random weights answer in special tokens, which stop as words do.
    word = Tokenizer.of(ModelFiles(folders[1])).token(tokens[2])
    theirs, ours = (_answers(folder, single) for folder in twins({"stop_strings": word}))
    assert ours == theirs
    assert ours != plain


def test_end_tokens_are_found_where_export_finds_them(
    twins: Callable[[dict[str, Any]], list[Path]], picture_rows: list[Row]
) -> None:
    # The generation config names no end token, the model's config does.
    theirs, ours = (_answers(folder, picture_rows[:2]) for folder in twins({"eos_token_id": None}))
    assert ours == theirs


def test_the_report_names_what_is_not_carried(
    twins: Callable[[dict[str, Any]], list[Path]], picture_rows: list[Row], tmp_path: Path
) -> None:
    folders = twins({"num_beams": 2, "frobnicate": 7, "repetition_penalty": 1.4})
    data = tmp_path / "rows.jsonl"
    lines = [
        {"image": str(row.images[0]), "prompt": row.prompt, "answers": ["red"]}
        for row in picture_rows
    ]
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    report = compare(
        folders[0],
        [folders[1]],
        data,
        settings=CompareSettings(latency_rows=1, latency_repeats=1, max_new_tokens=4, threads=1),
    )
    # A busy machine has a notice of its own.
    (notice,) = [one for one in report.notices if "generation_config" in one]
    assert "without these settings of generation_config.json: num_beams=2 (beam search" in notice
    assert "frobnicate=7 (this version does not know it)" in notice
    agreement = report.candidates[1].token_agreement
    assert agreement is not None
    assert agreement.identical == 1


def test_different_generation_configs_are_named(
    twins: Callable[[dict[str, Any]], list[Path]],
) -> None:
    folders = twins({"repetition_penalty": 1.2, "top_k": 3})
    config = folders[1] / "generation_config.json"
    specs = [spec_of(folder, threads=1, max_new_tokens=4) for folder in folders]
    config.write_text(json.dumps({**BASE, "repetition_penalty": 1.2, "max_new_tokens": 9}))
    assert decoding_notices(specs) == ()
    config.write_text(json.dumps(BASE))
    (notice,) = decoding_notices(specs)
    assert notice.startswith("The generation_config.json of bundle asks for other answers than")
