"""The generation loop on a hand-built bundle, against numpy that recomputes every token from scratch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.errors import BundleError, DataError, EnvironmentProblem, UnsupportedError
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.processor import EncodedRow
from moir_edge.runtime.settings import GenerationSettings

COUNT = 12


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> EdgeModel:
    return moir_edge.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def rows(picture: Callable[..., Image.Image]) -> list[tuple[str, list[Image.Image]]]:
    return [
        ("What is left?", [picture(12, 12)]),
        ("Both images show a green four", [picture(20, 9, 1), picture(7, 30, 2)]),
        ("no image at all", []),
        (
            "And a much longer question than all the others, with three pictures",
            [picture(12, 12, n) for n in range(3)],
        ),
    ]


def _expected(
    model: EdgeModel, reference: Any, prompt: str, images: list[Image.Image], router: bool
) -> list[int]:
    facts = model.manifest.model
    inputs = model.encode(prompt, images)
    ids = inputs.input_ids[0]
    embeds = reference.table[ids].copy()
    if inputs.pixel_values is not None:
        embeds[ids == facts.image_token_id] = reference.image_features(inputs.pixel_values).reshape(
            -1, 8
        )
        if router:
            embeds = embeds + np.float32(0.5)  # what the hand-built router does
    return reference.greedy(embeds, facts.eos_token_ids[0], COUNT)  # type: ignore[no-any-return]


@pytest.mark.parametrize("router", [True, False])
@pytest.mark.parametrize("row", range(4))
def test_one_prompt_equals_the_reference(
    model: EdgeModel, reference: Any, rows: list[Any], row: int, router: bool
) -> None:
    prompt, images = rows[row]
    generation = model.generate(prompt, images, max_new_tokens=COUNT, router=router)
    assert list(generation.token_ids[0]) == _expected(model, reference, prompt, images, router)
    decoded = model.processor.tokenizer.decode(generation.token_ids[0])
    assert generation.texts[0] == decoded.lstrip()
    assert (generation.routing is not None) == (router and bool(images))


@pytest.mark.parametrize("order", [[0, 1], [3, 0, 1], [1, 1, 3, 0]])
def test_a_batch_gives_each_row_what_it_gets_alone(
    model: EdgeModel, rows: list[Any], order: list[int]
) -> None:
    alone = [model.generate(*rows[row], max_new_tokens=COUNT) for row in order]
    batch = model.generate(
        [rows[row][0] for row in order], [rows[row][1] for row in order], max_new_tokens=COUNT
    )
    assert batch.texts == tuple(one.texts[0] for one in alone)
    assert batch.token_ids == tuple(one.token_ids[0] for one in alone)
    assert batch.prompt_tokens == tuple(one.prompt_tokens[0] for one in alone)


def test_rows_that_another_thread_encoded_meanwhile_give_the_same_answers(
    model: EdgeModel, rows: list[Any]
) -> None:
    settings = GenerationSettings(max_new_tokens=COUNT)
    rows = [rows[at] for at in (3, 0, 1)]
    alone = [model.generate(*row, settings=settings) for row in rows]
    with ThreadPoolExecutor(1) as reader:
        found = []
        for _ in range(10):
            ahead = [reader.submit(model.encode_row, *row) for row in rows]
            run = model.begin_rows((row.result() for row in ahead), settings=settings)
            again = [reader.submit(model.encode_row, *row) for row in rows]
            list(run)
            found.append(run.result)
            assert all(row.result() for row in again)
    for batch in found:
        assert batch.texts == tuple(one.texts[0] for one in alone)
        assert batch.prompt_tokens == tuple(one.prompt_tokens[0] for one in alone)


def test_encoding_a_row_is_part_of_the_time_of_those_who_wait_for_it(
    model: EdgeModel, rows: list[Any]
) -> None:
    def slowly() -> Iterator[EncodedRow]:
        time.sleep(0.05)
        yield model.encode_row(*rows[0])

    run = model.begin_rows(slowly())
    list(run)
    timings = run.result.timings
    assert 50 <= timings.preprocess_ms <= timings.ttft_ms


def test_streaming_joins_to_the_same_text(model: EdgeModel, rows: list[Any]) -> None:
    prompt, images = rows[1]
    stream = model.stream(prompt, images, max_new_tokens=COUNT)
    pieces = list(stream)
    assert all(pieces)
    assert "".join(pieces) == model.generate(prompt, images, max_new_tokens=COUNT).texts[0]
    assert stream.result.timings.ttft_ms > 0


def test_a_stop_string_ends_text_and_stream(model: EdgeModel, rows: list[Any]) -> None:
    prompt, images = rows[0]
    whole = model.generate(prompt, images, max_new_tokens=COUNT).texts[0]
    middle = whole[len(whole) // 2 :][:3]
    stopped = model.generate(prompt, images, max_new_tokens=COUNT, stop=[middle])
    assert stopped.texts[0] == whole[: whole.find(middle)]
    assert stopped.finish_reasons == ("stop_string",)
    assert (
        "".join(model.stream(prompt, images, max_new_tokens=COUNT, stop=[middle]))
        == stopped.texts[0]
    )
    assert len(stopped.token_ids[0]) < COUNT


def test_the_bundles_generation_config_holds_and_the_caller_goes_before_it(
    make_bundle: Callable[..., Path],
    put_file: Callable[..., None],
    model: EdgeModel,
    rows: list[Any],
    tmp_path: Path,
) -> None:
    prompt, images = rows[0]
    plain = list(model.generate(prompt, images, max_new_tokens=COUNT).token_ids[0])
    bundle = make_bundle(tmp_path / "b")
    config = {"max_new_tokens": 5, "suppress_tokens": [plain[0]], "do_sample": True}
    put_file(bundle, "generation_config.json", json.dumps(config))
    ruled = moir_edge.load(bundle, threads=1, verify=False)
    done = ruled.generate(prompt, images)
    assert (len(done.token_ids[0]), done.finish_reasons) == (5, ("length",))
    assert done.token_ids == ruled.generate(prompt, images).token_ids  # greedy all the same
    assert plain[0] not in done.token_ids[0]
    assert "".join(ruled.stream(prompt, images)) == done.texts[0]
    same = ruled.generate(
        prompt, images, max_new_tokens=COUNT, generation_config={"suppress_tokens": None}
    )
    assert list(same.token_ids[0]) == plain
    ignored = ruled.generate(prompt, images, ignore_generation_config=True)
    assert list(ignored.token_ids[0])[:COUNT] == plain
    with pytest.raises(UnsupportedError, match="does not apply 'repetion_penalty'; did you mean"):
        ruled.generate(prompt, images, generation_config={"repetion_penalty": 1.2})


def test_settings_that_cannot_hold_are_named(
    make_bundle: Callable[..., Path],
    put_file: Callable[..., None],
    rows: list[Any],
    tmp_path: Path,
) -> None:
    bundle = make_bundle(tmp_path / "b")
    for config, message in [
        ({"num_beams": 3}, "num_beams=3 asks for beam search"),
        ({"max_length": 3}, "allows max_length 3 but the prompt alone has"),
        ({"repetition_penalty": -1}, "generation_config.json: repetition_penalty is -1"),
        ({"bad_words_ids": [[99999]]}, "bad_words_ids names token 99999, but the model has"),
    ]:
        put_file(bundle, "generation_config.json", json.dumps(config))
        with pytest.raises((DataError, UnsupportedError), match=message) as caught:
            moir_edge.load(bundle, verify=False).generate(*rows[0])
        assert "\n" not in str(caught.value)
    put_file(bundle, "generation_config.json", "[1]")
    with pytest.raises(BundleError, match="holds a list, expected an object"):
        moir_edge.load(bundle)


@pytest.mark.parametrize("step", [0, 2])
def test_logits_that_are_not_finite_are_refused(
    tiny_bundle: Path, rows: list[Any], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    model = moir_edge.load(tiny_bundle, threads=1)
    calls = iter(range(COUNT))
    for name in ("prefill", "decode"):
        real = getattr(model.sessions, name)

        def broken(*arguments: Any, real: Any = real) -> Any:
            result = real(*arguments)
            logits = result[0] if isinstance(result, tuple) else result
            if next(calls) == step:
                logits[0, 5] = np.nan
            return result

        monkeypatch.setattr(model.sessions, name, broken)
    message = rf"the decoder gave nan for token 5 \(row 0, step {step}\)"
    with pytest.raises(DataError, match=message):
        model.generate(*rows[0], max_new_tokens=COUNT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompts": 5}, r"prompts is 5 \(int\); it must be a string"),
        ({"prompts": None}, "prompts is None"),
        ({"prompts": ["a", 5], "images": [[], []]}, r"a prompt is 5 \(int\)"),
        ({"prompts": b"a"}, "prompts is b'a'"),
        ({"prompts": "a", "images": 5}, r"an image is 5 \(int\); it must be a path"),
        ({"prompts": "a", "context": 5}, "entries in context"),
        ({"prompts": ["a"], "context": [5]}, r"context is 5 \(int\); it must be a string"),
        (
            {"prompts": "a", "settings": 3},
            r"settings is 3 \(int\); it must be a GenerationSettings",
        ),
        ({"prompts": "a", "router": "off"}, r"router is 'off' \(str\); it must be True or False"),
    ],
)
def test_wrong_types_are_one_line(model: EdgeModel, call: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.generate(**call)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"threads": "2"}, r"threads is '2' \(str\); it must be a whole number"),
        ({"threads": 0}, "threads is 0; it must be at least 1"),
        ({"threads": True}, "threads is True"),
        ({"verify": "no"}, r"verify is 'no' \(str\); it must be True or False"),
    ],
)
def test_load_checks_its_arguments(tiny_bundle: Path, call: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        moir_edge.load(tiny_bundle, **call)


def test_a_finished_row_waits_for_the_others(
    make_bundle: Callable[..., Path], model: EdgeModel, rows: list[Any], tmp_path: Path
) -> None:
    # Make the third token of the first row the stop token: that row ends there, the other goes on.
    first = model.generate(*rows[0], max_new_tokens=COUNT).token_ids[0]
    ending = moir_edge.load(make_bundle(tmp_path / "b", eos_token_ids=(first[2],)), threads=1)
    batch = ending.generate(
        [rows[0][0], rows[1][0]], [rows[0][1], rows[1][1]], max_new_tokens=COUNT
    )
    assert batch.token_ids[0] == first[: first.index(first[2]) + 1]
    assert batch.finish_reasons[0] == "stop_token"
    alone = ending.generate(*rows[1], max_new_tokens=COUNT)
    assert batch.token_ids[1] == alone.token_ids[0]


def test_the_context_length_ends_an_answer(
    make_bundle: Callable[..., Path], model: EdgeModel, rows: list[Any], tmp_path: Path
) -> None:
    length = model.encode(*rows[0]).prompt_lengths[0]
    short = moir_edge.load(make_bundle(tmp_path / "b", context_length=length + 3), threads=1)
    generation = short.generate(*rows[0], max_new_tokens=COUNT)
    assert generation.token_ids[0] == model.generate(*rows[0], max_new_tokens=3).token_ids[0]
    assert generation.finish_reasons == ("length",)
    with pytest.raises(DataError, match=f"context holds {length + 3} "):
        short.generate("Quite some more words than before, so it is too long", rows[0][1])


def test_sampling_repeats_with_its_seed(model: EdgeModel, rows: list[Any]) -> None:
    prompt, images = rows[1]
    options: dict[str, Any] = {
        "max_new_tokens": COUNT,
        "temperature": 3.0,
        "top_k": 40,
        "top_p": 0.95,
    }
    first, second, other = (
        model.generate(prompt, images, seed=seed, **options).token_ids for seed in (5, 5, 6)
    )
    assert first == second
    assert first != other


def test_a_conversation_is_a_prompt_too(model: EdgeModel, rows: list[Any]) -> None:
    prompt, images = rows[0]
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    assert model.generate([turn], images).texts == model.generate(prompt, images).texts
    turns = [turn, {"role": "assistant", "content": [{"type": "text", "text": "Blue."}]}, turn]
    assert (
        model.generate(turns, images * 2).prompt_tokens[0]
        > model.generate([turn], images).prompt_tokens[0]
    )
    with pytest.raises(DataError, match="context goes with a string prompt"):
        model.generate([turn], images, context="More.")


def test_the_context_sentence_precedes_the_prompt(model: EdgeModel, rows: list[Any]) -> None:
    prompt, images = rows[0]
    joined = model.generate(f"It rains. {prompt}", images)
    assert model.generate(prompt, images, context="It rains.").texts == joined.texts
    both = model.encode([prompt, prompt], [images, images], context=["It rains.", None])
    assert [("It rains." in row.text) for row in both.prompts] == [True, False]


def test_lists_must_fit_together(model: EdgeModel, rows: list[Any]) -> None:
    with pytest.raises(DataError, match=r"2 prompt\(s\) need as many entries in images"):
        model.generate(["a", "b"], [rows[0][1]])
    with pytest.raises(DataError, match="entries in context"):
        model.generate(["a", "b"], [None, None], context=["only one"])
    with pytest.raises(DataError, match="no prompt was given"):
        model.generate([], [])
    with pytest.raises(DataError, match="the prompt is empty"):
        model.generate("", rows[0][1])


def test_timings_cover_the_parts(model: EdgeModel, rows: list[Any]) -> None:
    timings = model.generate(*rows[3], max_new_tokens=4).timings
    parts = [
        timings.preprocess_ms,
        timings.vision_ms,
        timings.embedding_ms,
        timings.router_ms,
        timings.prefill_ms,
    ]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= timings.ttft_ms
    without = model.generate(*rows[2], max_new_tokens=4, router=False).timings
    assert without.vision_ms == without.router_ms == 0


def test_decode_times_are_one_sample_per_further_token(model: EdgeModel, rows: list[Any]) -> None:
    generation = model.generate(*rows[1], max_new_tokens=5)
    assert len(generation.timings.decode_ms) == len(generation.token_ids[0]) - 1


def test_a_bundle_without_router_runs(
    make_bundle: Callable[..., Path], model: EdgeModel, rows: list[Any], tmp_path: Path
) -> None:
    plain = moir_edge.load(make_bundle(tmp_path / "plain", router=False), threads=1)
    generation = plain.generate(*rows[0], max_new_tokens=COUNT)
    assert (
        generation.token_ids
        == model.generate(*rows[0], max_new_tokens=COUNT, router=False).token_ids
    )
    assert generation.routing is None
    with pytest.raises(UnsupportedError, match="holds no router, so a routing map cannot be made"):
        plain.routing_map(*rows[0])


def test_providers_are_checked(tiny_bundle: Path) -> None:
    import onnxruntime

    with pytest.raises(UnsupportedError, match="unknown provider 'gpu'"):
        moir_edge.load(tiny_bundle, provider="gpu")  # type: ignore[arg-type]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is available here, so its absence cannot be shown")
    with pytest.raises(EnvironmentProblem, match=r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'"):
        moir_edge.load(tiny_bundle, provider="cuda")


@pytest.mark.gpu
def test_cuda_gives_the_answers_of_the_cpu(
    tiny_bundle: Path, model: EdgeModel, rows: list[Any]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed here")
    on_gpu = moir_edge.load(tiny_bundle, provider="cuda")
    for row in rows:
        expected = model.generate(*row, max_new_tokens=COUNT).token_ids
        assert on_gpu.generate(*row, max_new_tokens=COUNT).token_ids == expected
