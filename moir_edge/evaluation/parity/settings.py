"""Settings of `bench`, validated before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from moir_edge.arguments import check_fields, given, instance
from moir_edge.data.formats import DataSource, as_source
from moir_edge.errors import DataError
from moir_edge.evaluation.parity.gates import BenchBounds
from moir_edge.evaluation.settings import check_providers, check_pruning, require_at_least
from moir_edge.runtime.pruning import DENSITY

__all__ = ["BenchSettings"]


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """Settings of one run.

    Attributes:
        bundles: Bundle folders, the first being what the others are timed against.
        providers: What to run each of them on, by the runtime's names; none takes the runtime's own choice, and with
            `parity` the engines of bundles that hold some.
        prune_image_tokens: Shares of the image tokens to drop: each bundle with each share, the first being what the others
            are timed against. Not with `parity`.
        prune_by: How those tokens are chosen, as in `moir_edge.load`.
        data: Rows to use; None makes prompts of `prompt_words` and `images`.
        limit: Use the first rows of the data only; None for all.
        timed_rows: Rows of the data that are timed, spread over the tasks.
        prompt_words: Lengths of the prompts that are made.
        images: Images of each of them; 0 for none.
        repeats: Rounds over the timed rows.
        max_new_tokens: Longest answer, in tokens.
        decode_steps: Decoder steps that parity looks at after each prompt.
        threads: Threads of one operation; None takes every core of this process.
        seed: Of the prompts that are made and of the bootstrap.
        parity: Compare numbers and times.
        reference: Checkpoint or bundle that numbers are compared with; None takes the first fp32 bundle.
        allow_other: Take bundles, and a reference, of different models; the report says so at the top.
        bounds: Gates.

    Raises:
        DataError: A number is out of range, bounds on numbers are given without `parity`, or tokens are dropped with it.
        UnsupportedError: An unknown provider or selector.
    """

    bundles: tuple[Path, ...]
    providers: tuple[str, ...] = ()
    prune_image_tokens: tuple[float, ...] = ()
    prune_by: str = DENSITY
    data: DataSource | None = None
    limit: int | None = None
    timed_rows: int = 10
    prompt_words: tuple[int, ...] = (8, 48)
    images: int = 1
    repeats: int = 10
    max_new_tokens: int = 16
    decode_steps: int = 4
    threads: int | None = None
    seed: int = 0
    parity: bool = False
    reference: str | None = None
    allow_other: bool = False
    bounds: BenchBounds = field(default_factory=BenchBounds)

    def __post_init__(self) -> None:
        check_fields(self)
        given("bounds", instance("bounds", self.bounds, BenchBounds))
        if self.data is not None:
            object.__setattr__(self, "data", as_source(self.data))
        self._check_numbers()
        check_providers(self.providers)
        check_pruning(self.prune_image_tokens, self.prune_by)
        if self.parity and self.prune_image_tokens:
            raise DataError(
                "`prune_image_tokens` changes what the decoder reads, which `parity=True` holds against a reference; leave one out"
            )
        if not self.parity and (self.bounds.asks_for_parity or self.reference):
            raise DataError(
                "a reference, or bounds on parity, given without parity; add `parity=True`"
            )

    def _check_numbers(self) -> None:
        if not self.bundles:
            raise DataError("no bundle given; name at least one")
        if not self.prompt_words:
            raise DataError("no prompt length given; name at least one")
        names = ("timed_rows", "repeats", "max_new_tokens", "limit", "threads", "prompt_words")
        require_at_least(self, 1, names)
        require_at_least(self, 0, ("images", "decode_steps"))
