"""The next turn of a conversation runs what is new in it, and its answer has the bits of one that knows nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.checkpoint import load_checkpoint
from moir_edge.errors import BundleError, DataError
from moir_edge.export import assemble, trace_components
from moir_edge.runtime import EdgeModel
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.runtime.prompt_cache import PromptCache
from moir_edge.runtime.settings import GenerationSettings
from tests.unit.conftest import TEXT

ROOM = 1 << 26
WORDS = ["the", "red", "box", "is", "left", "of", "a", "blue", "one", "and", "behind", "it"]


@pytest.fixture(scope="module")
def bundle(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> moir_edge.Bundle:
    with patch.dict(TEXT, head_dim=16):
        checkpoint = load_checkpoint(make_checkpoint("smolvlm"))
    folder = tmp_path_factory.mktemp("prompts") / "bundle"
    return open_bundle(assemble(trace_components(checkpoint), folder))


@pytest.fixture(scope="module")
def plain(bundle: moir_edge.Bundle) -> EdgeModel:
    return EdgeModel(bundle, threads=1, provider="cpu")


@pytest.fixture
def model(bundle: moir_edge.Bundle) -> EdgeModel:
    return EdgeModel(bundle, threads=1, provider="cpu", prompt_cache_bytes=ROOM)


def conversation(*texts: str) -> list[dict[str, Any]]:
    """Return turns of the user and the assistant by turns."""
    roles = ("user", "assistant")
    return [
        {"role": roles[at % 2], "content": [{"type": "text", "text": text}]}
        for at, text in enumerate(texts)
    ]


FIRST = "what is on the table beside the lamp?"
LATER = (FIRST, "a red box", "and what is in it?")


def answered(model: EdgeModel, turns: Any, **options: Any) -> Any:
    """Return tokens and the log-probabilities of all steps, which tell a difference of one bit."""
    settings = GenerationSettings(max_new_tokens=6, ignore_generation_config=True, **options)
    run = model.begin(turns, settings=settings, logprobs=5)
    for _ in run:
        pass
    return run.result.token_ids, run.logprobs


def test_a_turn_goes_on_from_the_one_before(model: EdgeModel, plain: EdgeModel) -> None:
    first = model.generate(conversation(FIRST), max_new_tokens=4)
    second = model.generate(conversation(*LATER), max_new_tokens=4)
    known = first.prompt_tokens[0] - 1  # the last token was alone in its block, or may have been
    assert (first.cached_tokens, second.cached_tokens) == (0, known)
    cache = model.prompt_cache
    assert (cache.hits, cache.misses, cache.tokens) == (1, 1, known)
    assert second.token_ids == plain.generate(conversation(*LATER), max_new_tokens=4).token_ids


def test_a_shortened_prompt_takes_and_leaves_nothing(
    model: EdgeModel, plain: EdgeModel, picture: Callable[..., Any]
) -> None:
    row = (FIRST, picture(31, 77))
    half: Any = {"max_new_tokens": 4, "prune_image_tokens": 0.5, "prune_by": "norm"}
    whole = model.generate(*row, max_new_tokens=4)
    short = [model.generate(*row, **half) for _ in range(2)]
    again = model.generate(*row, max_new_tokens=4)
    assert short[0].dropped_image_tokens[0] > 0
    assert [one.cached_tokens for one in (whole, *short)] == [0, 0, 0]
    assert again.cached_tokens > 0
    assert short[1].token_ids == plain.generate(*row, **half).token_ids
    assert again.token_ids == whole.token_ids


def test_no_answer_changes_by_a_hit(
    model: EdgeModel, plain: EdgeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of random words, greedy and drawn, some given up and some failing, begin with parts of earlier ones."""
    chance, decode, failing = random.Random(1), model.sessions.decode, [False]

    def failing_at_times(*given: Any) -> Any:
        if failing[0]:
            raise BundleError("no")
        return decode(*given)

    monkeypatch.setattr(model.sessions, "decode", failing_at_times)
    words: list[str] = []
    for turn in range(30):
        words = words[: chance.randint(0, len(words))] + chance.choices(
            WORDS, k=chance.randint(1, 9)
        )
        words = words[:40]
        prompt = conversation(" ".join(words))
        failing[0] = turn % 5 == 3
        if failing[0]:
            with pytest.raises(BundleError):
                model.generate(prompt, max_new_tokens=6, ignore_generation_config=True)
            continue
        if turn % 5 == 4:
            stream = model.stream(prompt, max_new_tokens=6, ignore_generation_config=True)
            next(stream, None)
            del stream
            continue
        drawn = {"temperature": 0.9, "seed": turn} if turn % 2 else {}
        assert answered(model, prompt, **drawn) == answered(plain, prompt, **drawn)
    assert model.prompt_cache.hits >= 10


def test_the_same_prompt_again_has_its_last_tokens_computed(
    model: EdgeModel, plain: EdgeModel
) -> None:
    expected = answered(plain, conversation(FIRST))
    assert [answered(model, conversation(FIRST)) for _ in range(3)] == [expected] * 3
    again = model.generate(conversation(FIRST), max_new_tokens=1)
    assert again.cached_tokens == again.prompt_tokens[0] - 2


def test_a_window_that_is_too_small_grows(
    model: EdgeModel, plain: EdgeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moir_edge.runtime.decoders.window._ROOM", 1)
    long = conversation(FIRST, " ".join(WORDS), " ".join(WORDS) + " or not?")
    answered(model, conversation(FIRST))
    assert answered(model, long) == answered(plain, long)
    assert model.prompt_cache.hits == 1


def test_conversations_of_several_threads_do_not_mix(model: EdgeModel, plain: EdgeModel) -> None:
    def talk(number: int) -> list[Any]:
        texts: list[str] = [f"conversation {number} is about {WORDS[number]}?"]
        found = []
        for turn in range(4):
            found.append(answered(model, conversation(*texts)))
            texts += [f"answer {turn}", f"question {turn} of {number}?"]
        return found

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(talk, range(4)))
    model.prompt_cache = PromptCache(0)
    assert together == [talk(number) for number in range(4)]
    model.prompt_cache = plain.prompt_cache


def test_batches_go_their_own_way(model: EdgeModel) -> None:
    for _ in range(2):
        done = model.generate([FIRST, FIRST], max_new_tokens=2)
        assert done.cached_tokens == 0
    assert (model.prompt_cache.hits, model.prompt_cache.misses) == (0, 0)


def test_nothing_is_kept_unless_asked_for(plain: EdgeModel) -> None:
    done = [plain.generate(FIRST, max_new_tokens=1).cached_tokens for _ in range(2)]
    assert done == [0, 0]


def test_a_decoder_that_cannot_go_on_runs_the_whole(tiny_bundle: Path) -> None:
    model = moir_edge.load(tiny_bundle, threads=1, prompt_cache_bytes=ROOM)
    done = [model.generate(FIRST, max_new_tokens=2) for _ in range(2)]
    assert [one.cached_tokens for one in done] == [0, 0]
    assert done[0].token_ids == done[1].token_ids


def test_sizes_that_make_no_sense(tiny_bundle: Path) -> None:
    with pytest.raises(DataError, match=r"^prompt_cache_bytes is -1; it must be at least 0$"):
        moir_edge.load(tiny_bundle, prompt_cache_bytes=-1)


class State:
    """A state of some bytes."""

    def __init__(self, size: int) -> None:
        self.bytes = size


class Decoder:
    """Sessions that go on, and tell from where."""

    continues = True

    def __init__(self) -> None:
        self.known: list[int] = []

    def to_numpy(self, embeds: Any) -> Any:
        return embeds

    def prefill(self, embeds: Any, decoder: DecoderInputs) -> Any:
        del embeds, decoder
        self.known.append(0)
        return np.zeros((1, 3), np.float32), State(1000)

    def continue_from(self, state: Any, known: int, embeds: Any, decoder: DecoderInputs) -> Any:
        del state, embeds, decoder
        self.known.append(known)
        return np.zeros((1, 3), np.float32), State(1000)


def known_of(
    prompts: Sequence[np.ndarray[Any, Any]],
    *,
    most_bytes: int = ROOM,
    further: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """Read prompts, (sequence, 4) float32 each, one after the other, and return how much of each was known."""
    cache, decoder = PromptCache(most_bytes), Decoder()
    for at, prompt in enumerate(prompts):
        mask = np.ones((1, len(prompt)), np.int64)
        plain = DecoderInputs.of_mask(mask)
        more = further[at] if further else {}
        inputs = DecoderInputs(
            attention_mask=mask,
            position_ids=more.get("position_ids", plain.position_ids),
            next_positions=plain.next_positions,
            further={name: one for name, one in more.items() if name != "position_ids"},
        )
        sessions: Any = decoder
        cache.keep(cache.prefill(sessions, prompt[None], inputs))
    return decoder.known


def rows(tokens: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((tokens, 4)).astype(np.float32)


@pytest.mark.parametrize("value", [-0.0, np.nan])
def test_the_bits_of_a_token_decide(value: float) -> None:
    first = rows(30)
    first[20, 2] = 0.0
    other = first.copy()
    other[20, 2] = value
    assert known_of([first, other]) == [0, 20]
    assert known_of([other, other]) == [0, 28]  # NaN is itself again


def test_other_positions_and_further_inputs_are_other_tokens() -> None:
    prompt, taps = rows(30), rows(30)[None]
    changed = taps.copy()
    changed[0, 25] += 1
    axes = np.broadcast_to(np.arange(30), (3, 1, 30)).copy()
    moved = axes.copy()
    moved[2, 0, 18:] += 4
    twice = [prompt, prompt]
    assert known_of(twice, further=[{"taps": taps}, {"taps": changed}]) == [0, 25]
    assert known_of(twice, further=[{"position_ids": axes}, {"position_ids": moved}]) == [0, 18]
    assert known_of(twice, further=[{"taps": taps}, {}]) == [0, 0]


def test_what_holds_mostly_other_tokens_is_left_alone() -> None:
    long, short = rows(100), rows(30, seed=1)
    short[:20] = long[:20]
    # 20 of 100 are shared: the long prompt stays, for its own next turn.
    assert known_of([long, short, long]) == [0, 0, 98]
    assert known_of([rows(30), rows(30)[:10]]) == [0, 0]  # too few to be worth it


def test_no_token_that_runs_alone_is_taken_over_or_left() -> None:
    base = rows(200)
    # (earlier prompt, next prompt, what is known of it)
    for kept, tokens, known in (
        (33, 60, 32),
        (30, 46, 28),
        (30, 65, 0),
        (60, 60, 58),
        (60, 64, 59),
    ):
        assert known_of([base[:kept], base[:tokens]]) == [0, known]


def test_a_prompt_has_the_bits_of_a_whole_one_whatever_its_length(
    model: EdgeModel, plain: EdgeModel
) -> None:
    """Lengths around the blocks of attention: 16 tokens for heads of 8, 32 for heads of 16."""
    words = " ".join(WORDS) * 3
    for end in range(30, 102, 3):
        model.generate(conversation(words[:end]), max_new_tokens=1)
        settings = GenerationSettings(max_new_tokens=1)
        runs = [
            one.begin(conversation(words[: end + 3]), settings=settings, logprobs=259)
            for one in (model, plain)
        ]
        for run in runs:
            list(run)
        assert runs[0].logprobs == runs[1].logprobs
    assert model.prompt_cache.hits > 30


def test_the_longest_beginning_is_taken_and_the_oldest_goes_first() -> None:
    short, long = rows(40), rows(60)
    assert known_of([short, long, np.concatenate([long, rows(6, 2)])]) == [0, 39, 59]
    others = [rows(40, seed) for seed in range(3)]
    size = 1000 + 40 * 4 * 4 + 40 * 8  # state, embeddings, positions
    assert known_of([*others, others[0]], most_bytes=3 * size) == [0, 0, 0, 38]
    assert known_of([*others, others[0]], most_bytes=2 * size) == [0, 0, 0, 0]
    assert known_of([others[0], others[0]], most_bytes=size - 1) == [0, 0]
