"""Tests of the files of a bundle: what is listed, where it lies, and what manifest and graphs say of each other."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import moir_edge
from moir_edge.bundle import open_bundle, seal
from moir_edge.bundle.files import ModelFiles, path_problem
from moir_edge.errors import BundleError


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may alter."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "b"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("a/b.json", None),
        ("my notes.txt", None),
        ("", "is not relative"),
        ("/etc/passwd", "is not relative"),
        ("c:/x", "is not relative"),
        ("../x", "leaves the bundle"),
        ("a/../../x", "leaves the bundle"),
        ("a//b", "leaves the bundle"),
        ("./a", "leaves the bundle"),
        ("a\\b", "holds a backslash"),
        ("a\x00b", "holds a backslash or a character that cannot be printed"),
    ],
)
def test_paths_of_a_manifest_stay_inside(path: str, problem: str | None) -> None:
    found = path_problem(path)
    assert found is None if problem is None else found is not None and found.startswith(problem)


def test_a_path_out_of_the_bundle_is_refused_with_its_place(bundle: Path) -> None:
    edit(bundle, lambda record: record["files"][0].update(path="../secret"))
    with pytest.raises(BundleError, match=r"invalid at files\.0\.path: .*'\.\./secret' leaves"):
        open_bundle(bundle, verify=False)


@pytest.mark.parametrize("name", ["chat_template.json", "generation_config.json", "x.jinja"])
def test_a_file_that_is_not_listed_is_never_read(bundle: Path, name: str) -> None:
    (bundle / name).write_text('{"chat_template": "mine"}')
    files = open_bundle(bundle).files
    with pytest.raises(BundleError, match=rf"{name} is not listed in the bundle's manifest\.json"):
        files.text(name)
    assert ModelFiles(bundle).text(name) is not None  # a checkpoint has no list
    assert files.text("gone.json") is None


def test_an_unlisted_file_that_would_change_answers_is_named(bundle: Path) -> None:
    (bundle / "generation_config.json").write_text('{"suppress_tokens": [1]}')
    for verify in (True, False):
        with pytest.raises(BundleError, match=r"generation_config\.json is not listed"):
            moir_edge.load(bundle, verify=verify)


def test_a_link_out_of_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    file = bundle / "tokenizer_config.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match=r"tokenizer_config\.json is a link out of the bundle"):
        open_bundle(bundle)
    with pytest.raises(BundleError, match="is a link out of the bundle"):
        moir_edge.load(bundle, verify=False)


def test_a_snapshot_of_the_hubs_cache_is_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "0f0f", repository / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(tiny_bundle.iterdir())):
        shutil.copy(path, blobs / f"{number}")
        (snapshot / path.name).symlink_to(os.path.join("..", "..", "blobs", f"{number}"))
    assert moir_edge.load(snapshot, threads=1).generate("What?", max_new_tokens=2).texts


def test_a_graph_reads_no_other_files_than_its_own(bundle: Path, tmp_path: Path) -> None:
    graph = onnx.load(bundle / "decoder.onnx")
    onnx.save(
        graph,
        bundle / "decoder.onnx",
        save_as_external_data=True,
        location="hidden.data",
        size_threshold=0,
    )
    seal(bundle, open_bundle(bundle, verify=False).manifest)
    message = r"decoder\.onnx reads weights from 'hidden\.data', which is not a file of the decoder"
    with pytest.raises(BundleError, match=message):
        moir_edge.load(bundle)


def test_what_is_not_a_graph_never_reaches_onnx_runtime(bundle: Path) -> None:
    (bundle / "decoder.onnx").write_bytes(b"graph")
    seal(bundle, open_bundle(bundle, verify=False).manifest)
    with pytest.raises(BundleError, match=r"decoder\.onnx is not an ONNX graph \(unknown wire"):
        moir_edge.load(bundle)


def test_another_graph_than_the_manifests_is_refused(bundle: Path) -> None:
    shutil.copy(bundle / "embedding.onnx", bundle / "vision.onnx")
    seal(bundle, open_bundle(bundle, verify=False).manifest)
    with pytest.raises(
        BundleError, match=r"vision\.onnx has the inputs input_ids int64.*the manifest says pixel"
    ):
        moir_edge.load(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["model"].update(num_layers=7), "model.num_layers is 7"),
        (lambda m: m["model"].update(num_layers=-1), "invalid at model.num_layers"),
        (lambda m: m["model"].update(num_kv_heads=9), "and model.num_kv_heads is 9"),
        (lambda m: m["model"].update(vocab_size=1 << 23), "and model.vocab_size is 8388608"),
        (lambda m: m["model"].update(hidden_size=3), "and model.hidden_size is 3"),
        (lambda m: m["model"].update(context_length=10**12), "invalid at model.context_length"),
        (lambda m: m["model"].update(context_length=1), "leaves no room in model.context_length"),
        (lambda m: m["model"].update(image_token_id=1 << 30), "model.image_token_id is"),
        (lambda m: m["model"].update(tokens_per_tile=[4]), "invalid at model.tokens_per_tile"),
        (lambda m: m["components"].update(other=m["components"]["router"]), "components.other is"),
        (lambda m: m["components"]["router"].update(graph="x.onnx"), "names x.onnx, which files"),
        (lambda m: m["components"]["router"].update(graph="a b'"), "invalid at components.router"),
        (lambda m: m["files"].append(m["files"][0]), "files lists a path twice"),
        (lambda m: m["files"][0].update(bytes=-5), "invalid at files.0.bytes"),
        (lambda m: m.update(files={}), "invalid at files"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        open_bundle(bundle)
    text = str(caught.value)
    assert text.startswith(str(bundle / "manifest.json"))
    assert "\n" not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["model"].update(eos_token_ids=[5]),
        lambda m: m["source"].update(name="another"),
        lambda m: m.update(notes=["x"]),
    ],
)
def test_an_altered_manifest_is_refused_under_verify(
    bundle: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=r"manifest\.json was altered after it was written"):
        open_bundle(bundle)
    assert open_bundle(bundle, verify=False).manifest.manifest_sha256 is not None
    edit(bundle, lambda record: record.pop("manifest_sha256"))  # as bundles of earlier versions
    open_bundle(bundle)
