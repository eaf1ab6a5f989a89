from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import moir_edge
from moir_edge.cli.main import main
from moir_edge.cli.standard_input import read_pictures
from moir_edge.image_limit import limited_image_pixels

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
        code = main(["run", str(bundle), "-q", *(str(word) for word in words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_answer_is_the_python_apis(
    run: Callable[..., tuple[int, str, str]], tiny_bundle: Path, photo: Path
) -> None:
    expected = moir_edge.load(tiny_bundle).generate(PROMPT, photo, max_new_tokens=9)
    code, out, err = run("--image", photo, "--prompt", PROMPT, "--max-new-tokens", 9)
    assert code == 0
    assert out == expected.texts[0] + "\n"
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
    assert out == expected.texts[0] + "\n"
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


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Return a function that gives the command bytes on standard input."""

    def give(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


@pytest.mark.parametrize(
    "data",
    [
        PROMPT.encode(),
        b"\xef\xbb\xbf" + PROMPT.encode() + b"\r\n",
        (PROMPT + "\r\n").encode("utf-16"),
        PROMPT.encode() + b"\n\n",
    ],
)
def test_a_prompt_by_standard_input(
    run: Callable[..., tuple[int, str, str]],
    piped: Callable[[bytes], None],
    photo: Path,
    data: bytes,
) -> None:
    words = ("-i", photo, "--max-new-tokens", 9)
    piped(data)
    assert run("-p", "-", *words)[:2] == run("-p", PROMPT, *words)[:2]


def test_lines_of_a_prompt_file_end_as_in_unix(
    run: Callable[..., tuple[int, str, str]], piped: Callable[[bytes], None]
) -> None:
    piped("Über\r\nnaïve".encode())
    words = ("--max-new-tokens", 4, "--json")
    given = json.loads(run("-p", "-", *words)[1])
    typed = json.loads(run("-p", "Über\nnaïve", *words)[1])
    assert given["token_ids"] == typed["token_ids"]
    assert given["prompt_tokens"] == typed["prompt_tokens"]


def test_control_tokens_in_the_prompt_can_be_ordinary_text(
    run: Callable[..., tuple[int, str, str]], photo: Path
) -> None:
    words = ("-i", photo, "-p", "what is <image>?", "--max-new-tokens", 4)
    assert "names 2 image(s) and 1 were given" in run(*words)[2]
    code, _, err = run(*words, "--split-special-tokens")
    assert code == 0, err


def test_an_image_by_standard_input(
    run: Callable[..., tuple[int, str, str]], piped: Callable[[bytes], None], photo: Path
) -> None:
    words = ("-p", PROMPT, "--max-new-tokens", 9)
    piped(photo.read_bytes())
    assert run("-i", "-", *words)[:2] == run("-i", photo, *words)[:2]


def test_pictures_beyond_the_pixels_of_one_are_decoded_again(
    run: Callable[..., tuple[int, str, str]], photo: Path
) -> None:
    with Image.open(photo) as image:
        pixels = image.width * image.height
    words = ("-p", PROMPT, "-i", photo, "-i", photo, "--max-new-tokens", 9)
    assert run(*words, "--max-image-pixels", pixels)[:2] == run(*words)[:2]
    with limited_image_pixels(pixels):
        first, second = read_pictures([photo, photo])
    assert isinstance(first, Image.Image)
    assert second == photo


@pytest.mark.parametrize(
    ("words", "data", "message"),
    [
        (["-p", "-", "-i", "-"], b"x", "`-` is given 2 times among --prompt and --image"),
        (["-p", PROMPT, "-i", "-", "-i", "-"], b"x", "`-` is given 2 times"),
        (["-p", "-"], b"", "standard input is empty, and `-` takes the prompt from it"),
        (["-p", "-"], b" \r\n", "standard input is empty"),
        (["-p", "-"], b"\xef\xbb\xbf\r\n", "the prompt is empty"),
        (["-p", "-"], b"caf\xe9", "the prompt on standard input is not UTF-8 text (byte 3)"),
        (
            ["-p", PROMPT, "-i", "-"],
            b"",
            "standard input is empty, and `-` takes the image from it",
        ),
        (["-p", PROMPT, "-i", "-"], b"words", "standard input is not an image"),
        (
            ["-p", "-"],
            b"word " * 6_710_887,
            "the prompt on standard input has more than 33554432 bytes; shorten the prompt",
        ),
        (
            ["-p", PROMPT, "-i", "-", "--max-image-pixels", "100"],
            b"\x89PNG\r\n\x1a\n" * 140_000,
            "standard input has more than 1048976 bytes, the most for a file of up to 100 pixels; "
            "save it smaller, or raise --max-image-pixels",
        ),
    ],
)
def test_what_standard_input_cannot_give_is_one_line(
    run: Callable[..., tuple[int, str, str]],
    piped: Callable[[bytes], None],
    words: list[str],
    data: bytes,
    message: str,
) -> None:
    piped(data)
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_set_goes_before_the_checkpoints_config(
    run: Callable[..., tuple[int, str, str]],
    make_bundle: Callable[..., Path],
    put_file: Callable[..., None],
    tmp_path: Path,
) -> None:
    bundle = make_bundle(tmp_path / "b")
    config = {"repetition_penalty": 1.9, "max_new_tokens": 6, "num_beams": 2, "guidance_scale": 2}
    put_file(bundle, "generation_config.json", json.dumps(config))
    words = ("-p", PROMPT, "--json", "--no-verify")
    code, _, err = run(*words, bundle=bundle)
    assert (code, err.count("\n")) == (2, 1)
    assert "num_beams=2 asks for beam search" in err
    ruled = json.loads(run(*words, "--set", "num_beams=1", bundle=bundle)[1])
    assert ruled["not_carried"][0].startswith("num_beams=2 (beam search")
    assert ruled["not_carried"][1].startswith("guidance_scale=2 (")
    free = ("--set", "num_beams=1", "--set", "repetition_penalty=null")
    plain = json.loads(run(*words, *free, bundle=bundle)[1])
    ignored = json.loads(run(*words, "--ignore-generation-config", bundle=bundle)[1])
    assert len(ruled["token_ids"]) == len(plain["token_ids"]) == 6
    assert ruled["token_ids"] != plain["token_ids"] == ignored["token_ids"][:6]
    assert len(ignored["token_ids"]) > 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-i", "absent.png", "-p", PROMPT], "absent.png: no such image file"),
        (["-i", "notes.txt", "-p", PROMPT], "notes.txt is not an image"),
        (["-i", "cut.png", "-p", PROMPT], "cut.png is damaged or truncated"),
        (["-i", ".", "-p", PROMPT], "is a folder, not an image"),
        (
            ["-i", "photo.png", "-p", PROMPT, "--max-image-pixels", "99"],
            "scale it down, or raise --max-image-pixels",
        ),
        (["-i", "photo.png", "-p", "  "], "the prompt is empty"),
        (["-i", "photo.png", "-p", "word " * 300], "the model's context holds 512"),
        (["-i", "photo.png", "-p", "what is <image>?"], "names 2 image(s) and 1 were given"),
        (["-p", PROMPT, "--router", "maybe"], "expected on or off"),
        (["-p", PROMPT, "--router", "off", "--routing-map", "map.png"], "map.png needs the router"),
        (["-p", PROMPT, "--routing-map", "map.png"], "give at least one --image"),
        (["-i", "photo.png", "-p", PROMPT, "--routing-map", "no/such/map.png"], "cannot write"),
        (["-p", PROMPT, "--top-p", "2"], "top_p is 2.0"),
        (["-p", PROMPT, "--set", "top_k"], "--set 'top_k': expected KEY=VALUE"),
        (["-p", PROMPT, "--set", "topk=3"], "does not apply 'topk'; did you mean 'top_k'?"),
        (
            ["-p", PROMPT, "--set", "top_k=many"],
            'the settings given with this call: top_k is "many"',
        ),
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
    assert (code, "is not a bundle" in err) == (2, True)


def test_a_map_that_cannot_be_written_is_refused_before_the_bundle_is_opened(
    run: Callable[..., tuple[int, str, str]], photo: Path, tmp_path: Path
) -> None:
    for words in (
        ["-p", PROMPT, "--routing-json", "map.json"],
        ["-p", PROMPT, "-i", photo, "--routing-map", tmp_path / "no" / "map.png"],
    ):
        code, out, error = run(*words, bundle=tmp_path / "no-bundle")
        assert (code, out) == (2, "")
        assert "give at least one --image" in error or "is not a folder; make it first" in error
    code, out, error = run(
        "-p", PROMPT, "-i", photo, "--routing-map", tmp_path, bundle=tmp_path / "no-bundle"
    )
    assert (code, out) == (2, "")
    assert error == f"error: cannot write {tmp_path}: Is a directory; nothing was left behind\n"


def test_a_setting_of_this_call_is_not_blamed_on_the_file(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    _, _, error = run("-p", PROMPT, "--set", "repetition_penalty=0")
    assert error.startswith(
        "error: the settings given with this call: repetition_penalty is 0: "
    ), error
