"""CPU time of a training step with each balance method, over that of a plain step.

Each method trains the demo's model with a fresh token router of both directions. All take turns step by step on the same rows, and
the median over the rounds counts. The optimiser's own step is left out: it is the same for all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Result, add_count, markdown_table, new_parser, run
from moir_edge.progress import Progress, silent

__all__ = ["PLAIN", "main", "measure"]

PLAIN = "none"


def measure(rounds: int, batch_size: int, progress: Progress) -> dict[str, list[float]]:
    """Return the CPU seconds of each step by method, `PLAIN` first.

    Args:
        rounds: Steps of each method; one more comes first and is not counted.
        batch_size: Rows of a step.
        progress: Called after every round.
    """
    from moir_edge.data.rows import read_rows
    from moir_edge.demo import demo_rows, write_jsonl
    from moir_edge.tuning import BALANCE_METHODS
    from moir_edge.tuning.data import as_they_are

    seconds: dict[str, list[float]] = {name: [] for name in (PLAIN, *BALANCE_METHODS)}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        rows = as_they_are(read_rows(write_jsonl(demo_rows("val", count=batch_size), folder)))
        steps = {name: _step(name, rows, folder, stack) for name in seconds}
        for at in range(rounds + 1):
            for name, step in steps.items():
                start = time.process_time()
                step()
                if at > 0:
                    seconds[name].append(time.process_time() - start)
            progress("rounds", at, rounds)
    return seconds


def _step(name: str, rows: Sequence[Any], folder: Path, stack: ExitStack) -> Callable[[], None]:
    """Return what makes a step with a method: forward passes, losses, backward passes and changes of gradients."""
    import torch

    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.demo import checkpoint_path
    from moir_edge.export.attention import attention_implementation
    from moir_edge.router import RouterConfig, remove_router, retrofit
    from moir_edge.tuning import TuneSettings
    from moir_edge.tuning.adapters import train_only
    from moir_edge.tuning.balancing.build import balance_method, balance_objectives
    from moir_edge.tuning.data import AnswerBatches, RowSet
    from moir_edge.tuning.objectives import attached
    from moir_edge.tuning.trainer import build_trainer

    loaded = load_checkpoint(checkpoint_path(), exported=False)
    model: Any = loaded.model
    remove_router(model)
    torch.manual_seed(0)
    retrofit(model, RouterConfig(ratio=1.0, merge="concat", rank=16), tokenizer=loaded.tokenizer)
    train_only(model, "router")
    method = None if name == PLAIN else name
    balance, objectives = balance_method(method, model), balance_objectives(method)
    stack.enter_context(attached(objectives, model))
    stack.enter_context(attention_implementation(model, "eager"))
    trainer: Any = build_trainer(
        model,
        TuneSettings(steps=1000, batch_size=len(rows), balance_method=method),
        batches=AnswerBatches(loaded.processor, frozenset(loaded.end_ids)),
        train=RowSet(rows),
        evaluation=None,
        training=folder / name,
        balance=balance,
        objectives=objectives,
        progress=silent,
    )
    trainer.create_optimizer_and_scheduler(1000)
    batch = trainer.data_collator(rows)
    model.train()

    def step() -> None:
        model.zero_grad()
        trainer.compute_loss(model, dict(batch)).backward()
        if balance is not None:
            balance.after_backward()

    return step


def _run(options: argparse.Namespace, progress: Progress) -> Result:
    seconds = measure(options.rounds, options.batch_size, progress)
    plain = median(seconds[PLAIN])
    medians = {name: median(values) for name, values in seconds.items()}
    text = markdown_table(
        ("method", "CPU seconds a step", "over a plain step"),
        [(name, f"{value:.2f}", f"{value / plain:.2f}") for name, value in medians.items()],
    )
    return Result(text=text, record={"batch_size": options.batch_size, "seconds": seconds})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and return the exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("balance_methods", __doc__)
    add_count(parser, "--rounds", 10, "steps of each method")
    add_count(parser, "--batch-size", 16, "rows of a step")
    return run(parser, _run, arguments)


if __name__ == "__main__":
    sys.exit(main())
