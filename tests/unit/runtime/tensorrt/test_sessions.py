"""A bundle's engines on the CPU doubles of CUDA and TensorRT, against the same bundle on the CPU runtime."""

from __future__ import annotations

import gc
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.runtime.tensorrt import window
from moir_edge.runtime.tensorrt.sessions import EngineSessions

from .double import CudaDouble, Kind, PlanContext, add_plans, trt_double

COUNT = 12


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CudaDouble]:
    """Return a function that puts the doubles in place of the real modules."""

    def install(*, rtx: bool = True, capturable: bool = True) -> CudaDouble:
        cuda = CudaDouble(sm=89 if rtx else 87)
        module = trt_double(cuda, rtx=rtx, capturable=capturable)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx" if rtx else "tensorrt", module)
        monkeypatch.setattr("moir_edge.runtime.tensorrt.cuda.load_cuda", lambda: cuda)
        return cuda

    return install


@pytest.fixture(scope="module")
def rows(picture: Callable[..., Image.Image]) -> list[tuple[str, list[Image.Image]]]:
    return [
        ("What is left?", [picture(12, 12)]),
        ("Both images show a green four", [picture(20, 9, 1), picture(7, 30, 2)]),
        ("no image at all", []),
        ("And a much longer question", [picture(12, 12, n) for n in range(3)]),
    ]


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> EdgeModel:
    return moir_edge.load(tiny_bundle, threads=1, provider="cpu")


def _load(tiny_bundle: Path, folder: Path, **plans: Any) -> EdgeModel:
    return moir_edge.load(add_plans(tiny_bundle, folder / "bundle", **plans), provider="tensorrt")


@pytest.mark.parametrize("rtx", [True, False])
@pytest.mark.parametrize("router", [True, False])
def test_the_answers_are_the_cpu_runtimes(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
    rtx: bool,
    router: bool,
) -> None:
    device(rtx=rtx)
    model = _load(tiny_bundle, tmp_path, rtx=rtx, sm="8.9" if rtx else "8.7")
    assert model.sessions.provider == "tensorrt"
    for row in rows:
        ours = model.generate(*row, max_new_tokens=COUNT, router=router)
        theirs = expected.generate(*row, max_new_tokens=COUNT, router=router)
        assert ours.token_ids == theirs.token_ids
        assert (ours.routing is None) == (theirs.routing is None)
        if ours.routing is not None and theirs.routing is not None:
            np.testing.assert_array_equal(ours.routing[0].scores, theirs.routing[0].scores)


def test_a_batch_is_padded_on_the_left(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
) -> None:
    device()
    model = _load(tiny_bundle, tmp_path)
    batch = ([row[0] for row in rows], [row[1] for row in rows])
    ours = model.generate(*batch, max_new_tokens=COUNT)
    assert ours.token_ids == expected.generate(*batch, max_new_tokens=COUNT).token_ids


@pytest.mark.parametrize("by", ["density", "random"])
def test_image_tokens_are_dropped_on_the_device(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
    by: str,
) -> None:
    device()
    model = _load(tiny_bundle, tmp_path)
    batch = ([row[0] for row in rows], [row[1] for row in rows])
    options: Any = {"max_new_tokens": COUNT, "prune_image_tokens": 0.5, "prune_by": by}
    ours, theirs = (one.generate(*batch, **options) for one in (model, expected))
    assert ours.token_ids == theirs.token_ids
    assert ours.dropped_image_tokens == theirs.dropped_image_tokens == (2, 4, 0, 6)
    assert ours.token_ids != model.generate(*batch, max_new_tokens=COUNT).token_ids


@pytest.mark.parametrize("piece", [1, 7])
def test_a_prompt_longer_than_the_engine_takes_goes_in_pieces(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
    piece: int,
) -> None:
    device()
    model = _load(tiny_bundle, tmp_path, piece=piece)
    batch = ([row[0] for row in rows[:2]], [row[1] for row in rows[:2]])
    ours = model.generate(*batch, max_new_tokens=COUNT)
    assert ours.token_ids == expected.generate(*batch, max_new_tokens=COUNT).token_ids
    prefill = _contexts(model, "_decoder")[0]
    assert prefill.runs == -(-max(ours.prompt_tokens) // piece)


@pytest.mark.parametrize("rtx", [True, False])
def test_the_cache_outgrows_its_window(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
    rtx: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window, "_SLOT_STEP", 4)
    device(rtx=rtx)
    model = _load(tiny_bundle, tmp_path, rtx=rtx, sm="8.9" if rtx else "8.7")
    ours = model.generate(*rows[1], max_new_tokens=COUNT)
    assert ours.token_ids == expected.generate(*rows[1], max_new_tokens=COUNT).token_ids
    windows = _contexts(model, "_decoder")[1:]
    assert len(windows) == 4  # 11 decode steps cross three or four multiples of four
    assert sum(context.runs for context in windows) == COUNT - 1


def test_the_context_ends_where_the_engine_does(
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
) -> None:
    device()
    length = expected.encode(*rows[0]).prompt_lengths[0]
    short = make_bundle(tmp_path / "short", context_length=length + 3)
    ours = _load(short, tmp_path).generate(*rows[0], max_new_tokens=COUNT)
    assert ours.finish_reasons == ("length",)
    assert ours.token_ids == expected.generate(*rows[0], max_new_tokens=3).token_ids


def test_many_tiles_go_through_the_vision_engine_in_parts(
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    picture: Callable[..., Image.Image],
) -> None:
    device()
    plain = make_bundle(tmp_path / "plain")
    model = _load(plain, tmp_path)
    images = [picture(12, 12, n) for n in range(23)]
    on_cpu = moir_edge.load(plain, threads=1, provider="cpu")
    ours, theirs = (
        one.generate("How many?", images, max_new_tokens=4, router=False) for one in (model, on_cpu)
    )
    assert ours.token_ids == theirs.token_ids
    assert _contexts(model, "_vision")[0].runs == 2  # the profile ends at 20 tiles
    with pytest.raises(UnsupportedError, match=r"image_positions of shape \(1, 92\) .* give fewer images"):  # fmt: skip
        model.generate("How many?", images)  # the router's profile has image tokens for 20


def test_embeddings_and_cache_stay_on_the_device(
    tiny_bundle: Path, tmp_path: Path, device: Callable[..., CudaDouble], rows: list[Any]
) -> None:
    cuda = device()
    model = _load(tiny_bundle, tmp_path)
    facts = model.manifest.model
    cuda.copies.clear()
    done = model.generate(*rows[1], max_new_tokens=COUNT)
    to_host = [nbytes for kind, nbytes in cuda.copies if kind == Kind.cudaMemcpyDeviceToHost]
    assert done.routing is not None
    tokens = len(done.routing[0].scores)
    # scores, indices (k = 1), margin, gate; then logits: one row for the prompt and one per step
    figures = [4 * tokens, 8 * tokens, 4 * tokens, 4 * tokens]
    assert to_host == figures + [4 * facts.vocab_size] * COUNT
    prompt, width = done.prompt_tokens[0], 4 * facts.hidden_size
    to_device = [nbytes for kind, nbytes in cuda.copies if kind == Kind.cudaMemcpyHostToDevice]
    pixels = 2 * 3 * facts.image_size**2 * 4
    assert max(to_device) == pixels
    assert prompt * width not in to_device


def test_further_answers_take_no_new_memory(
    tiny_bundle: Path, tmp_path: Path, device: Callable[..., CudaDouble], rows: list[Any]
) -> None:
    cuda = device()
    model = _load(tiny_bundle, tmp_path)
    first = model.generate(*rows[1], max_new_tokens=COUNT)
    model.generate(*rows[1], max_new_tokens=COUNT)  # while the first one's window lies idle
    mallocs, held = cuda.mallocs, model.sessions.memory()["buffers"]
    assert held == cuda.used_bytes
    assert model.generate(*rows[1], max_new_tokens=COUNT).token_ids == first.token_ids
    assert (cuda.mallocs, model.sessions.memory()["buffers"]) == (mallocs, held)


def test_the_memory_goes_with_the_model(
    tiny_bundle: Path, tmp_path: Path, device: Callable[..., CudaDouble], rows: list[Any]
) -> None:
    cuda = device(rtx=False)
    model = _load(tiny_bundle, tmp_path, rtx=False, sm="8.7")
    model.generate(*rows[1], max_new_tokens=COUNT)
    assert cuda.used_bytes > 0
    assert cuda.pinned
    gc.disable()  # references alone must do: device memory cannot wait for a collection
    try:
        del model
        assert (cuda.used_bytes, len(cuda.pinned), len(cuda.graphs)) == (0, 0, 0)
    finally:
        gc.enable()


def test_two_answers_at_once_do_not_mix(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
) -> None:
    device()
    model = _load(tiny_bundle, tmp_path)
    streams = [model.stream(*row, max_new_tokens=COUNT) for row in rows[:2]]
    for _ in zip(*streams, strict=False):
        pass
    for stream, row in zip(streams, rows, strict=False):
        for _ in stream:
            pass
        assert stream.result.token_ids == expected.generate(*row, max_new_tokens=COUNT).token_ids


def test_tensorrt_is_recorded_and_replayed(
    tiny_bundle: Path, tmp_path: Path, device: Callable[..., CudaDouble], rows: list[Any]
) -> None:
    cuda = device(rtx=False)
    model = _load(tiny_bundle, tmp_path, rtx=False, sm="8.7")
    for answer in (1, 2):
        model.generate(*rows[0], max_new_tokens=COUNT)
        # The very first step readies the shape; from then on every step of every answer is a replay.
        assert cuda.replays == answer * (COUNT - 1) - 1
    assert len(cuda.graphs) == 1
    assert _contexts(model, "_decoder")[1].reshaped == 1


def test_tensorrt_rtx_records_by_itself(
    tiny_bundle: Path, tmp_path: Path, device: Callable[..., CudaDouble], rows: list[Any]
) -> None:
    cuda = device(rtx=True)
    model = _load(tiny_bundle, tmp_path)
    model.generate(*rows[0], max_new_tokens=COUNT)
    assert not cuda.graphs
    assert [context.replays for context in _contexts(model, "_decoder")] == [False, True]


@pytest.mark.parametrize("asked", [True, False])
def test_a_decoder_that_cannot_be_recorded_still_runs(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
    asked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if asked:  # later versions can tell beforehand
        monkeypatch.setattr(PlanContext, "is_stream_capturable", lambda *_: False, raising=False)
    cuda = device(rtx=False, capturable=False)
    model = _load(tiny_bundle, tmp_path, rtx=False, sm="8.7")
    assert model.sessions.backend == "tensorrt 10.3.0"
    ours = model.generate(*rows[0], max_new_tokens=COUNT)
    assert ours.token_ids == expected.generate(*rows[0], max_new_tokens=COUNT).token_ids
    assert cuda.replays == 0
    why = "TensorRT says .* cannot be captured" if asked else "decoder does not run: cannot be captured"  # fmt: skip
    assert re.fullmatch(rf"tensorrt 10\.3\.0 \(decode steps are not replayed: {why}\)", model.sessions.backend)  # fmt: skip


def test_a_full_cache_is_refused(
    make_bundle: Callable[..., Path], tmp_path: Path, device: Callable[..., CudaDouble]
) -> None:
    device()
    sessions = _load(make_bundle(tmp_path / "short", context_length=6), tmp_path).sessions
    embeds = sessions.embed(np.array([[5, 6, 7, 8]]))
    assert sessions.to_numpy(embeds).shape == (1, 4, 8)
    _, state = sessions.prefill(embeds, DecoderInputs.of_mask(np.ones((1, 4), np.int64)))
    sessions.decode(
        np.array([5]), state
    )  # the cache takes context - 1 tokens, the sixth would be the last
    with pytest.raises(DataError, match="the engine's cache is full after 5 tokens"):
        sessions.decode(np.array([5]), state)


def test_compiled_kernels_are_kept_for_the_next_process(
    tiny_bundle: Path, tmp_path: Path, device: Callable[..., CudaDouble], rows: list[Any]
) -> None:
    device()
    bundle = add_plans(tiny_bundle, tmp_path / "bundle")
    folder = tmp_path / "cache" / "moir-edge" / "kernels"
    for kept in (1, 2):
        model = moir_edge.load(bundle, provider="tensorrt")
        model.generate(*rows[0], max_new_tokens=2)
        assert isinstance(model.sessions, EngineSessions)
        model.sessions.close()
        # one letter per context: vision 1, embedding 2, router 1, decoder 2; read again by the second process
        contents = sorted(path.read_bytes()[:-32] for path in folder.iterdir())  # less the SHA-256
        assert contents == sorted([b"k" * kept, b"kk" * kept, b"k" * kept, b"kk" * kept])
    for path in folder.iterdir():
        path.write_bytes(b"foreign" + hashlib.sha256(b"foreign").digest())
    moir_edge.load(bundle, provider="tensorrt").generate(*rows[0], max_new_tokens=2)


def test_more_rows_than_the_engine_takes_go_in_groups(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
) -> None:
    device()
    model = _load(tiny_bundle, tmp_path)
    order = [0, 1, 2, 3, 3, 1, 0, 2, 1]  # groups of four, four and one
    batch = ([rows[n][0] for n in order], [rows[n][1] for n in order])
    ours = model.generate(*batch, max_new_tokens=COUNT)
    theirs = expected.generate(*batch, max_new_tokens=COUNT)
    assert ours.token_ids == theirs.token_ids
    assert ours.routing is not None
    assert theirs.routing is not None
    for mine, other in zip(ours.routing, theirs.routing, strict=True):
        np.testing.assert_array_equal(mine.scores, other.scores)
        np.testing.assert_array_equal(mine.indices, other.indices)


def test_a_stripped_engine_takes_its_weights_from_the_graph(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
) -> None:
    device()
    whole = _load(tiny_bundle, tmp_path / "whole")
    model = _load(tiny_bundle, tmp_path, stripped=True)
    engines = {f"engines/rtx-40/{name}.engine" for name in model.manifest.components}
    assert set(whole.sessions.files()) == engines
    graphs = {f"{name}.onnx" for name in model.manifest.components}
    assert (
        set(model.sessions.files()) == engines | graphs == engines | set(expected.sessions.files())
    )
    ours = model.generate(*rows[0], max_new_tokens=COUNT)
    assert ours.token_ids == expected.generate(*rows[0], max_new_tokens=COUNT).token_ids


def test_a_shape_outside_the_engines_range_is_one_line(
    tiny_bundle: Path, tmp_path: Path, device: Callable[..., CudaDouble]
) -> None:
    device()
    model = _load(tiny_bundle, tmp_path)
    message = r"embedding: input_ids of shape \(1, 513\) is outside the engine's range, \(1, 1\) to \(4, 512\); give"
    with pytest.raises(UnsupportedError, match=message):
        model.sessions.embed(np.zeros((1, 513), np.int64))


def test_a_bundle_without_router_runs(
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
) -> None:
    device()
    model = _load(make_bundle(tmp_path / "plain", router=False), tmp_path)
    assert not model.sessions.has_router
    ours = model.generate(*rows[0], max_new_tokens=COUNT)
    theirs = expected.generate(*rows[0], max_new_tokens=COUNT, router=False)
    assert ours.token_ids == theirs.token_ids
    with pytest.raises(UnsupportedError, match="holds no router"):
        model.routing_map(*rows[0])


def _contexts(model: EdgeModel, engine: str) -> list[Any]:
    """Return the double's contexts of an engine, in the order in which they were made."""
    owner = getattr(model.sessions, engine)
    owner = getattr(owner, "_engine", owner)
    contexts: list[Any] = owner.handle.contexts
    return contexts


def test_each_component_takes_what_another_runtime_gave(
    tiny_bundle: Path,
    tmp_path: Path,
    device: Callable[..., CudaDouble],
    expected: EdgeModel,
    rows: list[Any],
) -> None:
    """What `bench --parity` does: embeddings of the host go to the device for one component each."""
    from moir_edge.evaluation.candidates.components import run_components

    device()
    model = _load(tiny_bundle, tmp_path)
    inputs = expected.encode(*rows[0])
    truth = run_components(expected, inputs, None, 3)
    ours = run_components(model, inputs, truth, 3)
    own = run_components(model, inputs, None, 3)
    assert truth.routing is not None
    for run in (ours, own):
        for name in ("image_features", "text_embeds", "routed", "logits", "tokens"):
            # the double runs the same graphs in ONNX Runtime, and threads may sum in another order
            np.testing.assert_allclose(getattr(run, name), getattr(truth, name), atol=1e-5)
        assert run.routing is not None
        np.testing.assert_array_equal(run.routing.indices, truth.routing.indices)
