"""Routing maps of a few rows: what the router of a source did, as data and as a picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moir_edge.data.pictures import row_images
from moir_edge.data.rows import Row
from moir_edge.errors import UnsupportedError
from moir_edge.evaluation.candidates import Candidate
from moir_edge.evaluation.candidates.bundle import BundleCandidate
from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate
from moir_edge.evaluation.diagnosis.schema import RoutingExample
from moir_edge.runtime import RoutingMap

__all__ = ["routing_examples", "routing_map_of"]


def routing_examples(candidate: Candidate, rows: Sequence[Row]) -> list[RoutingExample]:
    """Return the routing map of each row, drawn as `moir-edge run --routing-map` draws it.

    Args:
        candidate: A source with a router.
        rows: The rows.

    Raises:
        MoirEdgeError: The maps of this source cannot be made; the message says why.
    """
    from moir_edge.runtime.routing_picture import draw_routing_map

    route = routing_map_of(candidate)
    examples = []
    for row in rows:
        routing = route(row)
        buffer = io.BytesIO()
        draw_routing_map(routing, list(row.images)).save(buffer, "PNG", optimize=True)
        examples.append(
            RoutingExample(
                id=row.id,
                prompt=row.text,
                images=tuple(str(path) for path in row.images),
                map=routing.to_dict(),
                picture_png=buffer.getvalue(),
            )
        )
    return examples


def routing_map_of(candidate: Candidate) -> Callable[[Row], RoutingMap]:
    """Return the function that makes a candidate's routing map of a row.

    Raises:
        UnsupportedError: The candidate returns no routing map.
    """
    if isinstance(candidate, BundleCandidate):
        model = candidate.model
        return lambda row: model.routing_map(row.prompt, list(row.images), context=row.context)
    if isinstance(candidate, CheckpointCandidate):
        return _CheckpointMaps(candidate)
    raise UnsupportedError(f"{type(candidate).__name__} returns no routing map")


class _CheckpointMaps:
    """Maps of a checkpoint: its own router, and the device runtime's processor to name words and image cells."""

    def __init__(self, candidate: CheckpointCandidate) -> None:
        from moir_edge.bundle.files import ModelFiles
        from moir_edge.checkpoint.processor import image_record
        from moir_edge.export.facts import model_facts
        from moir_edge.models import architecture_names
        from moir_edge.runtime.processor import Processor

        self._candidate = candidate
        model_type = candidate.model.config.model_type
        if model_type not in architecture_names():
            raise UnsupportedError(
                f"words and image cells can be named for types that export knows ({', '.join(architecture_names())}), "
                f"and this is {model_type}"
            )
        checkpoint = candidate.checkpoint
        self._facts = model_facts(checkpoint)
        self._processor = Processor(
            ModelFiles(checkpoint.folder),
            self._facts,
            image_settings=image_record(checkpoint.processor)["image_processor"],
        )

    def __call__(self, row: Row) -> RoutingMap:
        """Run the prompt once and name what the router did to it."""
        import torch

        from moir_edge.router import last_routing
        from moir_edge.runtime.routing import routing_maps

        images = row_images(row)
        inputs = self._processor([row.conversation], [images])
        encoded = self._candidate.encode([row])
        if not np.array_equal(encoded["input_ids"].numpy(), inputs.input_ids):
            raise UnsupportedError(
                "the device runtime and transformers tokenize this prompt differently, so the tokens of the routing "
                "map cannot be named"
            )
        with torch.inference_mode():
            self._candidate.model(**encoded)
        return routing_maps(self._facts, inputs, _arrays(last_routing(self._candidate.model)))[0]


def _arrays(routing: Any) -> Any:
    """Return what the router hook recorded in the form of the runtime's router outputs."""
    from moir_edge.runtime.interface import RouterArrays

    if routing is None:
        raise UnsupportedError("the router saw no image or no text in this prompt")
    return RouterArrays(
        image_positions=routing.image_positions.numpy(),
        text_positions=routing.text_positions.numpy(),
        text_mask=routing.text_mask.numpy(),
        scores=routing.output.scores.numpy(),
        indices=routing.output.indices.numpy(),
        margin=routing.output.margin.numpy(),
        gate=routing.output.gate.numpy(),
    )
