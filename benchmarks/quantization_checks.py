"""Bounds of a release on the demo's bundles: size, scores, parity with torch, agreement and recovery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.common import Check

if TYPE_CHECKING:
    from moir_edge.bundle import Manifest
    from moir_edge.evaluation.comparison.schema import CandidateReport

__all__ = ["recovery_check", "reference_checks", "size_check"]

MIN_SCORE = {"vqa": 90.0, "statement": 85.0}
MIN_FP32_TOKENS_PERCENT = 99.5
MIN_FP32_INDEX_PERCENT = 99.9
MAX_FP32_LOGITS_ERROR = 1e-3
MAX_SIZE_RATIO = 1.03


def reference_checks(
    reference: CandidateReport,
    torch: CandidateReport,
    manifest: Manifest,
    parity: Mapping[str, Any],
) -> Iterator[Check]:
    """Yield the checks of the fp32 bundle.

    Args:
        reference: The bundle's figures.
        torch: Those of the checkpoint in torch, against the bundle.
        manifest: Of the bundle.
        parity: Figures of the bundle against torch, from `measure_parity`.
    """
    for task, figures in reference.tasks.items():
        yield Check(
            name=f"{reference.name}: {task} {figures.metric}",
            value=figures.score,
            minimum=MIN_SCORE.get(task),
        )
    tokens, routing = torch.token_agreement, torch.routing
    yield Check(
        name=f"{reference.name}: identical greedy token sequences %",
        value=100 * tokens.identical if tokens else None,
        minimum=MIN_FP32_TOKENS_PERCENT,
    )
    yield Check(
        name=f"{reference.name}: logits, largest absolute error",
        value=_logits_error(parity),
        maximum=MAX_FP32_LOGITS_ERROR,
    )
    # Routers of other kinds take from the mean of the other modality: there are no indices to find.
    if (manifest.router or {}).get("kind", "token") == "token":
        yield Check(
            name=f"{reference.name}: router indices found %",
            value=100 * routing.index_agreement if routing else None,
            minimum=MIN_FP32_INDEX_PERCENT,
        )


def recovery_check(candidate: CandidateReport, minimum: float | None) -> Check:
    """Return the check of a quantized bundle's score over that of the fp32 bundle.

    Args:
        candidate: The bundle's figures.
        minimum: In %; None asks only that it was measured.
    """
    recovery = candidate.recovery
    value = 100 * recovery.value if recovery else None
    return Check(name=f"{candidate.name}: recovery %", value=value, minimum=minimum)


def size_check(name: str, manifest: Manifest) -> Check:
    """Return the check of a bundle's bytes, its engines left out, over the bytes of its graphs' tensors."""
    engines = {engine.path for engine in manifest.engines}
    size = sum(file.bytes for file in manifest.files if file.path not in engines)
    tensors = sum(entry.tensor_bytes for entry in manifest.components.values())
    return Check(
        name=f"{name}: bytes over tensor bytes", value=size / tensors, maximum=MAX_SIZE_RATIO
    )


def _logits_error(parity: Mapping[str, Any]) -> float | None:
    errors = parity.get("max_abs_error", {})
    return max((value for name, value in errors.items() if name.endswith("logits")), default=None)
