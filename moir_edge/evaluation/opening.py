"""Open candidates, each in a process of its own, and tell why one cannot be opened here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from moir_edge.data.rows import Row
from moir_edge.errors import BundleError, DataError, EnvironmentProblem, UnsupportedError
from moir_edge.evaluation.candidates import CandidateSpec
from moir_edge.evaluation.process import CandidateProcess
from moir_edge.evaluation.provenance import Providers
from moir_edge.progress import Progress

__all__ = ["NOT_ON_THIS_DEVICE", "Opened", "loaded_processes", "open_candidates", "providers_of"]

NOT_ON_THIS_DEVICE = "not measured on this device"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A candidate that was tried.

    Attributes:
        spec: What was to be loaded.
        process: The process that holds it; None where it could not be loaded.
        reason: Why not.
    """

    spec: CandidateSpec
    process: CandidateProcess | None
    reason: str | None = None


def open_candidates(
    stack: ExitStack, specs: Sequence[CandidateSpec], rows: Sequence[Row], progress: Progress
) -> list[Opened]:
    """Load candidates; a named provider that this device lacks is a reason and not an error.

    Args:
        stack: Closes the processes.
        specs: What to load.
        rows: The rows that commands refer to by index.
        progress: Called as ``progress("loading", done, total)``.

    Raises:
        DataError: None of them can be loaded.
        MoirEdgeError: A candidate cannot be loaded by the runtime's own choice.
    """
    opened = []
    for at, spec in enumerate(specs):
        progress("loading", at, len(specs))
        opened.append(_open(stack, spec, rows))
    progress("loading", len(specs), len(specs))
    if all(one.process is None for one in opened):
        raise DataError(f"nothing can be measured: {opened[0].spec.name} {opened[0].reason}")
    return opened


def loaded_processes(opened: Sequence[Opened]) -> list[CandidateProcess]:
    """Return the processes of the candidates that could be loaded, in order."""
    return [one.process for one in opened if one.process is not None]


def providers_of(opened: Sequence[Opened]) -> Providers:
    """Return what runs the components of each candidate that could be loaded, by its name."""
    return {one.spec.name: one.loaded.facts.providers for one in loaded_processes(opened)}


def _open(stack: ExitStack, spec: CandidateSpec, rows: Sequence[Row]) -> Opened:
    try:
        return Opened(spec=spec, process=stack.enter_context(CandidateProcess(spec, rows)))
    except (EnvironmentProblem, BundleError, UnsupportedError) as error:
        if spec.provider is None:
            raise
        return Opened(spec=spec, process=None, reason=f"{NOT_ON_THIS_DEVICE}: {error}")
