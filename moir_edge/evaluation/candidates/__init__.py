"""What is compared: a torch checkpoint or a bundle, behind one protocol, each in a process of its own."""

from __future__ import annotations

from moir_edge.evaluation.candidates.base import (
    Answer,
    Candidate,
    CandidateFacts,
    CandidateSpec,
    ComponentCandidate,
    Loaded,
    Reply,
    RoutingRow,
    TimedAnswer,
    load_candidate,
    spec_of,
    specs_of,
)
from moir_edge.evaluation.candidates.components import ComponentRun

__all__ = [
    "Answer",
    "Candidate",
    "CandidateFacts",
    "CandidateSpec",
    "ComponentCandidate",
    "ComponentRun",
    "Loaded",
    "Reply",
    "RoutingRow",
    "TimedAnswer",
    "load_candidate",
    "spec_of",
    "specs_of",
]
