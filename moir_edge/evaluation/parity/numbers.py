"""Numeric parity of whole bundles: components on the reference's inputs, then answers and routing of the whole chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.evaluation.measure import measure_answers, measure_routing
from moir_edge.evaluation.parity.numeric import ComponentFigures
from moir_edge.evaluation.parity.prompts import Prompts
from moir_edge.evaluation.parity.schema import NumericParity
from moir_edge.evaluation.process import CandidateProcess
from moir_edge.metrics.agreement import compare_routing, token_agreement
from moir_edge.progress import Progress

__all__ = ["measure_numbers"]

_BATCH = 8


def measure_numbers(
    reference: CandidateProcess,
    others: Sequence[CandidateProcess],
    prompts: Prompts,
    *,
    decode_steps: int,
    progress: Progress,
) -> list[NumericParity]:
    """Compare bundles with the reference on all prompts.

    Args:
        reference: A bundle.
        others: Bundles of the same model.
        prompts: The prompts.
        decode_steps: Decoder steps that are compared after each prompt.
        progress: Called as ``progress(stage, done, total)``.

    Returns:
        One per entry of `others`.

    Raises:
        ShapeError: A component's output has another shape than the reference's.
    """
    components = _components(reference, others, len(prompts.rows), decode_steps, progress)
    truth = _chain(reference, prompts, progress)
    return [
        _against(truth, _chain(one, prompts, progress), figures)
        for one, figures in zip(others, components, strict=True)
    ]


def _components(
    reference: CandidateProcess,
    others: Sequence[CandidateProcess],
    prompts: int,
    decode_steps: int,
    progress: Progress,
) -> list[ComponentFigures]:
    """Run prompt by prompt, so that intermediate values of one prompt only are held."""
    gathered = [ComponentFigures(one.loaded.facts.component_precisions) for one in others]
    progress("components", 0, prompts)
    for at in range(prompts):
        truth = reference.components(at, None, decode_steps)
        for one, figures in zip(others, gathered, strict=True):
            figures.add(one.components(at, truth, decode_steps), truth)
        progress("components", at + 1, prompts)
    return gathered


@dataclass(frozen=True)
class _Chain:
    """Answers of a bundle, and routing maps where it has a router and every prompt an image."""

    answers: list[Answer]
    maps: list[RoutingRow] | None


def _chain(process: CandidateProcess, prompts: Prompts, progress: Progress) -> _Chain:
    rows = prompts.rows
    routed = process.loaded.facts.has_router and all(row.images for row in rows)
    return _Chain(
        measure_answers(process, rows, _BATCH, progress),
        measure_routing(process, rows, len(rows), _BATCH, progress) if routed else None,
    )


def _against(truth: _Chain, chain: _Chain, figures: ComponentFigures) -> NumericParity:
    routing, reason = compare_routing(chain.maps, truth.maps)
    return NumericParity(
        components=figures.summary(),
        tokens=token_agreement(chain.answers, truth.answers),
        routing=routing,
        routing_reason=reason,
        missing=figures.missing(),
    )
