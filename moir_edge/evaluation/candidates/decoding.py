"""One rule of decoding for every candidate: greedy, under that part of the generation config which bundles apply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moir_edge.bundle import open_bundle
from moir_edge.bundle.files import ModelFiles
from moir_edge.evaluation.candidates.base import CandidateSpec
from moir_edge.runtime.generation_config import (
    GenerationRules,
    not_carried,
    read_generation_config,
)

__all__ = ["ONE_BEAM", "counts_padding", "decoding_notices", "keep_what_bundles_apply"]

ONE_BEAM: Mapping[str, Any] = {"num_beams": 1, "num_beam_groups": 1}
"""What a bundle is told, so that it answers where its generation config asks for beam search."""

# They make no difference to the tokens, or an error under a router.
_EXECUTION = ("cache_implementation", "cache_config", "prefill_chunk_size", "compile_config")
# transformers looks at the padding of a batch for these, or pads a row that ended.
_LOOK_AT_PADDING = (
    "min_length",
    "stop_strings",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "sequence_bias",
    "bad_words_ids",
)

# The length is that of the run, and nothing is drawn.
_NOT_GREEDY = {
    "max_new_tokens", "max_length", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
}  # fmt: skip


def keep_what_bundles_apply(config: Any) -> None:
    """Take out of a transformers generation config what bundles do not apply.

    Args:
        config: The `GenerationConfig` of a loaded model; changed in place.
    """
    for key in (*not_carried(config.to_dict()), *_EXECUTION):
        setattr(config, key, None)


def counts_padding(config: Any) -> bool:
    """Return whether transformers could answer a padded row otherwise than the row alone.

    Args:
        config: The `GenerationConfig` of a loaded model.
    """
    return any(getattr(config, name, None) for name in _LOOK_AT_PADDING)


def decoding_notices(specs: Sequence[CandidateSpec]) -> tuple[str, ...]:
    """Return what a report must say at the top of how answers were generated.

    Args:
        specs: The candidates, the reference first.
    """
    configs = [_config_of(spec) for spec in specs]
    notices = []
    named = dict.fromkeys(text for config in configs for text in not_carried(config).values())
    if named:
        notices.append(
            f"Every candidate answers greedily, without these settings of generation_config.json: {'; '.join(named)}."
        )
    answered = [_greedy(config) for config in configs]
    others = [
        spec.name
        for spec, own in zip(specs, answered, strict=True)
        if own and answered[0] and own != answered[0]
    ]
    if others:
        notices.append(
            f"The generation_config.json of {', '.join(others)} asks for other answers than that of {specs[0].name}, "
            "so figures between them do not measure an export alone."
        )
    return tuple(notices)


def _greedy(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change a greedy answer of a fixed length; empty without a config."""
    if not config:
        return {}
    return GenerationRules.of(config).model_dump(exclude=_NOT_GREEDY)


def _config_of(spec: CandidateSpec) -> dict[str, Any]:
    """Return the generation config that a candidate comes with; empty where it has no file of that name."""
    folder = Path(spec.source)
    if folder.is_dir():
        is_bundle = spec.kind == "bundle"
        opened = open_bundle(folder, verify=False).files if is_bundle else ModelFiles(folder)
        return read_generation_config(opened)
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(spec.source)
    except OSError:
        return {}
    return {key: value for key, value in config.to_dict().items() if value is not None}
