from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moir_edge.bundle import EngineEntry, Manifest, open_bundle, seal
from moir_edge.cli.inspect import summarise
from moir_edge.cli.main import main


def test_the_table_names_components_and_tensors(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_bundle)]) == 0
    out = capsys.readouterr().out
    for word in (
        "vision",
        "embedding",
        "decoder",
        "router",
        "pixel_values (images, 3, 12, 12)",
        "fp32",
    ):
        assert word in out
    assert "past_key_values.0…1" in out  # one line for the cache of both layers
    assert "all hashes verified" in out


def test_json_figures_add_up(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    on_disk = sum(path.stat().st_size for path in tiny_bundle.rglob("*") if path.is_file())
    assert data["bytes"] == on_disk
    assert data["bytes_ratio"] == pytest.approx(on_disk / data["tensor_bytes"], abs=1e-4)
    assert data["verified"] is True
    assert set(data["components"]) == {"vision", "embedding", "decoder", "router"}
    assert data["components"]["decoder"]["bytes"] == (tiny_bundle / "decoder.onnx").stat().st_size


def test_engines_are_listed_and_left_out_of_the_ratio(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "b")
    before = summarise(open_bundle(bundle), verified=True)
    _add_engine(bundle)
    after = summarise(open_bundle(bundle), verified=True)
    assert after["engine_bytes"] == 1000
    # Only the manifest grew, by the engine's entries.
    assert 0 < after["bytes"] - before["bytes"] < 1000
    assert main(["inspect", str(bundle)]) == 0
    assert "tensorrt_rtx 1.7.1" in capsys.readouterr().out


def _add_engine(bundle: Path) -> None:
    path = bundle / "engines" / "rtx-40" / "router.engine"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"e" * 1000)
    entry = EngineEntry(
        component="router",
        target="rtx-40",
        path="engines/rtx-40/router.engine",
        builder="tensorrt_rtx",
        builder_version="1.7.1",
        compute_capability="8.9",
        compute="fp16",
        build_seconds=1.5,
    )
    manifest: Manifest = open_bundle(bundle, verify=False).manifest
    seal(bundle, manifest.model_copy(update={"engines": (entry,)}))


def test_damage_is_found_unless_told_not_to_look(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "b")
    template = bundle / "chat_template.jinja"
    template.write_text(template.read_text().replace("User", "user").replace("image", "imagf"))
    assert main(["inspect", str(bundle)]) == 2
    assert "chat_template.jinja has sha256" in capsys.readouterr().err
    assert main(["inspect", str(bundle), "--no-verify"]) == 0
    assert "not verified" in capsys.readouterr().out


def test_a_manifest_cannot_steer_the_terminal(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "a\x1b[2J\r\nfiles: 9, all hashes verified\u202e [bold]:bomb:"
    bundle = make_bundle(tmp_path / "b")
    manifest = open_bundle(bundle, verify=False).manifest
    source = manifest.source.model_copy(update={"name": hostile, "architecture": hostile})
    parity = {**manifest.parity, hostile: {hostile: hostile}}
    seal(bundle, manifest.model_copy(update={"source": source, "parity": parity}))
    assert main(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    shown = r"a\x1b[2J\x0d\nfiles: 9, all hashes verified\u202e [bold]:bomb:"
    assert out.splitlines()[1].startswith(f"{shown} from {shown} (sha256 ")
    assert f"parity {shown}: {shown} {shown}" in out
    assert out.replace("\n", "").isprintable()
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"]["name"] == hostile


def test_figures_of_another_shape_are_one_line(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "b")
    (bundle / "reports").mkdir()
    (bundle / "reports" / "quantization.json").write_text(
        json.dumps({"decoder": {"weights": [{"node": "q", "shape": [2, 2]}]}})
    )
    manifest = open_bundle(bundle, verify=False).manifest
    seal(bundle, manifest)
    assert main(["inspect", str(bundle), "--quantization"]) == 2
    assert capsys.readouterr().err == (
        f"error: {bundle} has figures of another shape than export writes, in its manifest or its reports "
        "(KeyError: 'precision'); export it again\n"
    )
    assert main(["inspect", str(bundle), "--quantization", "--json"]) == 0
