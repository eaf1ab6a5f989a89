"""A bundle appears whole or not at all, and every byte of it is proved when it is opened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from moir_edge.bundle import (
    ComponentEntry,
    Manifest,
    ModelFacts,
    SourceEntry,
    TensorSpec,
    open_bundle,
    seal,
    staged_bundle,
)
from moir_edge.errors import BundleError, EnvironmentProblem


def manifest() -> Manifest:
    spec = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
    return Manifest(
        created_with={"moir-edge": "0.1.0"},
        source=SourceEntry(name="tiny", sha256="0" * 64, architecture="SmolVLM"),
        model=ModelFacts(
            model_type="smolvlm",
            hidden_size=8,
            num_layers=1,
            num_kv_heads=1,
            head_dim=8,
            vocab_size=16,
            context_length=32,
            image_token_id=3,
            eos_token_ids=(2,),
            pad_token_id=0,
            special_token_ids=(0, 2, 3),
            image_size=16,
            tokens_per_tile=4,
        ),
        target="cpu",
        precision="fp32",
        router=None,
        router_sha256=None,
        components={
            "embedding": ComponentEntry(
                graph="embedding.onnx",
                precision="fp32",
                tensor_bytes=4,
                inputs=(spec,),
                outputs=(spec,),
            )
        },
    )


def write(output: Path, payload: bytes = b"graph", *, force: bool = False) -> None:
    with staged_bundle(output, force=force) as folder:
        (folder / "embedding.onnx").write_bytes(payload)
        (folder / "reports").mkdir()
        (folder / "reports" / "parity.json").write_text("{}")
        seal(folder, manifest())


def test_round_trip_lists_every_file_with_its_hash(tmp_path: Path) -> None:
    write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    assert {entry.path: (entry.bytes, entry.sha256) for entry in bundle.manifest.files} == {
        "embedding.onnx": (5, hashlib.sha256(b"graph").hexdigest()),
        "reports/parity.json": (2, hashlib.sha256(b"{}").hexdigest()),
    }
    assert bundle.file("embedding.onnx").read_bytes() == b"graph"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_one_flipped_byte_is_found_and_both_hashes_are_named(tmp_path: Path) -> None:
    write(tmp_path / "b")
    (tmp_path / "b" / "embedding.onnx").write_bytes(b"grapi")
    wrong, right = (hashlib.sha256(data).hexdigest() for data in (b"grapi", b"graph"))
    with pytest.raises(BundleError, match=rf"embedding\.onnx has sha256 {wrong}.*says {right}"):
        open_bundle(tmp_path / "b")


def test_missing_and_shortened_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "b")
    (tmp_path / "b" / "embedding.onnx").write_bytes(b"gra")
    with pytest.raises(BundleError, match="has 3 bytes, the manifest says 5"):
        open_bundle(tmp_path / "b")
    (tmp_path / "b" / "embedding.onnx").unlink()
    with pytest.raises(BundleError, match=r"embedding\.onnx is missing"):
        open_bundle(tmp_path / "b")


def test_newer_schema_asks_for_an_upgrade(tmp_path: Path) -> None:
    write(tmp_path / "b")
    path = tmp_path / "b" / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"schema_version": 99, "new_field": 1}))
    with pytest.raises(
        BundleError, match="schema version 99, this moir-edge reads up to 1; upgrade"
    ):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "holds a list, expected an object"),
        ("{}", "no schema_version"),
        ('{"schema_version": 1}', "invalid at created_with"),
        (
            '{"schema_version": 1, "files": [' + "0," * 100_000 + "0]}",
            "holds more than 100,000 values",
        ),
    ],
)
def test_broken_manifest_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path)


def test_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)


def test_existing_bundle_needs_force_and_other_folders_are_never_replaced(tmp_path: Path) -> None:
    write(tmp_path / "b")
    with pytest.raises(
        BundleError, match="exists; give another `output` or replace it with `force=True`"
    ):
        write(tmp_path / "b")
    write(tmp_path / "b", b"other", force=True)
    assert open_bundle(tmp_path / "b").file("embedding.onnx").read_bytes() == b"other"
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "one.jpg").touch()
    with pytest.raises(
        BundleError,
        match="is not a bundle that moir-edge wrote, so `force=True` will not replace it",
    ):
        write(precious, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "photos"]


def test_failed_replacement_keeps_the_old_bundle(tmp_path: Path) -> None:
    write(tmp_path / "b")

    def fail_midway() -> None:
        with staged_bundle(tmp_path / "b", force=True) as folder:
            (folder / "embedding.onnx").write_bytes(b"half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert open_bundle(tmp_path / "b").file("embedding.onnx").read_bytes() == b"graph"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    message = r"disk full while writing .*b \(\d+ MB free\)"
    with (
        pytest.raises(EnvironmentProblem, match=message),
        staged_bundle(tmp_path / "b"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_unsealed_block_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"no manifest\.json was written"),
        staged_bundle(tmp_path / "b"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_sigkill_leaves_nothing_that_looks_like_a_bundle(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from moir_edge.bundle import staged_bundle
        with staged_bundle(sys.argv[1]) as folder:
            (folder / "embedding.onnx").write_bytes(b"half")
            print("ready", flush=True)
            time.sleep(600)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "b")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "b").exists()
    assert not list(tmp_path.rglob("manifest.json"))
    # The next export of the same output clears what the killed one left.
    write(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
