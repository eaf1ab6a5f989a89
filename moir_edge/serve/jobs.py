"""One request on its way to the device, and what comes of it step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from moir_edge.errors import MoirEdgeError
from moir_edge.runtime import EdgeModel, Generation
from moir_edge.runtime.logprobs import TokenLogprob
from moir_edge.runtime.processor import EncodedRow
from moir_edge.runtime.settings import GenerationSettings
from moir_edge.serve.errors import ApiError

__all__ = ["Done", "Event", "Failed", "Job", "Piece"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One step of an answer: text that became certain, and the token's log-probabilities where asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Done:
    """The whole answer.

    Attributes:
        generation: Of one row.
        queue_ms: How long the request waited for the device.
        logprobs: Of all tokens, where asked for.
    """

    generation: Generation
    queue_ms: float
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The reason for which there is not an answer, or not the rest of it."""

    error: ApiError


Event: TypeAlias = "Piece | Done | Failed"


@dataclass(kw_only=True, eq=False)
class Job:
    """One request on its way.

    Attributes:
        model: The loaded bundle that answers.
        conversation: Turns as the chat template takes them.
        images: Files of images in the order of the turns.
        settings: Of the answer.
        logprobs: Other tokens told with each token's own log-probability; None tells none.
        stream: Emit the pieces of the answer as they come, and not only the whole.
        emit: Gets each event, on the worker's thread.
        cancelled: Set where nobody waits any longer.
        queued: When the job was put in the queue.
    """

    model: EdgeModel
    conversation: list[dict[str, Any]]
    images: Sequence[bytes]
    settings: GenerationSettings
    logprobs: int | None
    stream: bool
    emit: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    queued: float = field(default_factory=time.monotonic)
    _encoding: threading.Lock = field(default_factory=threading.Lock, init=False)
    _row: EncodedRow | None = field(default=None, init=False)
    _problem: Exception | None = field(default=None, init=False)
    _handed_over: bool = field(default=False, init=False)

    def encode(self) -> None:
        """Make the prompt and its images what the graphs take, unless a thread has; what that raises is kept for `encoded`."""
        with self._encoding:
            if self.is_encoded:
                return
            try:
                self._row = self.model.encode_row(self.conversation, list(self.images))
            except MoirEdgeError as error:
                # Told in one line; the frames of its trace hold the pictures.
                self._problem = error.with_traceback(None)
            except Exception as error:
                self._problem = error

    def encoded(self) -> EncodedRow:
        """Return what `encode` made.

        Raises:
            Exception: What it raised; who asks again lets it try again.
        """
        self.encode()
        row = self._row
        if row is None:
            raise self._taken_problem()  # in no variable: its trace holds this frame, and would keep itself
        return row

    def _taken_problem(self) -> Exception:
        problem, self._problem = self._problem, None
        assert problem is not None
        return problem

    def forget_encoded(self) -> None:
        """Let go of what was encoded: others have their turn before."""
        self._row = None

    def hand_over(self) -> None:
        """Let go of what was encoded for good: the run has it."""
        self._handed_over = True
        self._row = None

    @property
    def is_encoded(self) -> bool:
        """Whether `encode` has nothing to do."""
        return self._row is not None or self._problem is not None or self._handed_over

    @property
    def bytes(self) -> int:
        """Bytes of the images."""
        return sum(map(len, self.images))

    def goes_with(self, other: Job) -> bool:
        """Whether both may be rows of one batch: drawn answers may not, as rows share the generator."""
        return self is other or (
            self.model is other.model
            and self.settings == other.settings
            and self.settings.temperature == 0
            and self.logprobs == other.logprobs
            and len(self.images) == len(other.images)
        )
