from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.quantizer_feeds import COMPONENTS
from benchmarks.peers.quantizer_worker import METHODS, FeedReader
from benchmarks.peers.quantizers import CANDIDATES, table, write_copy
from moir_edge.bundle import Manifest, open_bundle, seal
from moir_edge.bundle.manifest import ComponentEntry, ModelFacts, SourceEntry


def _run(**changes: Any) -> dict[str, Any]:
    return {
        "recovery": {"value": 0.999, "low": 0.996, "high": 1.002},
        "token_agreement": {"identical": 0.994},
        "routing": {"index_agreement": 0.989, "matched_cosine": 0.9962},
        "seconds": 20.0,
        "cpu_seconds": 16.0,
        "peak_memory_bytes": 200e6,
        "work_memory_bytes": 80e6,
        "bytes": 2_760_000,
        **changes,
    }


def test_table_shows_factors_against_moir_edge_and_what_did_not_run() -> None:
    peer = _run(seconds=10.0, cpu_seconds=24.0, peak_memory_bytes=500e6, work_memory_bytes=120e6)
    runs = {
        "moir-edge": _run(),
        "peer": peer,
        "modelopt": {"error": "not run: give --modelopt-python"},
    }
    lines = table({"quantizers": runs}).splitlines()
    assert lines[3] == (
        "| peer | 99.9 % (99.6–100.2) | 99.4 % | 98.90 % | 0.9962 | 10.0 (0.5×) | 24.0 (1.5×) "
        "| 500 (2.5×) | 120 (1.5×) | 2.76 |"
    )
    assert lines[4] == "| modelopt | not run: give --modelopt-python |"


def test_every_candidate_has_a_method() -> None:
    assert {one.method for one in CANDIDATES} == set(METHODS)
    assert CANDIDATES[0].name == "moir-edge"  # it says which nodes the others leave alone


def test_feeds_come_in_order_and_again(tmp_path: Path) -> None:
    (tmp_path / "vision").mkdir()
    for at in range(3):
        np.savez(tmp_path / "vision" / f"{at:06d}.npz", pixel_values=np.full(2, at, np.float32))
    reader = FeedReader(tmp_path, "vision")

    def rest() -> list[float]:
        return [float(feed["pixel_values"][0]) for feed in iter(reader.get_next, None)]

    assert rest() == [0, 1, 2]
    assert rest() == []
    reader.rewind()
    assert reader.get_next() is not None
    assert reader.get_first()["pixel_values"][0] == 0
    assert rest() == [1, 2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A sealed folder with files in place of graphs."""
    folder = tmp_path / "fp32"
    folder.mkdir()
    names = ("vision", "embedding", "router", "decoder")
    for name in names:
        (folder / f"{name}.onnx").write_bytes(b"float")
        (folder / f"{name}.data").write_bytes(b"weights")
    entry = {"precision": "fp32", "tensor_bytes": 7, "inputs": (), "outputs": ()}
    manifest = Manifest(
        created_with={},
        source=SourceEntry(name="n", sha256="0", architecture="A"),
        model=ModelFacts(
            model_type="smolvlm",
            hidden_size=8,
            num_layers=2,
            num_kv_heads=3,
            head_dim=4,
            vocab_size=9,
            context_length=64,
            image_token_id=1,
            eos_token_ids=(2,),
            pad_token_id=0,
            special_token_ids=(),
            image_size=8,
            tokens_per_tile=4,
        ),
        target="cpu",
        precision="fp32",
        router=None,
        router_sha256=None,
        components={
            name: ComponentEntry(graph=f"{name}.onnx", data=(f"{name}.data",), **entry)
            for name in names
        },
    )
    seal(folder, manifest)
    return folder


def test_a_peers_graphs_replace_two_components_alone(bundle: Path, tmp_path: Path) -> None:
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    for name in COMPONENTS:
        (graphs / f"{name}.onnx").write_bytes(b"integers inside")
    (graphs / "inferred-vision.onnx").write_bytes(b"left over")
    write_copy(bundle, graphs, tmp_path / "int8")
    copied = open_bundle(tmp_path / "int8")  # every hash fits
    for name, entry in copied.manifest.components.items():
        replaced = name in COMPONENTS
        assert entry.precision == ("int8" if replaced else "fp32")
        assert entry.data == (() if replaced else (f"{name}.data",))
        content = copied.file(entry.graph).read_bytes()
        assert content == (b"integers inside" if replaced else b"float")
    assert not list((tmp_path / "int8").glob("*inferred*"))
    assert not (tmp_path / "int8" / "vision.data").exists()
    assert copied.manifest.components["vision"].tensor_bytes == len(b"integers inside")
