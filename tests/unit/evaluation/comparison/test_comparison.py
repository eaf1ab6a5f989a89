"""`compare` from Python and from the command line, up to the point where models are loaded."""

from __future__ import annotations

import hashlib
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moir_edge.cli.main import main
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, EnvironmentProblem
from moir_edge.evaluation import CompareSettings, compare, opening
from moir_edge.evaluation.candidates import CandidateSpec
from moir_edge.evaluation.comparison import run as comparison
from moir_edge.evaluation.comparison.schema import ComparisonReport
from moir_edge.invocation import command_line

from ...data.formats.official import annotations, questions, touch, write
from ..fakes import FakeCandidate, make_rows, right, right_but_one, write_manifest


class _FakeProcess(FakeCandidate):
    def __init__(self, spec: CandidateSpec, rows: Sequence[Row]) -> None:
        reply = right_but_one if spec.name == "small" else right
        super().__init__(Path(spec.name).name, reply, rows)
        self.spec = spec

    def __enter__(self) -> _FakeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("closed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bundles `big`, `small` and `other/big`, twelve rows, and candidates that need no model."""
    for name in ("big", "small", "other/big"):
        write_manifest(tmp_path / name)
    lines = [
        json.dumps(
            {
                "id": row.id,
                "task": row.task,
                "images": [path.name for path in row.images],
                "prompt": row.prompt,
                "answers": row.answers,
            }
        )
        for row in make_rows(tmp_path)
    ]
    (tmp_path / "eval.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(opening, "CandidateProcess", _FakeProcess)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _main(*words: str) -> int:
    return main(["compare", "big", "small", "--data", "eval.jsonl", "-o", "report", *words])


def test_python_api(folder: Path) -> None:
    stages: list[str] = []
    report = compare(
        folder / "big",
        [folder / "small", folder / "other" / "big"],
        folder / "eval.jsonl",
        settings=CompareSettings(limit=6, latency_rows=3, latency_repeats=1),
        progress=lambda stage, *_: stages.append(stage),
    )
    # two folders of one name are told apart by their path
    assert [one.name for one in report.candidates] == [
        *(str(folder / "big"), "small", str(folder / "other" / "big"))
    ]
    assert report.data is not None
    assert report.data.rows == 6
    assert report.data.tasks == {"vqa": 2, "statement": 2, "caption": 2}
    assert report.passed
    assert list(dict.fromkeys(stages))[:3] == ["loading", "latency", "router on and off"]
    assert not (folder / "report").exists()


def test_command_writes_a_report_and_passes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main("--min-recovery", "90") == 0
    assert "report/report.html" in capsys.readouterr().out
    text = (folder / "report" / "report.json").read_text()
    assert ComparisonReport.model_validate_json(text).passed


def test_failed_gate_exits_1_with_the_report_in_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main("--min-recovery", "99", "--json", "-q") == 1
    printed = capsys.readouterr()
    assert printed.err == "FAILED: small recovery 91.67 %, bound >= 99 %\n"
    assert json.loads(printed.out)["gates"][0]["outcome"] == "failed"
    assert (folder / "report" / "report.html").exists()


def test_an_undecided_gate_exits_1_with_its_own_word(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main("--min-recovery", "90", "--gate-on", "low") == 1
    printed = capsys.readouterr().out
    assert "UNDECIDED: small recovery 91.67 % (" in printed.replace("\n", " ")
    record = json.loads((folder / "report" / "report.json").read_text())
    assert record["gates"][0]["outcome"] == "undecided"
    assert record["gates"][0]["more"] >= 1
    page = (folder / "report" / "report.html").read_text()
    assert '<span class="badge open">1 of 1 gates undecided</span>' in page
    assert "more rows would decide" in page
    assert _main("--min-recovery", "90", "--gate-on", "median", "--force") == 2
    assert "median" in capsys.readouterr().err


def test_json_and_page_say_where_they_come_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "eval.jsonl").rename(folder / "my rows.jsonl")
    assert main(["compare", "big", "small", "--data", "my rows.jsonl", "-o", "report"]) == 0
    capsys.readouterr()
    origin = json.loads((folder / "report" / "report.json").read_text())["provenance"]
    command = "moir-edge compare big small --data 'my rows.jsonl' -o report"
    assert origin["command"] == command
    rows = hashlib.sha256((folder / "my rows.jsonl").read_bytes()).hexdigest()
    manifest = hashlib.sha256((folder / "small" / "manifest.json").read_bytes()).hexdigest()
    assert origin["data"]["sha256"] == rows
    assert origin["models"][1]["bundle"]["manifest_sha256"] == manifest
    assert origin["models"][1]["bundle"]["target"] == "cpu"
    assert origin["providers"]["small"] == {"decoder": "FakeProvider"}
    assert {"moir-edge", "numpy", "onnxruntime"} <= set(origin["machine"]["packages"])
    page = html.unescape((folder / "report" / "report.html").read_text())
    for shown in (command, rows, manifest, "a" * 64, "decoder: FakeProvider"):
        assert shown in page
    assert command_line() is None  # nothing stays behind for a later call from Python


def test_usage_errors_exit_2_and_leave_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in [
        (["--min-token-agreement", "101"], ""),
        (["--limit", "0"], ""),
        (
            ["--data", "none.jsonl"],
            "error: none.jsonl does not exist; give a file of the format jsonl",
        ),
        (["gone"], "error: gone: no such folder; give a bundle or a checkpoint"),
        (["small"], "error: small is given 2 times; name every candidate once"),
    ]:
        assert _main(*words) == 2
        assert message in capsys.readouterr().err
    assert main(["compare", "big", "--data", "eval.jsonl", "-o", "report"]) == 2
    assert not (folder / "report").exists()


def test_each_bundle_on_each_provider_against_the_reference(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "big", "big", "small", "--data", "eval.jsonl", "-o", "report"]
    assert main([*words, "--provider", "cpu", "--provider", "openvino-fast", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    names = [f"{one} on {by}" for one in ("big", "small") for by in ("cpu", "openvino-fast")]
    assert [one["name"] for one in record["candidates"]] == ["big", *names]
    specs = comparison._specs(["big", "small"], CompareSettings(providers=("openvino",)))
    assert [one.provider for one in specs] == [None, "openvino"]


def test_each_bundle_with_each_share_of_image_tokens(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "big", "big", "small", "--data", "eval.jsonl", "-o", "report"]
    shares = ["--prune-image-tokens", "0", "--prune-image-tokens", "0.125"]
    assert main([*words, *shares, "--prune-by", "norm", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    names = ["big", "big", "big, 12.5 % dropped by norm", "small", "small, 12.5 % dropped by norm"]
    assert [one["name"] for one in record["candidates"]] == names
    assert record["settings"]["prune_image_tokens"] == [0, 0.125]
    assert record["settings"]["prune_by"] == "norm"
    settings = CompareSettings(prune_image_tokens=(0.5,), providers=("cpu",))
    reference, other = comparison._specs(["big", "small"], settings)
    assert (reference.prune_image_tokens, other.prune_image_tokens) == (0, 0.5)
    assert (other.prune_by, other.provider) == ("density", "cpu")
    assert other.name == "small, 50 % dropped by density on cpu"


def test_shares_that_cannot_be_taken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llava"}')
    half = ["--prune-image-tokens", "0.5"]
    for words, message in [
        (["--prune-image-tokens", "1"], "error: prune_image_tokens is 1.0; it must be at least 0"),
        ([*half, *half], "error: prune_image_tokens is 0.5 twice; name each share once"),
        (
            [*half, "--prune-by", "desity"],
            "error: unknown --prune-by desity; did you mean 'density'",
        ),
        (
            ["model", *half],
            "error: bundles drop image tokens, and model is a checkpoint; name bundles besides",
        ),
    ]:
        assert _main(*words) == 2
        assert message in capsys.readouterr().err


def test_providers_that_cannot_be_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llava"}')
    for words, message in [
        (["--provider", "openvin"], "error: unknown provider 'openvin'; did you mean 'openvino'?"),
        (["--provider", "cpu", "--provider", "cpu"], "error: provider cpu is given twice; name"),
        (
            ["model", "--provider", "cpu"],
            "error: a provider runs bundles, and model is a checkpoint; name bundles besides",
        ),
    ]:
        assert _main(*words) == 2
        assert message in capsys.readouterr().err

    def missing(spec: CandidateSpec, rows: Sequence[Row]) -> Any:
        if spec.provider:
            raise EnvironmentProblem("no such library")
        return _FakeProcess(spec, rows)

    monkeypatch.setattr(opening, "CandidateProcess", missing)
    assert _main("--provider", "openvino") == 2
    expected = "error: small on openvino: not measured on this device: no such library\n"
    assert capsys.readouterr().err.endswith(expected)
    assert not (folder / "report").exists()


def test_existing_output_is_refused_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main() == 0

    def explode(*_: Any) -> None:
        raise AssertionError("a candidate was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(opening, "CandidateProcess", explode)
        assert _main() == 2
    assert "report exists; give another -o or replace it with --force" in (capsys.readouterr().err)
    assert _main("--force") == 0


def test_bundles_of_two_checkpoints_are_refused_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(folder / "small", weights="b" * 64, source="elsewhere")

    def explode(*_: Any) -> None:
        raise AssertionError("a candidate was loaded")

    with monkeypatch.context() as patch:
        patch.setattr(opening, "CandidateProcess", explode)
        assert _main() == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: small is a different model from big, their weights differ: ")
    assert f"small is elsewhere (weights sha256 {'b' * 64}, no router)" in printed
    assert f"big is vlm (weights sha256 {'a' * 64}, no router)" in printed
    assert "allow it with --allow-other" in printed
    assert printed.count("\n") == 1
    assert not (folder / "report").exists()


def test_allowed_other_models_are_named_at_the_top(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(folder / "small", weights="b" * 64, source="elsewhere")
    assert _main("--allow-other") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("note: The models differ, ")
    report = json.loads((folder / "report" / "report.json").read_text())
    notice = report["notices"][0]  # a busy machine adds another
    assert "a" * 64 in notice
    assert "b" * 64 in notice
    assert list(report).index("notices") < list(report).index("candidates")
    page = (folder / "report" / "report.html").read_text()
    assert page.index(notice) < page.index("All figures")
    assert _main("--allow-other", "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["notices"][0] == notice


def test_a_busy_machine_is_said_at_the_top(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (4096.5, 0.0, 0.0))
    assert _main() == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(
        "note: The machine was busy: load average 4096.50 before and 4096.50 after the measurement on "
    )
    (notice,) = json.loads((folder / "report" / "report.json").read_text())["notices"]
    assert notice in (folder / "report" / "report.html").read_text()


def test_nothing_to_compare_and_bad_counts(folder: Path) -> None:
    with pytest.raises(DataError, match="give at least one bundle besides the reference"):
        compare("big", [], "eval.jsonl")
    with pytest.raises(DataError, match="batch-size must be at least 1, got 0"):
        CompareSettings(batch_size=0)


def test_official_format_from_the_command_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(folder / "coco", *(f"val2014/COCO_val2014_{n:012d}.jpg" for n in (262148, 393225)))
    write(folder / "eval.jsonl", questions())
    write(folder / "annotations.json", annotations())
    assert _main("--data-format", "vqa-v2", "--images", "coco") == 2
    assert "give --annotations" in capsys.readouterr().err
    words = ("--data-format", "vqa-v2", "--images", "coco", "--annotations", "annotations.json")
    wording = ("--data-prompt", "{text} In one word.")
    assert _main(*words, *wording, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["provenance"]["data"]["rows"] == 3
    assert report["provenance"]["data"]["format"] == "vqa-v2"
    assert report["provenance"]["data"]["prompt"] == "{text} In one word."
    assert report["provenance"]["data"]["annotations"] == "annotations.json"
    # the fakes say the first answer, the most frequent one: 7, 5 and 3 votes
    score = report["candidates"][0]["tasks"]["vqa"]["score"]
    assert score == pytest.approx(100 * (1 + 1 + 0.9) / 3, abs=1e-6)
    page = (folder / "report" / "report.html").read_text()
    assert "annotations <code>annotations.json</code>" in page
    assert "<q>{text} In one word.</q>" in page
