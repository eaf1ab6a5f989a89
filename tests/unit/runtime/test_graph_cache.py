"""Optimized graphs that are kept on disk: the same answers, one log line where something is wrong, and a bound."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import moir_edge
from moir_edge.errors import BundleError, DataError
from moir_edge.graphs.sessions import cpu_session
from moir_edge.runtime import graph_cache
from moir_edge.runtime.component import Component
from moir_edge.runtime.graph_cache import KeptGraph, graph_cache_bytes, kept_graph
from moir_edge.threads import session_options

SIDE = 64


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of kept graphs; ten megabytes are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MOIR_EDGE_GRAPH_CACHE", "10")
    return tmp_path / "cache" / "moir-edge" / "graphs"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Return a graph of two products whose weights lie in a file beside it."""
    return save_graph(tmp_path, seed=0)


def save_graph(folder: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(random.standard_normal((SIDE, SIDE)).astype(np.float32), name)
        for name in ("a", "b")
    ]
    made = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["y"]),
            helper.make_node("MatMul", ["y", "b"], ["z"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIDE])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", SIDE])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "two.onnx"
    onnx.save(model, path, save_as_external_data=True, location="two.data", size_threshold=0)
    return path


def kept(graph: Path, version: str = "1.31.1") -> KeptGraph:
    found = kept_graph(graph, [graph.with_name("two.data")], {}, version)
    assert found is not None
    return found


class Opener:
    """Makes sessions, and remembers of which files."""

    def __init__(self) -> None:
        self.sources: list[str] = []

    def __call__(self, source: str, options: Any) -> Any:
        import onnxruntime

        self.sources.append(source)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def answer(session: Any) -> Any:
    x = np.linspace(-1, 1, 3 * SIDE, dtype=np.float32).reshape(3, SIDE)
    return session.run(None, {"x": x})[0]


def opened(graph: Path, opener: Opener) -> Any:
    return kept(graph).session(opener, str(graph), lambda: session_options(1))


def test_the_second_process_reads_what_the_first_wrote(cache: Path, graph: Path) -> None:
    expected, opener = answer(cpu_session(str(graph))), Opener()
    for _ in range(2):
        np.testing.assert_array_equal(answer(opened(graph, opener)), expected)
    folder = kept(graph).folder
    assert opener.sources == [str(graph), *[str(folder / "graph.onnx")] * 2]
    assert sorted(one.name for one in folder.iterdir()) == [
        "graph.data",
        "graph.onnx",
        "record.json",
    ]
    assert [one.name for one in cache.iterdir()] == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["graph.onnx", "graph.data", "record.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_graph_is_made_again(
    cache: Path, graph: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    opener = Opener()
    expected = answer(opened(graph, opener))
    file = kept(graph).folder / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else content[:-1] + b"\x07")
    assert not caplog.messages
    np.testing.assert_array_equal(answer(opened(graph, opener)), expected)
    assert caplog.messages == [f"{file.parent} is not as it was written and is made again"]
    assert opener.sources.count(str(graph)) == 2
    assert kept(graph).session(opener, "unused", lambda: session_options(1)) is not None


def test_other_weights_settings_versions_and_processors_are_other_graphs(
    cache: Path, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [graph.with_name("two.data")]
    names = [kept(graph).folder, kept(graph, "1.30.0").folder]
    other = kept_graph(graph, data, {"session.disable_quant_qdq": "1"}, "1.31.1")
    assert other is not None
    os.utime(data[0], ns=(1, 1))
    names += [other.folder, kept(graph).folder]
    (tmp_path / "moved").mkdir()
    names.append(kept(save_graph(tmp_path / "moved", seed=0)).folder)
    monkeypatch.setattr(graph_cache, "_cpu", lambda: "another")
    names.append(kept(graph).folder)
    assert len(set(names)) == len(names)


def test_weights_are_packed_where_that_gives_the_same_numbers(
    cache: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    versions = ("1.31.1", "1.32.0", "2.0.0")
    assert [kept(graph, version).packed for version in versions] == [False, True, True]
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not kept(graph, "1.32.0").packed


def test_float_weights_are_kept_as_the_kernels_take_them(cache: Path, graph: Path) -> None:
    own = KeptGraph(folder=cache / "packed", most_bytes=10 << 20, packed=True)
    found = [own.session(Opener(), str(graph), lambda: session_options(1)) for _ in range(2)]
    for session in found:
        np.testing.assert_array_equal(answer(session), answer(cpu_session(str(graph))))
    plain = kept(graph)
    plain.session(Opener(), str(graph), lambda: session_options(1))
    sizes = [(one.folder / "graph.data").stat().st_size for one in (own, plain)]
    assert sizes[0] > 1.9 * sizes[1]


def test_a_graph_that_cannot_be_loaded_is_the_bundles_fault(
    cache: Path, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph.write_bytes(b"not a graph")
    with pytest.raises(Exception, match=r"two\.onnx"):
        opened(graph, Opener())
    assert not list(cache.iterdir())
    (message,) = caplog.messages
    assert message.startswith(f"{graph} is not kept as it is optimized: ")


def test_a_folder_that_cannot_be_written_costs_only_the_saving(
    cache: Path, graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in its place")
    np.testing.assert_array_equal(answer(opened(graph, Opener())), answer(cpu_session(str(graph))))
    assert len(caplog.messages) == 1


def test_the_least_recently_used_goes_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        graphs.append(save_graph(folder, seed))
    size = 2 * SIDE * SIDE * 4
    monkeypatch.setattr(graph_cache, "graph_cache_bytes", lambda: int(2.5 * size))
    for at, one in enumerate(graphs[:2]):
        opened(one, Opener())
        os.utime(kept(one).folder / "record.json", (at, at))
    opened(graphs[0], Opener())  # used again
    opened(graphs[2], Opener())
    assert [kept(one).folder.is_dir() for one in graphs] == [True, False, True]


def test_what_is_larger_than_the_bound_is_not_kept(
    cache: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_cache, "graph_cache_bytes", lambda: SIDE * SIDE)
    assert kept_graph(graph, [graph.with_name("two.data")], {}, "1.31.1") is None


def test_drafts_of_killed_processes_go(cache: Path, graph: Path) -> None:
    old, young = cache / ".a.partial-1", cache / ".b.partial-2"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "graph.onnx").write_bytes(b"half")
    os.utime(old, (0, 0))
    opened(graph, Opener())
    assert (old.exists(), young.exists()) == (False, True)


def test_processes_that_write_the_same_do_not_disturb_each_other(cache: Path, graph: Path) -> None:
    expected = answer(cpu_session(str(graph)))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: answer(opened(graph, Opener())), range(8)))
    for one in found:
        np.testing.assert_array_equal(one, expected)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("text", ["-1", "many", "1e3", str(1 << 30)])
def test_a_size_that_makes_no_sense(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIR_EDGE_GRAPH_CACHE", text)
    with pytest.raises(DataError) as caught:
        graph_cache_bytes()
    assert str(caught.value) == (
        f"MOIR_EDGE_GRAPH_CACHE='{text}'; it must be a number of megabytes, at least 0 and at most 16777216"
    )


def test_a_bundle_is_loaded_from_it(
    cache: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOIR_EDGE_GRAPH_CACHE")
    expected = moir_edge.load(tiny_bundle, threads=1).generate("what?", max_new_tokens=4)
    assert not cache.exists()
    monkeypatch.setenv("MOIR_EDGE_GRAPH_CACHE", "10")
    for _ in range(2):
        found = moir_edge.load(tiny_bundle, threads=1).generate("what?", max_new_tokens=4)
        assert found.token_ids == expected.token_ids
    assert len(list(cache.iterdir())) == 2  # vision and decoder


def test_weights_that_a_picture_does_not_need_leave_the_memory(
    cache: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = moir_edge.load(tiny_bundle, threads=1)
    given: list[str] = []
    monkeypatch.setattr(
        Component, "give_back_weights", lambda self: given.append(Path(self.name).stem)
    )
    model.generate("what?", max_new_tokens=2)
    assert given == []
    model.generate("what?", images=[Image.new("RGB", (40, 40))], max_new_tokens=2)
    # the decoder's while the picture is read, the tower's from then on
    assert [name.partition(".")[0] for name in given] == ["decoder", "vision"]


def test_a_graph_of_another_signature_is_refused_as_before(
    cache: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle, broken)
    shutil.copyfile(broken / "embedding.onnx", broken / "vision.onnx")
    for _ in range(2):
        with pytest.raises(BundleError, match=r"has the inputs .* the manifest says"):
            moir_edge.load(broken, threads=1, verify=False)
