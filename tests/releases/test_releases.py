"""The chain from a checkpoint to a report on the releases that are installed; `make newest` installs the newest."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from moir_edge.cli.main import main
from moir_edge.errors import UnsupportedError
from moir_edge.router import last_routing, load_retrofitted, remove_router

from ..tracing import Place

TOKENS = 4


def _bare(model_folder: Path, to: Path) -> Path:
    """Save the demo checkpoint without its router."""
    shutil.copytree(model_folder, to)
    model = load_retrofitted(model_folder, dtype=torch.float32)
    remove_router(model)
    model.save_pretrained(to)
    return to


def test_retrofit_leaves_the_logits_and_routes_the_prompt_once(
    checkpoint: Path, inputs: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    bare = _bare(checkpoint, tmp_path / "bare")
    assert main(["retrofit", str(bare), "-o", str(tmp_path / "routed")]) == 0
    base = AutoModelForImageTextToText.from_pretrained(bare, dtype=torch.float32).eval()
    routed = load_retrofitted(tmp_path / "routed", dtype=torch.float32).eval()
    calls: list[int] = []
    routed.moir_router.register_forward_hook(lambda *_: calls.append(1))
    options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    with torch.no_grad():
        assert torch.equal(base.generate(**inputs, **options), routed.generate(**inputs, **options))
        assert len(calls) == 1
        assert last_routing(routed) is not None
        with pytest.raises(UnsupportedError, match="prefill_chunk_size=None"):
            routed.generate(**inputs, **options, prefill_chunk_size=8)


def test_fp32_bundle_gives_the_tokens_of_transformers(
    model: Any, inputs: dict[str, Any], fp32: Path
) -> None:
    import moir_edge

    with torch.no_grad():
        whole = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    expected = whole[0, inputs["input_ids"].shape[1] :].tolist()
    from moir_edge.demo import demo_rows

    (row,) = demo_rows("test", count=1, tasks=("vqa",))
    found = moir_edge.load(fp32).generate(row.prompt, list(row.images), max_new_tokens=16)
    assert list(found.token_ids[0]) == expected


def test_run_answers_from_both_bundles(
    fp32: Path, int4: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads(rows.read_text().splitlines()[0])
    image = rows.parent / row["image"]
    for bundle in (fp32, int4):
        words = ["run", str(bundle), "--image", str(image), "--prompt", row["prompt"], "--json"]
        assert main(words) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["router"]
        assert answer["token_ids"]


def test_compare_on_twenty_rows(
    checkpoint: Path, fp32: Path, int4: Path, rows: Path, tmp_path: Path
) -> None:
    words = [str(checkpoint), str(fp32), str(int4), "--data", str(rows), "-o", str(tmp_path / "r")]
    assert main(["compare", *words, "--latency-rows", "2"]) == 0
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    _, whole, small = report["candidates"]
    assert (whole["name"], small["name"]) == ("bundle-fp32", "bundle-int4")
    assert len(whole["rows"]) == 20
    # float32 graphs against float32 torch: the same answers, so the recovery is whole
    assert whole["recovery"]["value"] == 1
    assert whole["token_agreement"]["identical"] == 1
    assert (tmp_path / "r" / "report.html").is_file()


def test_transformers_exporters(model: Any, inputs: dict[str, Any], tmp_path: Path) -> None:
    from transformers.exporters import AutoExportConfig, AutoHfExporter, ExportedModel

    import moir_edge.export  # noqa: F401  (registers the formats)

    config = AutoExportConfig.from_dict(
        {
            "export_format": "moir_tensorrt",
            "target": "jetson-orin-nano",
            "component_precision": dict.fromkeys(("vision", "embedding", "decoder"), "fp32"),
        }
    )
    AutoHfExporter.from_config(config).export(model, inputs, config).save_pretrained(tmp_path / "s")
    again = ExportedModel.from_pretrained(tmp_path / "s", device="cpu")
    with torch.no_grad():
        expected = model(**inputs, logits_to_keep=1).logits
    # the contract of float32 graphs against torch: other orders of sums
    torch.testing.assert_close(again(**inputs).logits, expected, rtol=0, atol=1e-3)


def test_optimum_cli(checkpoint: Path, tmp_path: Path) -> None:
    words = ["export", "moir-edge", str(checkpoint), "-o", str(tmp_path / "bundle"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["precision"] == "fp32"


def test_commands_make_no_socket_and_no_file_but_their_output(
    checkpoint: Path, rows: Path, tmp_path: Path
) -> None:
    image = rows.parent / json.loads(rows.read_text().splitlines()[0])["image"]
    place = Place(tmp_path)
    bundle = str(place.out / "bundle")
    for words in (
        ["export", str(checkpoint), "-o", bundle],
        ["run", bundle, "--image", str(image), "--prompt", "Why?"],
        ["compare", str(checkpoint), bundle, "--data", str(rows), "--limit", "4", "-o", f"{bundle}-report"],
        ["tune", str(checkpoint), "--data", str(rows), "--steps", "1", "-o", f"{bundle}-tuned"],
    ):  # fmt: skip
        done = place.run(words)
        assert done.traced.code == 0, done.traced.output
        assert (done.traced.network(), done.left, done.foreign) == ([], (), ())


def test_tune(checkpoint: Path, rows: Path, tmp_path: Path) -> None:
    words = ["--data", str(rows), "-o", str(tmp_path / "tuned"), "--steps", "2"]
    assert main(["tune", str(checkpoint), *words, "--batch-size", "2"]) == 0
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
