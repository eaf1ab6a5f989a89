"""A bundle as a candidate, run by the project's own torch-free runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.data.pictures import row_images
from moir_edge.data.rows import Row, first_refused
from moir_edge.errors import DataError
from moir_edge.evaluation.candidates.base import CandidateFacts, CandidateSpec, TimedAnswer
from moir_edge.evaluation.candidates.components import ComponentRun, run_components
from moir_edge.evaluation.candidates.decoding import ONE_BEAM

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel

__all__ = ["BundleCandidate"]

_PARTS = ("preprocess", "vision", "embedding", "router", "pruning", "prefill")


class BundleCandidate:
    """A loaded bundle.

    Args:
        spec: What to load.

    Raises:
        MoirEdgeError: The bundle cannot be loaded.
    """

    def __init__(self, spec: CandidateSpec) -> None:
        from moir_edge.runtime.model import load

        provider: Any = spec.provider  # the runtime checks the name
        self._model = load(
            spec.source,
            threads=spec.threads,
            provider=provider,
            prune_image_tokens=spec.prune_image_tokens,
            prune_by=spec.prune_by,
        )
        self._max_new_tokens = spec.max_new_tokens
        self._end_tokens = frozenset(self._model.manifest.model.eos_token_ids)

    @property
    def model(self) -> EdgeModel:
        """The runtime's model."""
        return self._model

    @property
    def facts(self) -> CandidateFacts:
        """Facts of this candidate."""
        manifest = self._model.manifest
        components = manifest.components
        files = self._model.sessions.files()
        return CandidateFacts(
            precision=manifest.precision,
            component_precisions={name: entry.precision for name, entry in components.items()},
            weights_bytes=sum(self._model.bundle.file(name).stat().st_size for name in files),
            has_router=self._model.sessions.has_router,
            backend=self._model.sessions.backend,
            providers=self._model.sessions.component_providers(),
        )

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer a batch of rows."""
        done = self._generate(rows, router=True, max_new_tokens=self._max_new_tokens)
        return self._answers(done)

    def timed(self, row: Row, *, router: bool, max_new_tokens: int) -> TimedAnswer:
        """Answer one row and take the runtime's own times."""
        _decode_images([row])
        done = self._generate([row], router=router, max_new_tokens=max_new_tokens)
        timings = done.timings
        parts = {name: getattr(timings, f"{name}_ms") for name in _PARTS}
        if not parts["pruning"]:
            del parts["pruning"]
        parts["other"] = timings.ttft_ms - sum(parts.values())
        return TimedAnswer(
            answer=self._answers(done)[0],
            ttft_ms=timings.ttft_ms,
            component_ms=parts,
            token_ms=timings.decode_ms,
        )

    def route(self, rows: Sequence[Row]) -> list[RoutingRow]:
        """Return the routing map of each row."""
        from moir_edge.runtime.generation import prepare_prompt, route_prompt
        from moir_edge.runtime.routing import routing_maps
        from moir_edge.runtime.timing import Stopwatch

        model, facts = self._model, self._model.manifest.model
        inputs = self._encode(rows)
        family = model.processor.family
        own = prepare_prompt(model.sessions, family, inputs, Stopwatch(), router=False)
        embeds = model.sessions.to_numpy(own.embeds)
        routed, arrays = route_prompt(model.sessions, facts, inputs, own.embeds)
        if arrays is None:
            raise DataError("the router saw no image or no text in any of these rows")
        width, added = inputs.input_ids.shape[1], model.sessions.to_numpy(routed) - embeds
        maps = routing_maps(facts, inputs, arrays)
        return [
            RoutingRow(
                positions=one.positions,
                sources=one.indices,
                margins=one.margin,
                gates=one.gate,
                matched=embeds[row, width - len(prompt.ids) :][np.maximum(one.indices[:, 0], 0)],
                added=added[row, width - len(prompt.ids) :][one.positions],
            )
            for row, (one, prompt) in enumerate(zip(maps, inputs.prompts, strict=True))
        ]

    def components(self, row: Row, feed: ComponentRun | None, steps: int) -> ComponentRun:
        """Run each component once on one row; see `run_components`."""
        return run_components(self._model, self._encode([row]), feed, steps)

    def _generate(self, rows: Sequence[Row], *, router: bool, max_new_tokens: int) -> Any:
        images, prompts, contexts = _inputs(rows)
        try:
            return self._model.generate(
                prompts,
                images,
                context=contexts,
                max_new_tokens=max_new_tokens,
                router=router,
                prune_image_tokens=None if router else 0.0,
                generation_config=ONE_BEAM,
            )
        except DataError as error:
            raise first_refused(rows, self._encode, error) from error

    def _encode(self, rows: Sequence[Row]) -> Any:
        images, prompts, contexts = _inputs(rows)
        return self._model.encode(prompts, images, context=contexts)

    def _answers(self, done: Any) -> list[Answer]:
        return [
            Answer(
                text=text.strip(),
                token_ids=tuple(token for token in ids if token not in self._end_tokens),
            )
            for text, ids in zip(done.texts, done.token_ids, strict=True)
        ]


def _decode_images(rows: Sequence[Row]) -> list[list[Any]]:
    return [row_images(row) for row in rows]


def _inputs(rows: Sequence[Row]) -> tuple[list[list[Any]], list[Any], list[str | None]]:
    """Return images, prompts and contexts; a blanked prompt, which a user may not give, as a conversation."""
    from moir_edge.runtime.chat import user_turn

    prompts = [row.prompt or user_turn(row.text, images=len(row.images)) for row in rows]
    contexts = [row.context if row.prompt else None for row in rows]
    return _decode_images(rows), prompts, contexts
