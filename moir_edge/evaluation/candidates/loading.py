"""Load a candidate: a bundle with the runtime, a checkpoint with torch."""

from __future__ import annotations

from moir_edge.evaluation.candidates.base import Candidate, CandidateSpec

__all__ = ["load_candidate"]


def load_candidate(spec: CandidateSpec) -> Candidate:
    """Load what a spec names; each kind imports its libraries only here.

    Raises:
        MoirEdgeError: It cannot be loaded.
    """
    if spec.kind == "bundle":
        from moir_edge.evaluation.candidates.bundle import BundleCandidate

        return BundleCandidate(spec)
    from moir_edge.evaluation.candidates.checkpoint import CheckpointCandidate

    return CheckpointCandidate(spec)
