"""The whole diagnosis on the shipped checkpoint and on a bundle with random weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from moir_edge.cli.main import main
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.evaluation import DiagnoseSettings, DiagnosisReport, diagnose
from moir_edge.evaluation.candidates import load_candidate, spec_of
from moir_edge.evaluation.diagnosis import diagnose_rows
from moir_edge.evaluation.diagnosis.page import render_html
from moir_edge.evaluation.diagnosis.routing import routing_examples
from moir_edge.evaluation.diagnosis.table import print_diagnosis

from ..hostile import spoil, steers

pytestmark = pytest.mark.slow  # generates answers with two models, some seconds on an idle machine

SETTINGS = DiagnoseSettings(
    degradations=(
        "blur",
        "blur=3.4px",
        "noise@1",
        "word-dropout=0.3",
        "image-blank",
        "text-blank",
        "image-absent",
        "context-absent",
    ),
    attention_rows=3,
    routing_rows=1,
    max_new_tokens=24,
    threads=1,
    allow_other=True,  # the bundle has random weights, so it comes from another checkpoint
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diagnosis") / "report"


@pytest.fixture(scope="session")
def report(demo_checkpoint: Path, bundle: Path, demo_file: Path, folder: Path) -> DiagnosisReport:
    """The trained checkpoint, then a bundle with random weights, which scores nothing."""
    return diagnose([demo_checkpoint, bundle], demo_file, folder, SETTINGS)


def test_conditions_and_strengths(report: DiagnosisReport) -> None:
    own = report.candidates[0]
    assert [one.label for one in own.conditions] == ["clean", *SETTINGS.degradations]
    assert own.condition("blur@3").strength == pytest.approx((3 * 96 / 224, 3 * 96 / 224))
    assert own.condition("blur=3.4px").strength == (3.4, 3.4)
    assert own.condition("image-blank").strength is None
    assert own.condition("word-dropout=0.3").modality == "text"
    assert own.condition("image-absent").modality == "image"
    assert own.condition("context-absent").modality == "text"
    with pytest.raises(KeyError, match="'jpeg@3' was not measured"):
        own.condition("jpeg@3")


def test_clean_scores_are_those_of_the_trained_model(report: DiagnosisReport) -> None:
    clean = report.candidates[0].condition("clean")
    # the model card states 98.7, 95.4 and 6.21; two rows a task leave room for one miss
    assert clean.tasks["vqa"].score >= 50
    assert clean.tasks["statement"].score >= 50
    tasks = [
        clean.tasks["vqa"].score,
        clean.tasks["statement"].score,
        10 * clean.tasks["caption"].score,
    ]
    assert 100 * clean.overall.value == pytest.approx(np.mean(tasks))
    blurred = report.candidates[0].condition("blur=3.4px").tasks["caption"]
    assert blurred.recovery is not None
    assert 100 * blurred.recovery.value == pytest.approx(
        100 * blurred.score / clean.tasks["caption"].score
    )


def test_shares_come_from_the_blanked_conditions(report: DiagnosisReport) -> None:
    own = report.candidates[0]
    for scope, shares in own.shares.items():
        assert set(shares.values) == {"both", "image only", "text only", "neither"}
        if scope == "overall":
            assert shares.values["both"] == own.condition("clean").overall
            assert shares.values["text only"] == own.condition("image-blank").overall
            assert shares.values["image only"] == own.condition("text-blank").overall
        gain = shares.values["both"].value - shares.values["neither"].value
        assert shares.phi_image.value + shares.phi_text.value == pytest.approx(gain)
    assert own.shares["overall"].share_image is not None


def test_what_cannot_be_measured_says_why(report: DiagnosisReport) -> None:
    checkpoint, bundle = report.candidates
    assert checkpoint.attention is not None
    assert checkpoint.attention.rows == 3
    assert [one.layer for one in checkpoint.attention.layers] == [0, 1, 2, 3]
    assert bundle.attention is None
    assert bundle.attention_reason == "needs attention weights, which a bundle does not give out"
    assert bundle.shares["overall"].share_image is None
    assert bundle.shares["overall"].reason is not None
    assert bundle.perceptual["vqa"].reason == "the full score is 0, so there is no fall to measure"


def test_changes_are_differences_to_the_first_source(report: DiagnosisReport) -> None:
    first, other = report.candidates
    assert first.changes == {}
    for label in ("clean", *SETTINGS.degradations):
        difference = other.condition(label).overall.value - first.condition(label).overall.value
        assert other.changes["overall"][label].value == pytest.approx(difference)
    assert "dominance" not in other.changes["overall"]  # the bundle has none


def test_the_same_seed_gives_the_same_figures(
    report: DiagnosisReport, demo_checkpoint: Path, demo_data: list[Row]
) -> None:
    (again,) = diagnose_rows([demo_checkpoint], demo_data, SETTINGS)
    first = report.candidates[0]
    assert again.model_dump(exclude={"seconds"}) == first.model_dump(exclude={"seconds"})


def test_a_blanked_prompt_reads_the_same_to_checkpoint_and_bundle(
    checkpoint: Path, bundle: Path, picture_rows: list[Row]
) -> None:
    rows = [dataclasses.replace(row, prompt="", context=None) for row in picture_rows[:1]]
    answers = [
        load_candidate(spec_of(one, threads=1, max_new_tokens=4)).answer(rows)
        for one in (checkpoint, bundle)
    ]
    assert answers[0] == answers[1]


def test_llava_takes_a_blanked_prompt(llava: Path, picture_rows: list[Row]) -> None:
    candidate = load_candidate(spec_of(llava, threads=1, max_new_tokens=4))
    rows = [dataclasses.replace(row, prompt="", context=None) for row in picture_rows[:1]]
    assert len(candidate.answer(rows)[0].token_ids) <= 4


def test_checkpoint_and_bundle_draw_the_same_routing_map(
    checkpoint: Path, bundle: Path, picture_rows: list[Row]
) -> None:
    rows = picture_rows[:2]  # one image, and two
    torch_maps, bundle_maps = (
        routing_examples(load_candidate(spec_of(one, threads=1, max_new_tokens=4)), rows)
        for one in (checkpoint, bundle)
    )
    for ours, theirs in zip(torch_maps, bundle_maps, strict=True):
        assert ours.map["routed"]
        for token, other in zip(ours.map["routed"], theirs.map["routed"], strict=True):
            assert (token["position"], token["sources"]) == (
                other["position"],
                other["sources"],
            )
            # float32 kernels of torch and ONNX Runtime sum in another order
            assert token["gate"] == pytest.approx(other["gate"], abs=1e-4)
        assert ours.picture_png.startswith(b"\x89PNG")


def test_threads_of_torch_are_given_back(checkpoint: Path, picture_rows: list[Row]) -> None:
    import torch

    before = torch.get_num_threads()
    settings = dataclasses.replace(
        SETTINGS, threads=before + 1, degradations=(), attention_rows=0, perceptual=False
    )
    (found,) = diagnose_rows([checkpoint], picture_rows[:1], settings)
    assert torch.get_num_threads() == before
    assert found.perceptual == {}
    assert found.attention_reason == "not asked for"
    assert [one.label for one in found.conditions] == ["clean"]


def test_one_row_cannot_be_permuted(checkpoint: Path, picture_rows: list[Row]) -> None:
    settings = dataclasses.replace(SETTINGS, degradations=(), attention_rows=0)
    (found,) = diagnose_rows([checkpoint], picture_rows[:1], settings)
    assert found.perceptual["overall"].image is None
    assert found.perceptual["overall"].reason == (
        "permuting needs two rows of one task with equally many images; give more rows"
    )


def test_the_folder_holds_json_and_a_page_that_needs_no_network(
    report: DiagnosisReport, folder: Path
) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        ".moir-edge.json",
        "diagnosis.html",
        "diagnosis.json",
    ]
    record = json.loads((folder / "diagnosis.json").read_text())
    assert record["candidates"][0]["routing"][0]["map"]["routed"]
    read = DiagnosisReport.model_validate(record)
    assert read.settings == SETTINGS
    assert read.candidates[0].shares == report.candidates[0].shares
    page = (folder / "diagnosis.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # one row of either source
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert "sigma 1.29 px" in page
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(svg)
    # read back, the pictures are gone and the page still stands
    assert "data:image/png" not in render_html(read)
    assert "routing" not in json.loads(report.summary())["candidates"][0]


def test_the_page_escapes_names(report: DiagnosisReport) -> None:
    first = report.candidates[0].model_copy(update={"name": "<b>&"})
    page = render_html(report.model_copy(update={"candidates": (first, report.candidates[1])}))
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page


def test_names_steer_neither_terminal_nor_page(
    report: DiagnosisReport, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = spoil(report)
    print_diagnosis(spoiled, Console(width=140))
    page, screen = render_html(spoiled), capsys.readouterr().out
    assert not steers(screen)
    assert not steers(page)
    assert "<script" not in page
    assert "[red]" in screen
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(svg)


def test_the_tables_name_every_figure(
    report: DiagnosisReport, capsys: pytest.CaptureFixture[str]
) -> None:
    print_diagnosis(report, Console(width=140))
    text = capsys.readouterr().out
    for name in (
        "clean", "blur, sigma 1.29 px", "blur, sigma 3.4 px", "noise, std 0.08", "word-dropout, p 0.3",
        "share of images", "dominance", "perceptual, image", "MDI layer 0", "clean: caption CIDEr-D",
        "Difference to checkpoint, in points",
    ):  # fmt: skip
        assert name in text, name
    assert "MDI not measured: needs attention weights" in text


def test_command_line(
    checkpoint: Path, demo_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["diagnose", str(checkpoint), "--data", str(demo_file), "-o", str(tmp_path / "out")]
    few = ["--limit", "3", "--max-new-tokens", "4", "--threads", "1", "--no-perceptual"]
    few += ["--attention-rows", "0", "--routing-rows", "0", "--degrade", "blur=2"]
    assert main([*words, *few, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert printed["candidates"][0]["conditions"] == written["candidates"][0]["conditions"]
    assert printed["settings"]["degradations"] == ["blur=2px"]
    assert main([*words, *few]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*words, *few, "--force"]) == 0
    out = capsys.readouterr().out
    assert "blur, sigma 2 px" in out
    assert out.endswith(f"report: {tmp_path / 'out' / 'diagnosis.html'}\n")


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, demo_data: list[Row]) -> Write:
    """Write rows of one demo image, with the given keys besides."""

    def rows(*extra: dict[str, object]) -> Path:
        path = tmp_path / "rows.jsonl"
        base = {"image": str(demo_data[0].images[0]), "prompt": "What is it?"}
        path.write_text("\n".join(json.dumps({**base, **one}) for one in extra))
        return path

    return rows


def test_rows_without_answers_are_refused_or_left_out(
    write: Write, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match="no row has answers, so nothing can be scored; add 'answers'"
    ):
        diagnose([checkpoint], write({}, {}), tmp_path / "out")
    settings = dataclasses.replace(SETTINGS, degradations=(), attention_rows=0)
    found = diagnose([checkpoint], write({}, {"answers": ["7"]}), settings=settings)
    assert (found.data.rows, found.unscored_rows) == (1, 1)
    assert not (tmp_path / "out").exists()


def test_an_output_that_stands_is_not_overwritten(
    checkpoint: Path, demo_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(
        DataError, match="exists; give another `output` or replace it with `force=True`"
    ):
        diagnose([checkpoint], demo_file, tmp_path)
    with pytest.raises(
        DataError,
        match="is not a diagnosis that moir-edge wrote, so `force=True` will not replace it",
    ):
        diagnose([checkpoint], demo_file, tmp_path, force=True)


def test_a_bundle_beside_another_checkpoint_is_refused(
    demo_checkpoint: Path,
    bundle: Path,
    demo_file: Path,
    demo_data: list[Row],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [str(demo_checkpoint), str(bundle), "--data", str(demo_file), "-o", str(tmp_path / "d")]
    assert main(["diagnose", *words]) == 2
    assert "error: bundle is a different model from checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
    with pytest.raises(DataError, match="allow it with `allow_other=True`"):
        diagnose_rows([demo_checkpoint, bundle], demo_data)


def test_the_report_says_at_the_top_that_models_differ(
    report: DiagnosisReport, folder: Path
) -> None:
    (notice,) = report.notices
    hashes = [str(one.weights_sha256) for one in report.provenance.models]
    assert all(one in notice for one in hashes)
    assert notice in (folder / "diagnosis.html").read_text()
    assert json.loads((folder / "diagnosis.json").read_text())["notices"] == [notice]


def test_the_report_says_where_it_comes_from(
    report: DiagnosisReport, folder: Path, demo_file: Path
) -> None:
    origin = report.provenance
    assert origin.command is None  # called from Python
    assert origin.providers["checkpoint"] == {"model": "torch on cpu"}
    assert origin.providers["bundle"]["decoder"] == "CPUExecutionProvider"
    assert origin.data is not None
    assert origin.data.sha256 == hashlib.sha256(demo_file.read_bytes()).hexdigest()
    page = (folder / "diagnosis.html").read_text()
    assert origin.data.sha256 in page
    assert "Called from Python" in page


def test_sources_that_are_no_models(checkpoint: Path, demo_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a bundle .* nor a checkpoint"):
        diagnose([checkpoint, demo_file.parent], demo_file)
    with pytest.raises(DataError, match="is given 2 times; name every candidate once"):
        diagnose([checkpoint, checkpoint], demo_file)
    with pytest.raises(DataError, match="give at least one model"):
        diagnose([], demo_file)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsupportedError, match="'bert' is not a vision-language model"):
        diagnose([tmp_path], demo_file)
