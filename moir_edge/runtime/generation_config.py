"""Read a checkpoint's `generation_config.json`, check it, and sort its keys into applied and not applied."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from moir_edge.bundle.files import ModelFiles
from moir_edge.errors import DataError, UnsupportedError, closest
from moir_edge.json_files import holds_more
from moir_edge.limits import SETTINGS_VALUES

__all__ = [
    "FILE_NAME",
    "LEAST_FACTOR",
    "GenerationRules",
    "check_names",
    "not_carried",
    "read_generation_config",
    "refuse_beam_search",
]

FILE_NAME = "generation_config.json"
_SHOWN = 60  # characters of a value in a message

_MISSING_BEAMS = (
    "{name}={value} asks for beam search, which a bundle does not have; answer greedily with "
    "`generation_config={{'num_beams': 1}}`"
)


def _as_tuple(value: Any) -> Any:
    """Return one id or one string as a tuple of it, as the field allows both forms."""
    return (value,) if isinstance(value, int | str) and not isinstance(value, bool) else value


def _as_pairs(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, Mapping) else value


LEAST_FACTOR = 1e-30
"""Smallest number that scores are multiplied with or divided by, and the inverse of the largest: float32 holds the results."""


def _usable_factor(value: float) -> float:
    if not LEAST_FACTOR <= value <= 1 / LEAST_FACTOR:
        text = f"input should be {LEAST_FACTOR:g} to {1 / LEAST_FACTOR:g}"
        raise PydanticCustomError("factor", text)
    return value


Factor = Annotated[float, AfterValidator(_usable_factor)]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[tuple[TokenId, ...], BeforeValidator(_as_tuple)]
TokenSequence = Annotated[tuple[TokenId, ...], Field(min_length=1)]


class GenerationRules(BaseModel):
    """The settings that the runtime applies, under the names of `transformers.GenerationConfig`.

    The first group holds for every answer. The second holds only where tokens are drawn (a temperature above 0).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    eos_token_id: TokenIds | None = None
    max_new_tokens: int | None = Field(None, ge=1)
    max_length: int | None = Field(None, ge=1)
    min_new_tokens: int | None = Field(None, ge=0)
    min_length: int | None = Field(None, ge=0)
    stop_strings: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    sequence_bias: Annotated[
        tuple[tuple[TokenSequence, float], ...], BeforeValidator(_as_pairs)
    ] = ()
    encoder_repetition_penalty: Factor = 1.0
    repetition_penalty: Factor = 1.0
    no_repeat_ngram_size: int = Field(0, ge=0)
    encoder_no_repeat_ngram_size: int = Field(0, ge=0)
    bad_words_ids: tuple[TokenSequence, ...] = ()
    forced_bos_token_id: TokenId | None = None
    forced_eos_token_id: TokenIds | None = None
    remove_invalid_values: bool = False
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: TokenIds = ()
    begin_suppress_tokens: TokenIds = ()
    renormalize_logits: bool = False

    top_h: float | None = Field(None, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float = Field(1.0, gt=0, le=1)
    epsilon_cutoff: float = Field(0.0, ge=0, lt=1)
    eta_cutoff: float = Field(0.0, ge=0, lt=1)

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        *,
        vocab_size: int | None = None,
        given: Collection[str] = (),
    ) -> GenerationRules:
        """Check a generation config.

        Args:
            config: The keys of `generation_config.json`; null counts as absent.
            vocab_size: Width of the logits; None leaves token ids unchecked.
            given: Keys that the caller set and not the file, for messages.

        Raises:
            DataError: A value has a wrong type or range, or biases a token beyond the vocabulary.
        """
        if holds_more(dict(config), SETTINGS_VALUES):
            raise DataError(
                f"the generation config holds more than {SETTINGS_VALUES:,} values; leave out what is not needed"
            )
        try:
            rules = cls.model_validate(
                {key: value for key, value in config.items() if value is not None}
            )
        except ValidationError as error:
            first = error.errors()[0]
            key = first["loc"][0]
            raise DataError(
                f"{_origin(key, given)}: {key} is {_shortened(config[str(key)])}: {first['msg'].lower()}; "
                "correct the value, or leave the key out"
            ) from error
        if vocab_size is not None:
            rules._check_ids(vocab_size, given)
        return rules

    def _check_ids(self, vocab_size: int, given: Collection[str]) -> None:
        for key, sequences in (
            ("sequence_bias", [ids for ids, _ in self.sequence_bias]),
            ("bad_words_ids", self.bad_words_ids),
            ("forced_bos_token_id", [(self.forced_bos_token_id or 0,)]),
            ("forced_eos_token_id", [self.forced_eos_token_id or ()]),
        ):
            beyond = sorted({token for ids in sequences for token in ids if token >= vocab_size})
            if beyond:
                raise DataError(
                    f"{_origin(key, given)}: {key} names token {beyond[0]}, but the model has {vocab_size} tokens; correct the id"
                )


def _origin(key: object, given: Collection[str]) -> str:
    return "the settings given with this call" if key in given else FILE_NAME


def _shortened(value: Any) -> str:
    shown = json.dumps(value, default=repr)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"


def read_generation_config(files: ModelFiles) -> dict[str, Any]:
    """Return the keys of a folder's `generation_config.json` that have a value; nothing without a file.

    Raises:
        BundleError: The file does not hold a JSON object.
    """
    config = files.object(FILE_NAME) or {}
    return {key: value for key, value in config.items() if value is not None}


def refuse_beam_search(config: Mapping[str, Any]) -> None:
    """Refuse a generation config that asks for beam search, which changes every token and has no stand-in.

    Raises:
        UnsupportedError: It asks for more than one beam, or for constraints, which need beams.
    """
    for name in ("num_beams", "num_beam_groups"):
        value = config.get(name)
        if value is not None and value != 1:
            raise UnsupportedError(_MISSING_BEAMS.format(name=name, value=value))


def check_names(config: Mapping[str, Any]) -> None:
    """Refuse a key that the runtime does not apply, as a misspelt one.

    Raises:
        UnsupportedError: There is one.
    """
    known = {*GenerationRules.model_fields, "num_beams", "num_beam_groups"}
    for key in config:
        if key not in known:
            raise UnsupportedError(
                f"generation_config: a bundle does not apply {key!r}; {closest(key, known)}"
            )


def not_carried(config: Mapping[str, Any]) -> dict[str, str]:
    """Find the settings of a generation config that a bundle does not apply.

    Args:
        config: As `read_generation_config` gives it.

    Returns:
        Key to a short text that names the value and what a bundle does instead.
    """
    known = set(GenerationRules.model_fields) | _WITHOUT_EFFECT | {"temperature"}
    found = {}
    for key, value in config.items():
        if value is None or key in known:
            continue
        off, reason = _NOT_CARRIED.get(key, ((), "this version does not know it"))
        if value not in off:
            found[key] = f"{key}={_shortened(value)} ({reason})"
    return found


# Key -> the values that mean "off", and what a bundle does instead.
_NOT_CARRIED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((1,), "beam search; `run` refuses it, `compare` decodes greedily"),
    "num_beam_groups": ((1,), "group beam search; `run` refuses it, `compare` decodes greedily"),
    "constraints": ((), "constrained beam search"),
    "force_words_ids": ((), "constrained beam search"),
    "do_sample": ((False,), "answers are greedy until a temperature is given"),
    "num_return_sequences": ((1,), "one answer per prompt"),
    "guidance_scale": ((1,), "needs a second pass without the prompt"),
    "watermarking_config": ((), "its green lists come from torch's random numbers"),
    "penalty_alpha": ((0,), "contrastive search"),
    "dola_layers": ((), "needs the logits of inner layers"),
    "token_healing": ((False,), "prompts are taken as they are"),
    "max_time": ((), "answers end by tokens, not by time"),
    "prompt_lookup_num_tokens": ((), "speed only"),
    "assistant_early_exit": ((), "speed only"),
    "use_mtp": ((False,), "speed only"),
    "assistant_ensemble_weight": ((), "no assistant model"),
    "low_memory": ((False,), "speed only"),
}

# Keys that cannot change a token of a greedy answer, or only together with a key that is named above.
_WITHOUT_EFFECT = {
    "_from_model_config", "transformers_version", "_commit_hash", "bos_token_id", "pad_token_id", "decoder_start_token_id",
    "early_stopping", "length_penalty", "diversity_penalty", "use_cache", "cache_implementation", "cache_config",
    "max_cache_len", "prefill_chunk_size", "return_dict_in_generate", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "max_matching_ngram_size", "assistant_lookbehind", "target_lookbehind",
    "speculation_type", "compile_config", "disable_compile", "continuous_batching_config",
}  # fmt: skip
