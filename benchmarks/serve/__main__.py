"""Hold `moir-edge serve` to its bounds on one bundle: right answers under load, memory, speed, latency, hostile requests, and kills.

The server has a process of its own and one thread for the graphs. Its speed and latency are taken in turns with the
runtime's own loop, which runs in this process with one thread. Neither keeps features or prompts of earlier requests, but for a
second load with the caches that a server has by default. Every answer is compared with a single run.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    Check,
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    take_turns,
)
from benchmarks.serve.attacks import hostile_requests
from benchmarks.serve.cases import Answer, Case, mixed_cases
from benchmarks.serve.hostile import send
from benchmarks.serve.latency import first_words_ms, least_difference, median_difference
from benchmarks.serve.load import MEMORY_AT, answer_of, run_load
from benchmarks.serve.process import ServerProcess, ask
from benchmarks.serve.throughput import rates
from moir_edge import load
from moir_edge.progress import Progress

if TYPE_CHECKING:
    from moir_edge.runtime import EdgeModel

__all__ = ["BEGIN", "END", "main", "measure"]

BEGIN, END = "<!-- serve: begin -->", "<!-- serve: end -->"
_LARGE_CASES = 32
_ALIKE = {
    "short answers": {"max_tokens": 12, "router": "on"},
    "32 tokens each": {"max_tokens": 32, "router": "on", "ignore_eos": True},
}
_SERVER = ("--name", "demo", "--threads", "1")
_NOTHING_KEPT = ("--image-cache", "0", "--prompt-cache", "0")
_KEPT_MB = 64 + 256
"""What the two caches of a server take by default."""


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """One bundle, the cases, and the right answers."""

    bundle: Path
    model: EdgeModel
    cases: Sequence[Case]
    expected: Sequence[Answer]
    options: argparse.Namespace

    def server(self, queue: int, *arguments: str) -> ServerProcess:
        return self.keeping_server(queue, *_NOTHING_KEPT, *arguments)

    def keeping_server(self, queue: int, *arguments: str) -> ServerProcess:
        """Start a server with the caches that it has by default."""
        return ServerProcess(self.bundle, *_SERVER, "--queue", str(queue), *arguments)


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Run all parts.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    with tempfile.TemporaryDirectory() as folder:
        bench = _bench(options, Path(folder), progress)
        checks = [
            *_load(bench, progress),
            *_speed(bench, progress),
            *_batches(bench, progress),
            *_latency(bench, progress),
            *_full_queue(bench),
            *_hostile(bench, progress),
            *_killed(bench),
        ]
    checks.append(
        Check(name="processes that wanted a processor, of 1 minute", value=os.getloadavg()[0])
    )
    text = _table(checks)
    if options.docs is not None:
        replace_between(options.docs, BEGIN, END, text)
    return Result(text=text, record=[check.record() for check in checks], checks=checks)


def _bench(options: argparse.Namespace, folder: Path, progress: Progress) -> _Bench:
    bundle = options.bundle or _demo_bundle(folder)
    model = load(bundle, threads=1)
    cases = mixed_cases(options.requests)
    expected = []
    for done, case in enumerate(cases):
        progress("single runs", done, len(cases))
        expected.append(case.single(model))
    return _Bench(bundle=bundle, model=model, cases=cases, expected=expected, options=options)


def _demo_bundle(folder: Path) -> Path:
    from moir_edge.demo import checkpoint_path
    from moir_edge.export import ExportSettings, export_bundle

    return export_bundle(
        str(checkpoint_path()), folder / "bundle", ExportSettings(precision="int4")
    )


def _load(bench: _Bench, progress: Progress) -> list[Check]:
    total, clients = len(bench.cases), bench.options.clients
    checks, ends = [], []
    for server, note in (
        (bench.server, ""),
        (bench.keeping_server, ", earlier requests kept"),
    ):
        with server(clients) as running:
            found = run_load(
                running, bench.cases, clients, lambda done: progress("load", done, total)
            )
        wrong = sum(one != right for one, right in zip(found.answers, bench.expected, strict=True))
        lost = total - len(set(found.ids))
        early, late = found.memory_bytes
        ends.append(late / 1e6)
        growth = f"memory at the end over that at {MEMORY_AT}{note}"
        checks += [
            Check(name=f"wrong answers of {total:,}{note}", value=wrong, maximum=0),
            Check(name=f"answers lost or doubled{note}", value=lost, maximum=0),
            Check(name=growth, value=late / early, maximum=None if note else 1.05),
        ]
    bare, keeping = ends
    return [
        *checks,
        Check(name="memory at the end, MB", value=bare),
        Check(name="what keeping adds to it, MB", value=keeping - bare, maximum=_KEPT_MB),
    ]


def _speed(bench: _Bench, progress: Progress) -> list[Check]:
    """Measure the rate on the bundle, and on a large one with words alone where one is given."""
    large = bench.options.large
    found = _rate(bench, bench.cases[: bench.options.batch], progress, "")
    if large is None:
        return found
    words = [replace(case, images=()) for case in bench.cases[:_LARGE_CASES]]
    other = replace(bench, bundle=large, model=load(large, threads=1))
    return found + _rate(other, words, progress, ", large bundle")


def _rate(bench: _Bench, cases: Sequence[Case], progress: Progress, note: str) -> list[Check]:
    clients, rounds = bench.options.clients, bench.options.rounds
    with bench.server(clients) as server:
        found = rates(server, bench.model, cases, clients, rounds, progress)
    shares = [ours / own for ours, own in zip(found["http"], found["runtime"], strict=True)]
    return [
        Check(
            name=f"requests a second, the runtime's loop{note}",
            value=statistics.median(found["runtime"]),
        ),
        Check(
            name=f"requests a second over HTTP, of it{note}",
            value=statistics.median(shares),
            minimum=0.95,
        ),
    ]


def _batches(bench: _Bench, progress: Progress) -> list[Check]:
    """Answer requests of one kind one by one and in batches of up to 8, in turns."""
    checks = []
    with (
        bench.server(bench.options.clients) as single,
        bench.server(bench.options.clients, "--batch", "8") as together,
    ):
        for done, (name, settings) in enumerate(_ALIKE.items()):
            progress("batches", done, len(_ALIKE))
            checks += _batch(bench, single, together, name, settings)
    progress("batches", len(_ALIKE), len(_ALIKE))
    return checks


def _batch(
    bench: _Bench,
    single: ServerProcess,
    together: ServerProcess,
    name: str,
    settings: dict[str, Any],
) -> list[Check]:
    alike = [replace(case, images=case.images[:1], settings=settings) for case in bench.cases]
    cases = [case for case in alike if case.images][: bench.options.batch]
    loads = take_turns(
        {
            "single": lambda: run_load(single, cases, bench.options.clients),
            "together": lambda: run_load(together, cases, bench.options.clients),
        },
        rounds=bench.options.rounds,
        warm_up=1,
    )
    pairs = list(zip(loads["single"], loads["together"], strict=True))
    answers = [zip(own.answers, ours.answers, strict=True) for own, ours in pairs]
    changed = sum(one != other for found in answers for one, other in found)
    share = statistics.median(own.seconds / ours.seconds for own, ours in pairs)
    return [
        Check(name=f"requests a second with --batch 8, {name}, of those without", value=share),
        Check(name=f"of {len(cases) * len(pairs)} such answers, changed by it", value=changed),
    ]


def _latency(bench: _Bench, progress: Progress) -> list[Check]:
    settings = {"max_tokens": 4, "router": "on"}
    picture = next(case for case in bench.cases if case.images)
    case = replace(picture, images=picture.images[:1], stream=True, settings=settings)
    progress("latency", 0, 1)
    with bench.server(1) as server:
        samples = first_words_ms(server, bench.model, case, bench.options.repeats)
    progress("latency", 1, 1)
    own = statistics.median(samples["runtime"])
    return [
        Check(name="first words by the runtime, ms", value=own),
        Check(
            name="HTTP adds to it in the median, ms", value=median_difference(samples), maximum=3
        ),
        Check(name="HTTP adds to it in the fastest tenth, ms", value=least_difference(samples)),
    ]


def _full_queue(bench: _Bench) -> list[Check]:
    """Fill a queue of one place: whoever comes third is sent away."""
    long = {**bench.cases[0].body, "stream": False, "ignore_eos": True, "max_tokens": 100_000}
    long.pop("stream_options", None)
    with bench.server(0) as server:

        def status(_: int) -> int:
            connection = server.connect()
            try:
                return ask(connection, long).status
            finally:
                connection.close()

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(status, range(8)))
    away = found.count(429)
    return [
        Check(name="of 8 at once without a queue, sent away with 429", value=away, minimum=1),
        Check(
            name="and otherwise than with 200 or 429", value=8 - away - found.count(200), maximum=0
        ),
    ]


def _hostile(bench: _Bench, progress: Progress) -> list[Check]:
    attacks = hostile_requests(bench.options.hostile)
    odd, seconds, wrong = 0, [0.0], 0
    with bench.server(4) as server:
        connection = server.connect()
        for done, attack in enumerate(attacks):
            progress("hostile", done, len(attacks))
            found = send(server, attack)
            odd += not 400 <= found.status < 500
            seconds.append(found.seconds)
            at = done % len(bench.cases)
            wrong += answer_of(connection, bench.cases[at])[1] != bench.expected[at]
        connection.close()
        told = server.errors
    return [
        Check(
            name=f"of {len(attacks)} hostile requests, not answered with 4xx", value=odd, maximum=0
        ),
        Check(name="slowest of them, s", value=max(seconds), maximum=1),
        Check(name="wrong answers to the good requests between", value=wrong, maximum=0),
        Check(name="lines on standard error", value=len(told.splitlines()), maximum=0),
    ]


def _killed(bench: _Bench) -> list[Check]:
    """Kill a server that answers, start it again, and ask the same."""
    wrong = 0
    for _ in range(2):
        server = bench.server(4)
        connection = server.connect()
        wrong += answer_of(connection, bench.cases[0])[1] != bench.expected[0]
        connection.request("GET", "/health")  # in flight when it dies
        server.end(signal.SIGKILL)
        connection.close()
    return [Check(name="wrong answers around kill -9 and a new start", value=wrong, maximum=0)]


def _table(checks: Sequence[Check]) -> str:
    head = ("what", "measured", "bound")
    return markdown_table(head, [_row(check) for check in checks], right=(1, 2))


def _row(check: Check) -> list[str]:
    bound = "" if check.minimum is None else f"≥ {check.minimum:g}"
    bound = bound if check.maximum is None else f"≤ {check.maximum:g}"
    return [check.name, "–" if check.value is None else f"{check.value:.4g}", bound]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("serve", __doc__)
    parser.add_argument(
        "bundle", nargs="?", type=Path, help="bundle folder; by default the demo in int4"
    )
    parser.add_argument(
        "--large", type=Path, metavar="BUNDLE", help="measure the speed on this one too"
    )
    counts: dict[str, tuple[int, str]] = {
        "--requests": (1000, "requests of the load"),
        "--clients": (16, "clients at a time"),
        "--hostile": (300, "hostile requests"),
        "--batch": (200, "requests of one round of the speed"),
        "--rounds": (5, "rounds of the speed"),
        "--repeats": (200, "times of the latency"),
    }
    for flag, (default, text) in counts.items():
        add_count(parser, flag, default, text)
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the table into a page")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
