"""`moir-edge bench` on tiny bundles: what is measured, what is refused, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.cli.main import main
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.evaluation import BenchBounds, BenchSettings, bench
from moir_edge.evaluation.parity import run as run_module
from moir_edge.evaluation.parity.page import render_html
from moir_edge.evaluation.parity.prompts import ROWS_PER_LENGTH, prompts_of
from moir_edge.evaluation.parity.schema import BenchReport
from moir_edge.evaluation.parity.tables import print_bench
from moir_edge.evaluation.writing import write_report

from ..hostile import spoil, steers

QUICK: dict[str, Any] = {"prompt_words": (3,), "repeats": 2, "max_new_tokens": 3, "threads": 1}
FLAGS = ["--prompt-words", "3", "--repeats", "2", "--max-new-tokens", "3", "--threads", "1"]


@pytest.fixture(scope="module")
def report(bundle: Path, quantized: Path) -> BenchReport:
    bounds = BenchBounds(min_cosine=0.9, max_abs_error=0)
    return bench(BenchSettings(bundles=(bundle, quantized), parity=True, bounds=bounds, **QUICK))


def test_prompts_have_the_words_and_images_asked_for_and_repeat(
    bundle: Path, tmp_path: Path
) -> None:
    settings = BenchSettings(bundles=(bundle,), prompt_words=(2, 5), images=2, seed=3)
    prompts = prompts_of(settings, tmp_path, 96)
    again = prompts_of(settings, tmp_path, 96)
    assert prompts == again
    assert len(prompts.rows) == 2 * ROWS_PER_LENGTH
    assert prompts.timed == (0, ROWS_PER_LENGTH)
    assert {len(row.prompt.split()) for row in prompts.rows} == {2, 5}
    assert all(len(row.images) == 2 for row in prompts.rows)
    short, long = prompts.facts(open_bundle(bundle))
    assert (short.label, long.label) == ("2 words", "5 words")
    assert short.tokens[0] == short.tokens[1] < long.tokens[0]


def test_latency_is_measured_per_prompt_and_component(report: BenchReport) -> None:
    for candidate in report.candidates:
        (timing,) = candidate.timings
        assert timing.prompt == "3 words"
        assert len(timing.ttft.samples) == 2
        parts = [timing.components[name].samples for name in timing.components]
        # the parts of a time to first token sum up to it, sample by sample
        sums = [sum(sample) for sample in zip(*parts, strict=True)]
        assert sums == pytest.approx(timing.ttft.samples)
        assert candidate.router is not None
        assert len(candidate.router.on.samples) == 2
        assert candidate.peak_memory_bytes > candidate.libraries_memory_bytes > 0


def test_parity_is_that_of_the_quantized_bundle(report: BenchReport) -> None:
    reference, quantized = report.candidates
    assert report.reference == reference.name
    assert reference.parity is None
    parity = quantized.parity
    assert parity is not None
    assert [one.component for one in parity.components] == [
        *("vision", "embedding", "router", "decoder")
    ]
    assert parity.component("router").max_abs_error == 0  # the same graph on the same inputs
    assert parity.component("router").index_agreement == 1
    assert 0 < parity.component("decoder").max_abs_error < 1
    assert parity.tokens.rows == ROWS_PER_LENGTH
    (pair,) = report.pairs
    assert (pair.candidate, pair.baseline) == ("quantized", "bundle")
    assert pair.ttft is not None
    assert pair.ttft.pairs == 2


def test_gates_and_exit_are_those_of_the_figures(report: BenchReport) -> None:
    verdicts = {gate.figure: gate.passed for gate in report.gates}
    assert {gate.candidate for gate in report.gates} == {"quantized"}
    assert verdicts["router max abs error"]
    assert not verdicts["decoder max abs error"]
    assert verdicts["decoder cosine"]
    assert not report.passed


def test_report_folder_holds_every_table(report: BenchReport, tmp_path: Path) -> None:
    write_report(report, render_html, tmp_path / "out")
    page = (tmp_path / "out" / "bench.html").read_text()
    for text in (
        "quantized: decoder</th><td>int8-weight-only</td>",
        "✗ failed",
        "Boundary",
        "bundle against",
    ):
        assert text in page
    assert not re.search(r"https?://", page)
    again = BenchReport.model_validate_json((tmp_path / "out" / "bench.json").read_text())
    assert again == report
    with pytest.raises(DataError, match="`force=True`"):
        write_report(report, render_html, tmp_path / "out")


def test_engines_without_their_gpu_are_not_measured_and_fail(
    compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(compiled), "--parity", "--reference", str(compiled), *FLAGS, "--json"]
    assert main(words) == 0  # nothing was asked of it
    record = json.loads(capsys.readouterr().out)
    cpu, engine = record["candidates"]
    assert cpu["reason"] is None
    assert cpu["parity"]["tokens"]["identical"] == 1
    assert [one["name"] for one in (cpu, engine)] == ["compiled on cpu", "compiled on tensorrt"]
    assert engine["reason"].startswith("not measured on this device: ")
    assert engine["timings"] == []
    (pair,) = record["pairs"]
    assert pair["kind"] == "engine against ONNX Runtime"
    assert pair["ttft"] is None
    assert "samples" not in cpu["timings"][0]["ttft"]
    assert main([*words, "--max-slowdown", "1000"]) == 1
    assert (
        "compiled on tensorrt TTFT slowdown against compiled on cpu not measured"
        in capsys.readouterr().err
    )


def test_bundles_are_compared_without_torch(bundle: Path, quantized: Path, tmp_path: Path) -> None:
    absent = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir")
    # every interpreter below this one reads it at its start, those of the candidates too
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({absent!r}))\n"
    )
    paths = [str(tmp_path), str(Path(moir_edge.__file__).parents[1])]
    words = ["bench", str(bundle), str(quantized), "--parity", *FLAGS, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "moir_edge", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["candidates"][1]["parity"]["tokens"]["rows"] == ROWS_PER_LENGTH


def test_a_checkpoint_is_a_reference_too(
    checkpoint: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", str(bundle), "--parity", "--reference", str(checkpoint), *FLAGS]
    assert main([*words, "--min-token-agreement", "100", "--max-abs-error", "0"]) == 0
    out = capsys.readouterr().out
    assert "bundle: decoder" in out
    assert "passed: bundle token agreement 100.00 %, bound >= 100 %" in out


def test_rows_of_a_data_set(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    row = {"image": "red.png", "prompt": "What is red?"}
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row | {"id": str(at)}) + "\n" for at in range(5)))
    words = ["bench", str(bundle), "--data", str(data), "--timed-rows", "2", *FLAGS, "--json"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    record = json.loads(capsys.readouterr().out)
    (facts,) = record["prompts"]
    assert (facts["label"], facts["rows"], facts["timed_rows"]) == ("data", 5, 2)
    assert record["candidates"][0]["parity"] is None
    assert (tmp_path / "out" / "bench.html").is_file()


def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_module, "open_candidates", None)
    lines = {
        ("--provider", "tensort"): "unknown provider 'tensort'",
        ("--min-cosine", "0.9"): "given without parity; add --parity",
        ("--limit", "3"): "--limit given without rows; add --data FILE",
        ("--prompt-words", "9000"): "row 9000-0: the prompt has ",
        (str(bundle),): "is given 2 times",
    }
    for words, message in lines.items():
        assert main(["bench", str(bundle), *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error


def test_parity_of_one_bundle_needs_a_reference(bundle: Path) -> None:
    with pytest.raises(DataError, match="give `reference=CHECKPOINT` or BUNDLE"):
        bench(BenchSettings(bundles=(bundle,), parity=True, **QUICK))


def test_bundles_of_two_models_are_refused(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["model"]["context_length"] = 128
    del manifest["manifest_sha256"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        DataError, match=r"has another shape than .* \(they differ in context_length\)"
    ):
        bench(BenchSettings(bundles=(bundle, other), **QUICK))


def _other(bundle: Path, folder: Path) -> Path:
    """Copy a bundle; the copy says that it comes from other weights."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["source"].update(name="elsewhere", sha256="b" * 64)
    del manifest["manifest_sha256"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_bundle_or_reference_of_other_weights_is_refused_before_anything_is_loaded(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def explode(*_: Any) -> None:
        raise AssertionError("a bundle was loaded")

    monkeypatch.setattr(run_module, "open_candidates", explode)
    other = str(_other(bundle, tmp_path / "other"))
    own = open_bundle(bundle).manifest.source.sha256
    for words, name in (
        ([str(bundle), other], "other"),
        ([str(bundle), "--parity", "--reference", other], "the reference other"),
    ):
        assert main(["bench", *words, *FLAGS]) == 2
        error = capsys.readouterr().err
        assert error.startswith(
            f"error: {name} is a different model from bundle, their weights differ: "
        )
        assert own in error
        assert f"elsewhere (weights sha256 {'b' * 64}, a token router)" in error
        assert error.count("\n") == 1


def test_a_reference_checkpoint_of_other_weights_is_refused_before_it_is_exported(
    bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "bare"))
    config = json.loads((other / "config.json").read_text())
    del config["moir_router"]
    (other / "config.json").write_text(json.dumps(config))
    settings = BenchSettings(bundles=(bundle,), parity=True, reference=str(other), **QUICK)
    with pytest.raises(DataError, match=r"the reference bare .*only bundle has a router"):
        bench(settings)


def test_allowed_other_models_are_named_at_the_top(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _other(bundle, tmp_path / "other")
    out = tmp_path / "out"
    words = [str(bundle), str(other), "--allow-other", "-o", str(out)]
    assert main(["bench", *words, *FLAGS]) == 0
    assert capsys.readouterr().out.startswith("note: The models differ, ")
    written = json.loads((out / "bench.json").read_text())
    assert "b" * 64 in written["notices"][0]
    assert [one["name"] for one in written["provenance"]["models"]] == ["bundle", "other"]
    page = (out / "bench.html").read_text()
    assert written["notices"][0] in page
    origin = written["provenance"]
    assert origin["command"].startswith(f"moir-edge bench {bundle} {other} --allow-other")
    assert origin["data"] is None
    # what ONNX Runtime says of each session, not what was asked for
    sessions = dict.fromkeys(("vision", "router", "decoder"), "CPUExecutionProvider")
    assert origin["providers"]["bundle"] == {**sessions, "embedding": "table"}
    assert origin["models"][0]["bundle"]["manifest_sha256"] in page
    assert "decoder: CPUExecutionProvider" in page


def test_settings_refuse_numbers_out_of_range(bundle: Path) -> None:
    with pytest.raises(DataError, match="prompt-words must be at least 1, got 0"):
        BenchSettings(bundles=(bundle,), prompt_words=(4, 0))
    with pytest.raises(DataError, match="no bundle given"):
        BenchSettings(bundles=())
    with pytest.raises(UnsupportedError, match="unknown provider"):
        BenchSettings(bundles=(bundle,), providers=("gpu",))
    with pytest.raises(DataError, match=r"prune_image_tokens is -0\.5; it must be at least 0"):
        BenchSettings(bundles=(bundle,), prune_image_tokens=(-0.5,))
    message = "`prune_image_tokens` changes what the decoder reads, which `parity=True` holds"
    with pytest.raises(DataError, match=message):
        BenchSettings(bundles=(bundle,), prune_image_tokens=(0.5,), parity=True)


def test_a_bundle_is_timed_with_each_share_of_image_tokens(bundle: Path) -> None:
    settings = BenchSettings(
        bundles=(bundle,),
        prune_image_tokens=(0, 0.5),
        prompt_words=(4,),
        repeats=1,
        max_new_tokens=1,
        threads=1,
    )
    whole, half = bench(settings).candidates
    assert (whole.name, half.name) == ("bundle", "bundle, 50 % dropped by density")
    parts = [set(one.timings[0].components) for one in (whole, half)]
    assert "pruning" in parts[1] - parts[0]


def test_terminal_shows_names_as_they_are(report: BenchReport) -> None:
    odd = report.candidates[1].model_copy(update={"name": "int8 [bold]"})
    screen = io.StringIO()
    print_bench(
        report.model_copy(update={"candidates": (report.candidates[0], odd)}),
        Console(file=screen, width=160),
    )
    shown = screen.getvalue()
    assert "int8 [bold]: decoder" in shown
    assert "FAILED: quantized decoder max abs error" in shown


def test_names_steer_neither_terminal_nor_page(report: BenchReport) -> None:
    spoiled = spoil(report)
    screen = io.StringIO()
    print_bench(spoiled, Console(file=screen, width=160))
    page = render_html(spoiled)
    assert not steers(screen.getvalue())
    assert not steers(page)
    assert "<script" not in page
    assert "[red]" in screen.getvalue()
