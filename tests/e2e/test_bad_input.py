"""Every mistake that a user can make at the command line: one clear line, exit 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from moir_edge.cli.main import main

Failure = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Failure:
    """Run a command that must fail, and return its one line."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        # Progress may stand before it, a line per stage.
        *progress, error = captured.err.splitlines()
        assert error.startswith("error: ")
        assert all(line.startswith(f"{words[0]}: ") for line in progress)
        return error.removeprefix("error: ")

    return run


@pytest.fixture
def copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "copy"))


def test_missing_image(fails: Failure, demo_bundle: Path, tmp_path: Path) -> None:
    line = fails("run", demo_bundle, "--prompt", "what ?", "--image", tmp_path / "no.png")
    assert "no.png" in line
    assert "no such image file" in line


def test_truncated_image(
    fails: Failure, demo_bundle: Path, demo_image: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(demo_image.read_bytes()[:200])
    line = fails("run", demo_bundle, "--prompt", "what ?", "--image", cut)
    assert "cut.png" in line
    assert "truncated" in line


def test_not_an_image(fails: Failure, demo_bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    line = fails("run", demo_bundle, "--prompt", "what ?", "--image", text)
    assert "notes.png" in line
    assert "image" in line


@pytest.mark.parametrize("prompt", ["", "   "])
def test_empty_prompt(fails: Failure, demo_bundle: Path, demo_image: Path, prompt: str) -> None:
    line = fails("run", demo_bundle, "--prompt", prompt, "--image", demo_image)
    assert "prompt is empty" in line


def test_prompt_past_the_context_length(
    fails: Failure, demo_bundle: Path, demo_image: Path
) -> None:
    line = fails("run", demo_bundle, "--prompt", "red " * 600, "--image", demo_image)
    assert "512" in line
    assert "shorten" in line


def test_unknown_target_offers_the_closest(
    fails: Failure, demo_checkpoint: Path, tmp_path: Path
) -> None:
    line = fails("export", demo_checkpoint, "-o", tmp_path / "b", "--target", "rtx40")
    assert line.startswith("unknown target 'rtx40': did you mean 'rtx-40'?")
    assert list(tmp_path.iterdir()) == []


def test_unknown_precision_offers_the_closest(
    fails: Failure, demo_checkpoint: Path, tmp_path: Path
) -> None:
    line = fails("export", demo_checkpoint, "-o", tmp_path / "b", "--precision", "int-4")
    assert "unknown precision 'int-4'" in line
    assert "did you mean 'int4'?" in line
    assert list(tmp_path.iterdir()) == []


def test_fp8_on_a_target_that_lacks_it(
    fails: Failure, demo_checkpoint: Path, tmp_path: Path
) -> None:
    words = ("export", demo_checkpoint, "-o", tmp_path / "b", "--precision", "fp8")
    line = fails(*words, "--target", "rtx-30")
    assert "rtx-30" in line
    assert "SM 89" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["vision", "lm=int4", "router=int4"])
def test_bad_component_precision(
    fails: Failure, demo_checkpoint: Path, tmp_path: Path, option: str
) -> None:
    line = fails("export", demo_checkpoint, "-o", tmp_path / "b", "--component-precision", option)
    assert option.partition("=")[0] in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int4-method", "awq"], "int4 by awq needs calibration data; give --calib-data FILE"),
        (["--int4-method", "awk"], "unknown int4 method 'awk': did you mean 'awq'?"),
        (
            ["--int4-method", "hqq", "--target", "rtx-40"],
            "which TensorRT does not read; for rtx-40",
        ),
        (
            ["--int4-block-size", "48"],
            "--int4-block-size is 48; expected 16, 32, 64, 128 or 256",
        ),
        (
            ["--int4-block-size", "64", "--precision", "int8-weight-only"],
            "--int4-block-size 64 given, and no component of this export is int4; leave it out",
        ),
    ],
)
def test_bad_int4_method(
    fails: Failure, demo_checkpoint: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    line = fails("export", demo_checkpoint, "-o", tmp_path / "b", "--precision", "int4", *words)
    assert message in line
    assert not (tmp_path / "b").exists()


def test_checkpoint_that_is_no_vlm(fails: Failure, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    line = fails("export", folder, "-o", tmp_path / "b")
    assert "bert" in line
    assert "is not a vision-language model of transformers" in line
    assert not (tmp_path / "b").exists()


def test_checkpoint_that_does_not_exist(fails: Failure, tmp_path: Path) -> None:
    line = fails("export", tmp_path / "nothing", "-o", tmp_path / "b")
    assert "nothing" in line
    assert list(tmp_path.iterdir()) == []


def test_output_that_exists_needs_force(
    fails: Failure, demo_checkpoint: Path, demo_bundle: Path
) -> None:
    line = fails("export", demo_checkpoint, "-o", demo_bundle)
    assert "--force" in line


def test_flipped_byte_names_file_and_hash(fails: Failure, copy: Path, demo_image: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    entry = next(entry for entry in manifest["files"] if entry["path"].endswith(".data"))
    path = copy / entry["path"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    line = fails("run", copy, "--prompt", "what ?", "--image", demo_image)
    assert entry["path"] in line
    assert entry["sha256"] in line


def test_newer_schema(fails: Failure, copy: Path, demo_image: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    line = fails("run", copy, "--prompt", "what ?", "--image", demo_image)
    assert "schema version 2" in line
    assert "upgrade" in line


def test_folder_that_is_no_bundle(fails: Failure, tmp_path: Path) -> None:
    assert "is not a bundle" in fails("run", tmp_path, "--prompt", "what ?")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("blurr", "unknown degradation 'blurr': did you mean 'blur'?"),
        ("blur@9", "got level '9', expected 1 to 5"),
        ("word-dropout=30", "30 is out of range; give p from 0 to 1"),
    ],
)
def test_bad_degradation(
    fails: Failure, demo_checkpoint: Path, tmp_path: Path, option: str, message: str
) -> None:
    words = ("diagnose", demo_checkpoint, "--data", tmp_path / "rows.jsonl", "-o", tmp_path / "d")
    assert message in fails(*words, "--degrade", option)
    assert list(tmp_path.iterdir()) == []


def test_diagnosis_of_nothing(fails: Failure, tmp_path: Path, demo_output: Path) -> None:
    data = demo_output / "data" / "data.jsonl"
    line = fails("diagnose", tmp_path / "gone", "--data", data, "-o", tmp_path / "d")
    assert "gone" in line
    assert list(tmp_path.iterdir()) == []


def test_sigkill_during_export_leaves_no_bundle(demo_checkpoint: Path, tmp_path: Path) -> None:
    words = ["export", str(demo_checkpoint), "-o", str(tmp_path / "b")]
    for _ in range(5):  # a busy machine may kill too late
        with subprocess.Popen([sys.executable, "-m", "moir_edge", *words]) as process:
            while process.poll() is None and not list(tmp_path.glob(".b.partial-*/*.onnx")):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        if process.returncode == -signal.SIGKILL:
            break
        shutil.rmtree(tmp_path / "b")
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    assert [path.name for path in tmp_path.glob("*")] == [
        path.name for path in tmp_path.glob(".b.partial-*")
    ]
    assert not list(tmp_path.rglob("manifest.json"))
