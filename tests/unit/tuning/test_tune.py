"""`moir-edge tune` on the shipped checkpoint: what changes, what stays, kill and resume, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moir_edge.cli.main import main
from moir_edge.data.rows import Row
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.router import load_retrofitted, remove_router, retrofit
from moir_edge.runtime.prompt_bound import PromptBound
from moir_edge.tuning import TuneSettings, training_folder, tune
from moir_edge.tuning.balancing import mwam
from moir_edge.tuning.balancing.frequency import frequency_ratio
from moir_edge.tuning.data import AnswerBatches
from moir_edge.tuning.trainer import RouterTrainer


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def _words(output: Path, data: Path, *more: object) -> list[str]:
    words = ["tune", checkpoint_path(), "-o", output, "--data", data, "--batch-size", 3, *more]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def uninterrupted(train_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps with MWAM and evaluations, the reference of the resumed run."""
    output = tmp_path_factory.mktemp("whole") / "tuned"
    settings = TuneSettings(steps=6, batch_size=3, checkpoint_every=1, balance_method="mwam-loss")
    tune(checkpoint_path(), output, train_file, eval_data=train_file, settings=settings)
    return output


def test_router_changes_and_the_backbone_stays_to_the_bit(uninterrupted: Path) -> None:
    model = load_retrofitted(checkpoint_path(), dtype=torch.float32)
    after = load_retrofitted(uninterrupted).state_dict()
    changed = {name for name, value in model.state_dict().items() if not after[name].equal(value)}
    assert changed
    assert all(name.startswith("moir_router.") for name in changed)
    assert not training_folder(uninterrupted).exists()
    log = json.loads((uninterrupted / "tuning.json").read_text())["log"]
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert all({"frm_image", "frm_text", "k_image", "k_text"} <= set(entry) for entry in steps)


def test_killed_run_resumes_to_the_same_weights(train_file: Path, tmp_path: Path) -> None:
    whole, output, damaged = (tmp_path / name for name in ("whole", "tuned", "damaged"))
    more = ("--steps", 6, "--checkpoint-every", 1, "--balance-method", "mwam-loss")
    words, reference, from_older = (
        [*_words(folder, train_file, *more), "--eval-data", str(train_file)]
        for folder in (output, whole, damaged)
    )
    with _process_of_equal_sums(words, start=("-c", _KILLED)) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    assert main(words) == 2  # an unfinished run is not discarded unasked
    assert main([*words, "--learning-rate", "0.01", "--resume"]) == 2
    shutil.copytree(training_folder(output), training_folder(damaged))
    newest = max(training_folder(damaged).glob("checkpoint-*/complete.json")).parent
    _flip_a_bit(newest / "optimizer.pt")
    said = {}
    for run in ([*words, "--resume"], [*from_older, "--resume"], reference):
        with _process_of_equal_sums(run, stderr=subprocess.PIPE) as process:
            said[run[3]] = process.communicate()[1].decode()
            assert process.returncode == 0
    step = int(newest.name.rpartition("-")[2])
    assert (
        f"a training checkpoint is not whole: {newest}/optimizer.pt has another SHA-256 than was written; "
        f"going on from step {step - 1}\n" in said[str(damaged)]
    )
    expected = _weights(whole)
    for folder in (output, damaged):
        got = _weights(folder)
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert got[name].equal(value), name
        logs = [json.loads((f / "tuning.json").read_text())["log"] for f in (whole, folder)]
        theirs, ours = ([entry["k_text"] for entry in log if "k_text" in entry] for log in logs)
        assert len(ours) == 6
        assert ours == theirs


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# The command, killed at its fourth step.
_KILLED = """
import os, signal, sys
from moir_edge.__main__ import main
from moir_edge.tuning.trainer import RouterTrainer
step, left = RouterTrainer.training_step, [4]
def counted(*words, **named):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*words, **named)
RouterTrainer.training_step = counted
sys.exit(main())
"""


def _process_of_equal_sums(
    words: list[str], *, start: tuple[str, ...] = ("-m", "moir_edge"), **more: Any
) -> subprocess.Popen[bytes]:
    """Start the command so that equal inputs give equal bits.

    A sum of floats depends on its order. One thread fixes it, and MKL_CBWR keeps MKL from choosing it by where an array lies in memory.
    """
    command = [sys.executable, *start, *words]
    return subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"}, **more
    )


@pytest.mark.parametrize("mode", ["mwam-loss", "mwam-hybrid"])
def test_command_line_with_evaluation_and_early_stop(
    mode: str, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "tuned"
    words = _words(
        output, train_file, "--steps", 2, "--checkpoint-every", 1, "--balance-method", mode
    )
    assert main([*words, "--eval-data", str(train_file), "--early-stop", "1", "--json", "-q"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""
    assert report == json.loads((output / "tuning.json").read_text())
    assert report["steps"] == 2
    assert report["trained_parameters"] < report["parameters"] / 10
    # the weights that were kept are the best ones that were evaluated; the same batches, so the same sums
    *seen, last = [entry["eval_loss"] for entry in report["log"] if "eval_loss" in entry]
    assert report["eval_loss"] == last == min(seen)
    assert len(seen) == 2
    assert main([*words, "--eval-data", str(train_file)]) == 2  # the output exists


def test_training_everything_lowers_the_loss(train_file: Path, tmp_path: Path) -> None:
    settings = TuneSettings(train="full", steps=4, batch_size=6, learning_rate=2e-4)
    report = tune(
        checkpoint_path(), tmp_path / "tuned", train_file, eval_data=train_file, settings=settings
    )
    assert report.trained_parameters == report.parameters
    assert report.first_eval_loss is not None
    assert report.eval_loss is not None
    assert report.eval_loss < report.first_eval_loss
    embeddings = "model.text_model.embed_tokens.weight"
    before, after = _weights(checkpoint_path()), _weights(tmp_path / "tuned")
    assert not before[embeddings].float().equal(after[embeddings])


def _with_a_fresh_router(folder: Path) -> Path:
    """Write the demo's VLM with a router that changes nothing: how a trained one rounds is not what the caller is about."""
    shutil.copytree(checkpoint_path(), folder)
    model = load_retrofitted(checkpoint_path(), dtype=torch.float32)
    config = model.moir_router.config
    remove_router(model)
    torch.manual_seed(0)
    retrofit(model, config, special_token_ids=())
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("mode", [None, "mwam-hybrid"])
def test_bf16_steps_leave_weights_and_evaluations_in_float32(
    mode: str | None, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, torch.dtype]] = []
    loss = RouterTrainer.compute_loss

    def watched(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        head = model.lm_head.register_forward_hook(
            lambda module, _, logits: seen.append((module.training, logits.dtype))
        )
        try:
            return loss(self, model, *args, **kwargs)
        finally:
            head.remove()

    monkeypatch.setattr(RouterTrainer, "compute_loss", watched)
    fresh = _with_a_fresh_router(tmp_path / "fresh")
    reports = {}
    for dtype in ("fp32", "bf16"):
        settings = TuneSettings(steps=2, batch_size=6, dtype=dtype, balance_method=mode)
        reports[dtype] = tune(
            fresh, tmp_path / dtype, train_file, eval_data=train_file, settings=settings
        )
        training = torch.float32 if dtype == "fp32" else torch.bfloat16
        assert set(seen) == {(True, training), (False, torch.float32)}
        seen.clear()
    exact, cast = reports["fp32"], reports["bf16"]
    # before the first step the two are one model, evaluated in one way
    assert cast.first_eval_loss == exact.first_eval_loss
    assert cast.first_loss != exact.first_loss
    # bfloat16 keeps 8 bits: 2^-9 per product; a branch alone, all other rows zero, magnifies it
    tolerance = 2e-2 if mode is None else 1e-1
    assert cast.first_loss == pytest.approx(exact.first_loss, rel=tolerance)
    stored = _weights(tmp_path / "bf16")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    assert stored.keys() == _weights(tmp_path / "fp32").keys()


def test_mwam_measures_in_float32_under_bf16(
    train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    def watched(planes: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        ratio = frequency_ratio(planes, valid)
        measured.append((planes.clone(), valid.clone(), float(ratio)))
        return ratio

    monkeypatch.setattr(mwam, "frequency_ratio", watched)
    settings = TuneSettings(steps=2, batch_size=6, dtype="bf16", balance_method="mwam-loss")
    tune(checkpoint_path(), tmp_path / "tuned", train_file, settings=settings)
    assert len(measured) == 4  # two branches, two steps
    for planes, valid, ratio in measured:
        # the same planes, measured here without autocast; a transform in bfloat16 would be off by 2^-9 at least
        assert ratio == pytest.approx(float(frequency_ratio(planes.float(), valid)), rel=1e-5)


def test_labels_stand_on_the_first_answer_only(processor: Any, train_rows: list[Row]) -> None:
    tokenizer = processor.tokenizer
    end = tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    batch = AnswerBatches(processor, frozenset({end}))(train_rows[:3:2])
    for row, labels, ids, mask in zip(
        train_rows[:3:2], batch["labels"], batch["input_ids"], batch["attention_mask"], strict=True
    ):
        answer = labels[labels != -100]
        assert tokenizer.decode(answer) == f" {row.answers[0]}<end_of_utterance>"
        assert torch.equal(ids[labels != -100], answer)
        text = tokenizer.decode(ids[mask.bool()])
        assert text.endswith(
            f"{row.text}<end_of_utterance>\nAssistant: {row.answers[0]}<end_of_utterance>"
        )


def _vqa_v2(folder: Path, rows: list[Row]) -> list[str]:
    """Write rows as VQA-v2 publishes them, votes for "left" at the head of a majority; return the data's flags."""
    folder.mkdir()
    asked = [
        {"image_id": at, "question": row.prompt, "question_id": 10 * at}
        for at, row in enumerate(rows)
    ]
    answered = [
        {
            "question_id": 10 * at,
            "multiple_choice_answer": row.answers[0],
            "answers": [{"answer": vote} for vote in ("left", "left", *[row.answers[0]] * 8)],
        }
        for at, row in enumerate(rows)
    ]
    head = {"data_type": "mscoco", "data_subtype": "val2014"}
    (folder / "questions.json").write_text(json.dumps({**head, "questions": asked}))
    (folder / "answers.json").write_text(json.dumps({**head, "annotations": answered}))
    for at, row in enumerate(rows):
        # the name says jpg, the content decides
        shutil.copy(row.images[0], folder / f"COCO_val2014_{at:012d}.jpg")
    return [str(folder / name) for name in ("questions.json", "answers.json", "")]


def test_vqa_v2_files_teach_the_most_frequent_answer(
    train_rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in train_rows if row.task == "vqa"]
    asked, answered, images = _vqa_v2(tmp_path / "val", rows)
    words = _words(tmp_path / "tuned", Path(asked), "--data-format", "vqa-v2", "--images", images)
    words += ["--annotations", answered, "--steps", "1", "--json", "--eval-data", asked]
    assert main(words) == 2
    assert "questions of val2014" in capsys.readouterr().err
    assert main([*words, "--eval-annotations", answered]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == len(rows) == 2
    assert report["data"]["annotations"] == answered
    bare = tmp_path / "rows.jsonl"
    bare.write_text(
        "\n".join(
            json.dumps({"image": str(row.images[0]), "prompt": row.prompt, "answers": row.answers})
            for row in rows
        )
    )
    settings = TuneSettings(steps=1, batch_size=3)
    plain = tune(checkpoint_path(), tmp_path / "plain", bare, eval_data=bare, settings=settings)
    # the same pictures, questions and targets: the same sums
    assert report["eval_loss"] == pytest.approx(plain.eval_loss, abs=1e-6)


def test_a_prompt_that_cannot_fit_is_refused_with_its_row(
    processor: Any, train_rows: list[Row]
) -> None:
    end = processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    bound = PromptBound(processor.tokenizer.backend_tokenizer, 512)
    long = replace(train_rows[0], prompt="why? " * 100_000)
    message = (
        rf"^{re.escape(long.place)}: the prompt has \d+ characters, and the model's context of 512"
    )
    with pytest.raises(DataError, match=message):
        AnswerBatches(processor, frozenset({end}), bound)([long])


def test_answers_do_not_reach_the_routed_prompt(
    model: Any, processor: Any, train_rows: list[Row]
) -> None:
    end = processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    batches = AnswerBatches(processor, frozenset({end}))
    routed: list[torch.Tensor] = []
    model.train()
    model.moir_router.register_forward_hook(lambda _, args, out: routed.append(out.inputs_embeds))
    for answer in (train_rows[0].answers[0], "red", "a large blue digit in the middle"):
        batch = batches([replace(train_rows[0], answers=(answer,))])
        prompt = int((batch["labels"][0] == -100).sum())
        with torch.no_grad():
            model(**batch)
        assert torch.equal(routed[-1][:, :prompt], routed[0][:, :prompt])
        answered = model.get_input_embeddings()(batch["input_ids"][:, prompt:])
        assert torch.equal(routed[-1][:, prompt:], answered)


def test_refusals(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Any, processor: Any
) -> None:
    def line(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        return capsys.readouterr().err

    output = tmp_path / "tuned"
    bare = train_file.with_name("bare.jsonl")
    record = json.loads(train_file.read_text().splitlines()[0])
    bare.write_text(json.dumps({**record, "answers": []}) + "\n")
    assert "bare.jsonl:1: this row has no answer, like 1 of the 1 rows of " in line(
        *_words(output, bare)
    )
    assert "did you mean 'mwam-hybrid'" in line(
        *_words(output, train_file, "--balance-method", "mwam-hybird")
    )
    assert "did you mean 'router'" in line(*_words(output, train_file, "--train", "routers"))
    assert "nothing to resume" in line(*_words(output, train_file, "--resume"))
    assert "--eval-data" in line(*_words(output, train_file, "--early-stop", 2))
    lone = line(*_words(output, train_file, "--eval-images", tmp_path))
    assert "--eval-images without --eval-data; add it" in lone
    remove_router(model)
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    capsys.readouterr()
    refused = line("tune", tmp_path / "base", "-o", output, "--data", train_file)
    assert f"`moir-edge retrofit {tmp_path / 'base'}" in refused
    assert not output.exists()
    assert not training_folder(output).exists()


def test_numbers_out_of_range_are_named() -> None:
    with pytest.raises(DataError, match="learning_rate is 0"):
        TuneSettings(learning_rate=0)
    with pytest.raises(UnsupportedError, match="unknown balance method"):
        TuneSettings(balance_method="mwam")
    with pytest.raises(UnsupportedError, match="unknown dtype 'fp16'"):
        TuneSettings(dtype="fp16")
    assert TuneSettings(epochs=2, batch_size=4).total_steps(10) == 6


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.loads(train_file.read_text().splitlines()[0])
    image = str(train_file.parent / line["image"])
    rows = [{**line, "image": image}, {**line, "image": image, "prompt": "<image> what?"}]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "tuned"
    assert main(_words(output, data, "--steps", 1, "-q")) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {data}:2")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [data]
