"""Token tables of bundles: the answers of the graph without a session, and files that are shorter than a manifest says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle import Bundle, Manifest, TableEntry, TensorPlace, open_bundle, seal
from moir_edge.errors import BundleError
from moir_edge.runtime.token_table import TokenTable


@pytest.fixture
def table_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The hand-built bundle with its token table in a file, and described."""
    folder = tmp_path / "table"
    folder.mkdir()
    for path in tiny_bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    model = onnx.load(folder / "embedding.onnx")
    onnx.save(
        model,
        folder / "embedding.onnx",
        save_as_external_data=True,
        location="embedding.data",
        size_threshold=0,
    )
    manifest = open_bundle(tiny_bundle).manifest
    shape = tuple(model.graph.initializer[0].dims)
    place = TensorPlace(file="embedding.data", offset=0, dtype="float32", shape=shape)
    return _sealed(folder, manifest, TableEntry(values=place))


def _sealed(folder: Path, manifest: Manifest, table: TableEntry) -> Path:
    changed = manifest.components["embedding"].model_copy(
        update={"data": ("embedding.data",), "table": table}
    )
    components = {**manifest.components, "embedding": changed}
    seal(folder, manifest.model_copy(update={"components": components, "files": ()}))
    return folder


def test_answers_are_those_of_the_graph_without_a_session(
    tiny_bundle: Path, table_bundle: Path, picture: Callable[..., Image.Image]
) -> None:
    by_graph, by_table = moir_edge.load(tiny_bundle), moir_edge.load(table_bundle)
    assert "embedding" in by_graph.sessions.components
    assert "embedding" not in by_table.sessions.components
    assert by_table.sessions.component_providers()["embedding"] == "table"
    ids = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(by_table.sessions.embed(ids), by_graph.sessions.embed(ids))
    for images in (None, picture(20, 30)):
        answers = [one.generate("what is it?", images) for one in (by_graph, by_table)]
        assert answers[0].token_ids == answers[1].token_ids
        assert len(answers[0].token_ids[0]) > 1


def test_rows_are_an_array_of_their_own(table_bundle: Path) -> None:
    table = TokenTable.of(open_bundle(table_bundle))
    assert table is not None
    first = table.rows(np.array([[3]]))
    first[:] = 0
    assert table.rows(np.array([[3]])).all()
    assert table.rows(np.zeros((1, 0), np.int64)).shape == (1, 0, 8)


@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_an_id_past_the_table_is_named(table_bundle: Path, wrong: int) -> None:
    table = TokenTable.of(open_bundle(table_bundle))
    assert table is not None
    tokens = open_bundle(table_bundle).manifest.model.vocab_size
    with pytest.raises(BundleError) as caught:
        table.rows(np.array([[1, wrong]]))
    assert str(caught.value) == (
        f"{table_bundle / 'embedding.data'} holds {tokens} tokens, and the prompt has the id {wrong}; export the bundle again"
    )


def test_a_file_that_is_cut_off_is_refused_before_it_is_read(table_bundle: Path) -> None:
    data = table_bundle / "embedding.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(BundleError) as caught:
        moir_edge.load(table_bundle, verify=False)
    assert str(caught.value) == (
        f"{data} has {len(whole) - 1} bytes, and the token table ends at {len(whole)}; "
        "the bundle is damaged, copy or export it again"
    )


def _place(bundle: Bundle, **changes: Any) -> dict[str, Any]:
    table = bundle.manifest.components["embedding"].table
    assert table is not None
    return table.values.model_copy(update=changes).model_dump()


@pytest.mark.parametrize(
    ("changes", "scale", "message"),
    [
        (
            {"offset": 64},
            {},
            r"embedding\.table ends at byte \d+ of embedding\.data, which has \d+",
        ),
        (
            {"shape": (1 << 24, 8)},
            {},
            r"embedding\.table ends at byte 536870912 of embedding\.data",
        ),
        ({"shape": (12, 7)}, {}, r"values of shape \[12, 7\], and model\.hidden_size is 8"),
        ({"shape": (8,)}, {}, r"values of shape \[8\], and model\.hidden_size is 8"),
        (
            {"dtype": "int8", "shape": (12, 8)},
            {},
            r"embedding\.table has int8 values without a scale",
        ),
        (
            {"shape": (8, 12)},
            {"shape": (12,)},
            r"embedding\.table has float32 values with a scale",
        ),
        (
            {"dtype": "int8", "shape": (8, 12)},
            {"shape": (11,)},
            r"a scale of float32 \[11\], expected floats of \[12\]",
        ),
        (
            {"dtype": "int8", "shape": (8, 12)},
            {"shape": (12,), "dtype": "int8"},
            r"a scale of int8 \[12\], expected floats of \[12\]",
        ),
        ({"file": "vision.onnx"}, {}, r"lies in vision\.onnx, which is not in its data"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    table_bundle: Path, changes: dict[str, Any], scale: dict[str, Any], message: str
) -> None:
    bundle = open_bundle(table_bundle)
    given = {"values": _place(bundle, **changes)}
    if scale:
        given["scale"] = _place(bundle, **scale)
    _sealed(table_bundle, bundle.manifest, TableEntry.model_validate(given))
    with pytest.raises(BundleError, match=message):
        moir_edge.load(table_bundle)


def test_only_embedding_has_a_table(table_bundle: Path) -> None:
    manifest = open_bundle(table_bundle).manifest
    table = manifest.components["embedding"].table
    vision = manifest.components["vision"].model_copy(update={"table": table})
    components = {**manifest.components, "vision": vision}
    seal(table_bundle, manifest.model_copy(update={"components": components, "files": ()}))
    with pytest.raises(
        BundleError, match=r"components\.vision has a table, which only embedding may have"
    ):
        open_bundle(table_bundle)


def test_pages_that_are_given_back_come_again(table_bundle: Path) -> None:
    table = TokenTable.of(open_bundle(table_bundle))
    assert table is not None
    ids = np.arange(12).reshape(3, 4)
    before = table.rows(ids)
    table.give_back()
    assert _resident_of("embedding.data") == 0
    np.testing.assert_array_equal(table.rows(ids), before)
    assert _resident_of("embedding.data") > 0


def _resident_of(name: str) -> int:
    """Return the kilobytes of a mapped file that are in this process's memory."""
    mappings = Path("/proc/self/smaps").read_text().split("VmFlags")
    parts = [one for one in mappings if name in one]
    assert parts
    return sum(
        int(line.split()[1]) for part in parts for line in part.splitlines() if line[:4] == "Rss:"
    )
