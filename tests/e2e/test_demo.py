"""The demo leaves three bundles with engines, an answer with its routing map, and a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from moir_edge import load
from moir_edge.bundle import COMPONENTS, open_bundle
from moir_edge.cli.main import main
from moir_edge.demo import demo_rows

PRECISIONS = ("fp32", "int8-weight-only", "int4")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bundle_is_sound_and_has_engines_of_every_component(
    demo_output: Path, precision: str
) -> None:
    bundle = open_bundle(demo_output / f"bundle-{precision}", verify=True)
    manifest = bundle.manifest
    assert manifest.precision == precision
    assert set(manifest.components) == set(COMPONENTS)
    assert manifest.components["router"].precision == "fp32"
    assert {engine.component for engine in manifest.engines} == set(COMPONENTS)
    assert all(bundle.file(engine.path).stat().st_size > 1000 for engine in manifest.engines)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_weight_lies_twice(demo_output: Path, precision: str) -> None:
    manifest = open_bundle(demo_output / f"bundle-{precision}").manifest
    engines = {engine.path for engine in manifest.engines}
    sizes = {one.path: one.bytes for one in manifest.files if one.path not in engines}
    second = sum(sizes.pop(f"{name}.fused.onnx") for name in ("vision", "decoder"))
    tensors = sum(component.tensor_bytes for component in manifest.components.values())
    # The bound of the contract: graphs, tokenizer, configs and reports within 3 % of the weights.
    assert sum(sizes.values()) <= 1.03 * tensors
    # The second form of two graphs holds no weight: names, places and operators, on a model of 2 MB.
    assert second <= 0.01 * tensors


def test_fp32_bundle_matches_torch(demo_output: Path) -> None:
    parity = open_bundle(demo_output / "bundle-fp32").manifest.parity
    # Both run float32; they differ in the order of sums only.
    assert max(parity["max_abs_error"].values()) <= 1e-3
    assert parity["router"]["index_agreement"] >= 0.999


def test_demo_model_reads_the_digits(demo_bundle: Path) -> None:
    rows = demo_rows("test", count=40, seed=1, tasks=("vqa",))
    answers = load(demo_bundle).generate(
        [row.prompt for row in rows],
        [list(row.images) for row in rows],
        context=[row.context for row in rows],
    )
    pairs = zip(rows, answers.texts, strict=True)
    right = sum(text.strip() in row.answers for row, text in pairs)
    # The model card states over 90 %; 40 rows leave room for chance.
    assert right >= 34


def test_report_holds_every_candidate_and_its_raw_samples(demo_output: Path) -> None:
    report = json.loads((demo_output / "report" / "report.json").read_text())
    assert [candidate["precision"] for candidate in report["candidates"]][1:] == list(PRECISIONS)
    assert all(candidate["ttft"]["samples"] for candidate in report["candidates"])
    page = (demo_output / "report" / "report.html").read_text()
    assert "int8-weight-only" in page
    # Self-contained: nothing is loaded from elsewhere.
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_build_adds_engines_of_another_target(demo_output: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(demo_output / "bundle-int4", tmp_path / "bundle")
    assert main(["build", str(bundle), "--target", "rtx-50", "--json"]) == 0
    engines = open_bundle(bundle).manifest.engines
    assert {engine.target for engine in engines} == {"rtx-40", "rtx-50"}
    # Narrow weights do not mean slow arithmetic: only the router's look-up stays wide.
    assert {e.component for e in engines if e.compute == "fp32"} == {"router"}


def test_manifest_says_what_quantization_did(demo_output: Path) -> None:
    calibration = open_bundle(demo_output / "bundle-int4").manifest.calibration
    assert calibration is not None
    assert calibration["decoder"]["precision"] == "int4"
    assert calibration["decoder"]["quantized"] > 20
    # Blocks of 32 with 16 levels: the worst layer of this model loses a tenth of its norm.
    assert 0 < calibration["decoder"]["worst_relative_error"] < 0.15
    assert open_bundle(demo_output / "bundle-fp32").manifest.calibration is None


def test_routing_map_is_a_picture(demo_output: Path) -> None:
    with Image.open(demo_output / "routing-map.png") as picture:
        assert picture.size[0] > 400


def test_demo_refuses_a_folder_that_is_not_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.jpg").touch()
    assert main(["demo", "-o", str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["demo", "-o", str(tmp_path), "--force"]) == 2
    assert (
        "is not a demo that moir-edge wrote, so --force will not replace it"
        in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_nothing_names_the_folder_in_which_the_demo_was_made(demo_output: Path) -> None:
    """It is made under a hidden name, and every path leads to where it stands now."""
    for path in sorted(demo_output.rglob("*")):
        if path.suffix in (".json", ".html", ".jsonl"):
            assert ".partial-" not in path.read_text("utf-8"), path
    report = json.loads((demo_output / "report" / "report.json").read_text())
    assert report["provenance"]["data"]["path"] == str(demo_output / "data" / "data.jsonl")
    bundles = [Path(one["source"]) for one in report["candidates"][1:]]
    assert bundles == [demo_output / f"bundle-{precision}" for precision in PRECISIONS]
    for one in report["candidates"]:
        assert all(Path(image).is_file() for row in one["changed"] for image in row["images"])
    beside = [path.name for path in demo_output.parent.iterdir()]
    assert demo_output.name in beside
    assert [name for name in beside if ".partial-" in name] == []
