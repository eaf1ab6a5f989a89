"""Each processor against transformers' own, on a prompt with repeats, image tokens and ids beyond the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from moir_edge.errors import DataError
from moir_edge.runtime.generation_config import GenerationRules, not_carried
from moir_edge.runtime.logits import processors_for

VOCABULARY = 40
EOS = [2, 7]
PROMPT = [1, 5, 3, 3, 3, 3, 9, 12, 9, 12, 30, 5]
ANSWER = [9, 12, 9, 31, 5, 3]
LIMIT = 6

SETTINGS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.7},
    {"encoder_repetition_penalty": 1.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"no_repeat_ngram_size": 30},
    {"encoder_no_repeat_ngram_size": 2},
    {"bad_words_ids": [[4], [12, 9], [3, 3, 9], [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5], [2]]},
    {"sequence_bias": [[[4], 3.0], [[12, 9], -2.5], [[9, 12, 9], 8.0], [[30, 5, 9], 1.0]]},
    {"min_length": 15},
    {"min_new_tokens": 2},
    {"min_new_tokens": 2, "min_length": 100},
    {"min_new_tokens": 0, "min_length": 100},
    {"forced_bos_token_id": 4},
    {"forced_eos_token_id": 2},
    {"forced_eos_token_id": [7, 2]},
    {"remove_invalid_values": True, "bad_words_ids": [[4]], "suppress_tokens": [6]},
    {"exponential_decay_length_penalty": [1, 1.5]},
    {"exponential_decay_length_penalty": [1, 1.5], "min_new_tokens": 5},
    {"suppress_tokens": [4, 9, 39, 40, 1000]},
    {"begin_suppress_tokens": [4, 9, 1000]},
    {"renormalize_logits": True, "repetition_penalty": 1.1},
    {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[8]], "min_length": 16,
     "suppress_tokens": [11], "begin_suppress_tokens": [13], "forced_eos_token_id": 7,
     "sequence_bias": [[[14], -1.0]], "exponential_decay_length_penalty": [0, 1.1]},
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, num_attention_heads=1, **sizes)  # type: ignore[arg-type]
    )


def _theirs(model: Any, settings: dict[str, Any], prompt: list[int]) -> Any:
    """Return transformers' processors for one row, made by its own generate()."""
    config = GenerationConfig(
        eos_token_id=EOS,
        pad_token_id=0,
        max_length=len(prompt) + LIMIT,
        do_sample=False,
        **settings,
    )
    if config.min_new_tokens is not None:
        config.min_length = config.min_new_tokens + len(prompt)
    model._prepare_special_tokens(config, True, device="cpu")
    ids = torch.tensor([prompt])
    return model._get_logits_processor(
        config,
        len(prompt),
        ids,
        device="cpu",
        model_kwargs={"attention_mask": torch.ones_like(ids)},
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: "+".join(one) or "none")
@pytest.mark.parametrize("prompt", [PROMPT, [1], [1, 45, 5, 45]], ids=["long", "one", "beyond"])
def test_scores_equal_transformers(model: Any, settings: dict[str, Any], prompt: list[int]) -> None:
    if prompt[-1] == 45 and any(name.startswith("encoder_") for name in settings):
        # transformers stops with an index error at an id beyond the logits; the runtime leaves it out.
        prompt = prompt[:1]
    theirs = _theirs(model, settings, prompt)
    rules = GenerationRules.of(settings, vocab_size=VOCABULARY)
    ours = processors_for(rules, prompt, EOS, LIMIT)
    rng = np.random.default_rng(0)
    for step in range(LIMIT):
        ids = prompt + ANSWER[:step]
        logits = (3 * rng.standard_normal(VOCABULARY)).astype(np.float32)
        expected = theirs(torch.tensor([ids]), torch.from_numpy(logits[None]))[0].numpy()
        scores = logits
        for processor in ours:
            scores = processor(ids, scores)
        if rules.renormalize_logits:  # the sampler's last step; see test_sampling
            from moir_edge.runtime.warpers import log_softmax

            scores = log_softmax(scores)
            # A sum of 40 exponentials in another order.
            np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(scores, expected)
        assert scores.dtype == np.float32


def test_a_long_answers_decay_stays_a_number(model: Any) -> None:
    rules = GenerationRules.of({"exponential_decay_length_penalty": [0, 2.0]})
    (decay,) = processors_for(rules, PROMPT, EOS, 5000)
    scores = decay(PROMPT + [5] * 3000, np.ones(VOCABULARY, np.float32))
    assert scores.argmax() == 2
    assert np.isfinite(scores).all()


def test_every_setting_of_transformers_is_applied_or_named() -> None:
    known = set(GenerationConfig().to_dict()) - {"transformers_version", "_from_model_config"}
    set_to_something = dict.fromkeys(known, 3)
    named = set(not_carried(set_to_something))
    applied = set(GenerationRules.model_fields) | {"temperature"}
    without_effect = known - named - applied
    # Whatever is neither applied nor named was looked at, and cannot change a token on its own.
    assert without_effect == {
        "assistant_confidence_threshold", "assistant_lookbehind", "bos_token_id", "cache_config",
        "cache_implementation", "compile_config", "continuous_batching_config", "decoder_start_token_id",
        "disable_compile", "diversity_penalty", "early_stopping", "is_assistant", "length_penalty",
        "max_cache_len", "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule",
        "output_attentions", "output_hidden_states", "output_logits", "output_scores", "pad_token_id",
        "prefill_chunk_size", "return_dict_in_generate", "speculation_type", "target_lookbehind", "use_cache",
    } & known  # fmt: skip
    assert not_carried({"frobnicate": 1}) == {
        "frobnicate": "frobnicate=1 (this version does not know it)"
    }


@pytest.mark.parametrize(
    "off",
    [{}, {"num_beams": 1}, {"do_sample": False}, {"guidance_scale": 1.0}, {"penalty_alpha": 0.0},
     {"watermarking_config": None}, {"temperature": 0.7}, {"top_k": 50}, {"num_return_sequences": 1},
     {"use_cache": True, "cache_implementation": "static", "eos_token_id": [2]}],
)  # fmt: skip
def test_settings_that_are_off_are_not_named(off: dict[str, Any]) -> None:
    assert not_carried(off) == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"repetition_penalty": 0},
            r"repetition_penalty is 0: input should be 1e-30 to 1e\+30",
        ),
        (
            {"repetition_penalty": 1e300},
            r"repetition_penalty is 1e\+300: input should be 1e-30 to 1e\+30",
        ),
        ({"no_repeat_ngram_size": "two"}, 'no_repeat_ngram_size is "two"'),
        ({"bad_words_ids": [[]]}, "bad_words_ids is"),
        ({"bad_words_ids": [3]}, "bad_words_ids is"),
        ({"exponential_decay_length_penalty": [1]}, "exponential_decay_length_penalty is"),
        (
            {"sequence_bias": [[[40], 1.0]]},
            "sequence_bias names token 40, but the model has 40 tokens",
        ),
        ({"forced_eos_token_id": 40}, "forced_eos_token_id names token 40"),
        ({"forced_bos_token_id": 40}, "forced_bos_token_id names token 40"),
        ({"bad_words_ids": [[1] * 99, [40], ["x"]]}, r"bad_words_ids is \[\[1, 1, .*…: "),
    ],
)
def test_values_that_cannot_hold_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"generation_config.json: {message}"):
        GenerationRules.of(config, vocab_size=VOCABULARY)


def test_the_answer_is_not_taken_for_a_part_of_the_prompt() -> None:
    # The generation loop appends to the list that it hands over.
    ids = [4, 5]
    (bonus,) = processors_for(GenerationRules(encoder_repetition_penalty=2.0), ids, {2}, 8)
    ids.append(6)
    scores = bonus(ids, np.ones(8, dtype=np.float32))
    assert scores.tolist() == [1, 1, 1, 1, 2, 2, 1, 1]
