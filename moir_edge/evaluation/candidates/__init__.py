"""Candidates: a torch checkpoint or a bundle behind one protocol, each in a process of its own."""

from __future__ import annotations

from moir_edge.evaluation.candidates.base import (
    Candidate,
    CandidateFacts,
    CandidateSpec,
    ComponentCandidate,
    Loaded,
    Reply,
    TimedAnswer,
    spec_of,
    specs_of,
)
from moir_edge.evaluation.candidates.components import ComponentRun
from moir_edge.evaluation.candidates.loading import load_candidate

__all__ = [
    "Candidate",
    "CandidateFacts",
    "CandidateSpec",
    "ComponentCandidate",
    "ComponentRun",
    "Loaded",
    "Reply",
    "TimedAnswer",
    "load_candidate",
    "spec_of",
    "specs_of",
]
