from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import moir_edge
from moir_edge.cli.main import main

PROMPT = "What is left?"


@pytest.fixture
def photo(tmp_path: Path, picture: Callable[..., Image.Image]) -> Path:
    path = tmp_path / "photo.png"
    picture(20, 30).save(path)
    return path


@pytest.fixture
def run(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `moir-edge run` and gives its exit code, stdout and stderr."""

    def call(*words: object, bundle: Path = tiny_bundle) -> tuple[int, str, str]:
        code = main(["run", str(bundle), *(str(word) for word in words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_answer_is_the_python_apis(
    run: Callable[..., tuple[int, str, str]], tiny_bundle: Path, photo: Path
) -> None:
    expected = moir_edge.load(tiny_bundle).generate(PROMPT, photo, max_new_tokens=9)
    code, out, err = run("--image", photo, "--prompt", PROMPT, "--max-new-tokens", 9)
    assert code == 0
    assert out == expected.texts[0].lstrip() + "\n"
    assert "tok/s" in err
    assert "router on" in err
    _, at_once, _ = run("-i", photo, "-p", PROMPT, "--max-new-tokens", 9, "--no-stream")
    assert at_once == out


def test_json_holds_answer_and_timings(
    run: Callable[..., tuple[int, str, str]], tiny_bundle: Path, photo: Path
) -> None:
    code, out, _ = run("-i", photo, "-p", PROMPT, "--json", "--max-new-tokens", 5, "--threads", 1)
    data = json.loads(out)
    generation = moir_edge.load(tiny_bundle).generate(PROMPT, photo, max_new_tokens=5)
    assert code == 0
    assert data["text"] == generation.texts[0]
    assert data["token_ids"] == list(generation.token_ids[0])
    assert data["finish_reason"] == "length"
    assert data["router"] is True
    assert len(data["timings"]["decode_ms"]) == 4
    assert data["peak_memory_bytes"] > 1e6


def test_router_context_and_seed_reach_the_model(
    run: Callable[..., tuple[int, str, str]], tiny_bundle: Path, photo: Path
) -> None:
    model = moir_edge.load(tiny_bundle)
    code, out, err = run("-i", photo, "-p", PROMPT, "--router", "off", "--context", "It rains.")
    assert code == 0
    expected = model.generate(PROMPT, photo, context="It rains.", router=False)
    assert out == expected.texts[0].lstrip() + "\n"
    assert "router off" in err
    words = (
        "-i",
        photo,
        "-p",
        PROMPT,
        "--temperature",
        2,
        "--top-k",
        9,
        "--top-p",
        0.9,
        "--seed",
        4,
    )
    assert run(*words)[1] == run(*words)[1]


def test_the_routing_map_is_written(
    run: Callable[..., tuple[int, str, str]], photo: Path, tmp_path: Path
) -> None:
    png, data = tmp_path / "map.png", tmp_path / "map.json"
    code, _, _ = run(
        "-i", photo, "-i", photo, "-p", PROMPT, "--routing-map", png, "--routing-json", data,
        "--max-new-tokens", 2,
    )  # fmt: skip
    assert code == 0
    with Image.open(png) as drawn:
        assert drawn.format == "PNG"
    assert json.loads(data.read_text(encoding="utf-8"))["image_tokens"] == 8


def test_text_alone_is_a_prompt(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("-p", "no image at all", "--max-new-tokens", 2)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-i", "absent.png", "-p", PROMPT], "absent.png: no such image file"),
        (["-i", "notes.txt", "-p", PROMPT], "notes.txt is not an image"),
        (["-i", "cut.png", "-p", PROMPT], "cut.png is damaged or truncated"),
        (["-i", ".", "-p", PROMPT], "is a folder, not an image"),
        (["-i", "photo.png", "-p", "  "], "the prompt is empty"),
        (["-i", "photo.png", "-p", "word " * 300], "the model's context holds 512"),
        (["-i", "photo.png", "-p", "what is <image>?"], "names 2 image(s) and 1 were given"),
        (["-p", PROMPT, "--router", "maybe"], "expected on or off"),
        (["-p", PROMPT, "--router", "off", "--routing-map", "map.png"], "map.png needs the router"),
        (["-p", PROMPT, "--routing-map", "map.png"], "give at least one --image"),
        (["-i", "photo.png", "-p", PROMPT, "--routing-map", "no/such/map.png"], "cannot write"),
        (["-p", PROMPT, "--top-p", "2"], "top_p is 2.0"),
        (["-p", PROMPT, "--provider", "tpu"], "unknown provider 'tpu'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    run: Callable[..., tuple[int, str, str]],
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("not pixels")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:500])
    before = sorted(tmp_path.iterdir())
    code, _, err = run(*words, "--max-new-tokens", 2)
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_bundle_names_the_hash(
    run: Callable[..., tuple[int, str, str]],
    make_bundle: Callable[..., Path],
    photo: Path,
    tmp_path: Path,
) -> None:
    bundle = make_bundle(tmp_path / "damaged")
    graph = bundle / "decoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    code, _, err = run("-i", photo, "-p", PROMPT, bundle=bundle)
    assert code == 2
    assert "decoder.onnx has sha256" in err


def test_a_newer_or_missing_bundle_is_refused(
    run: Callable[..., tuple[int, str, str]],
    make_bundle: Callable[..., Path],
    photo: Path,
    tmp_path: Path,
) -> None:
    bundle = make_bundle(tmp_path / "newer")
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    code, _, err = run("-i", photo, "-p", PROMPT, bundle=bundle)
    assert (code, "schema version 99" in err) == (2, True)
    code, _, err = run("-i", photo, "-p", PROMPT, bundle=tmp_path / "absent")
    assert (code, "is no bundle" in err) == (2, True)
