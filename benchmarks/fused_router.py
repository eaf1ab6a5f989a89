"""Latency of the fused token router against what it replaces, on a GPU.

Every case is one prompt of N image and M text tokens of width D, routed in both directions. All candidates take turns, call by
call, another one beginning each round; before every call the second-level cache is flushed. The file keeps every sample.
The physical limit of a call is `bytes / bandwidth` (`moir_edge.router.fused.traffic` has the formula), with the bandwidth that a
large copy reaches on the same GPU. Without a GPU the command says why it measures nothing and exits with 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.common import Check, Result, add_count, new_parser, run, take_turns
from benchmarks.fused_cases import CASES, TARGET_CASE, Case
from moir_edge.environment import missing_package
from moir_edge.progress import Progress
from moir_edge.router.fused import router_traffic

__all__ = ["case_record", "checks_of", "main", "measure", "why_no_gpu"]

MAX_TARGET_MS = 0.1
MAX_PREFILL_PERCENT = 1.0
RANK = 32
ROUNDS = 50
WARM_UP = 5
ELEMENT_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


def why_no_gpu() -> str | None:
    """Return why nothing can be measured here; None where there is a GPU with triton."""
    for name in ("torch", "triton"):
        if importlib.util.find_spec(name) is None:
            return missing_package(name)
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    return None


def case_record(
    case: Case,
    samples: Mapping[str, Sequence[float]],
    agreement: Mapping[str, float],
    *,
    dtype: str,
    bytes_per_second: float,
) -> dict[str, Any]:
    """Return what the file says about one case.

    Args:
        case: The size.
        samples: Candidate to its times in ms.
        agreement: How the fused result compares with torch's.
        dtype: Of the embeddings.
        bytes_per_second: Bandwidth of the GPU's memory.
    """
    traffic = router_traffic(**asdict(case), rank=RANK, element_bytes=ELEMENT_BYTES[dtype])
    limit = traffic.limit_ms(bytes_per_second)
    medians = {name: median(values) for name, values in samples.items()}
    return {
        **asdict(case),
        "least_bytes": traffic.least_bytes,
        "moved_bytes": traffic.moved_bytes,
        "limit_ms": limit,
        "median_ms": medians,
        "share_of_limit_percent": {name: 100 * limit / value for name, value in medians.items()},
        "agreement": dict(agreement),
        "samples_ms": {name: list(values) for name, values in samples.items()},
    }


def checks_of(records: Sequence[Mapping[str, Any]], prefill_ms: Sequence[float]) -> Iterator[Check]:
    """Yield the checks of the size that the targets name; none if it was not measured.

    Args:
        records: From `case_record`.
        prefill_ms: Samples of the prefill that the router is measured by.
    """
    target = asdict(TARGET_CASE)
    for record in records:
        if any(record[name] != value for name, value in target.items()):
            continue
        fused = record["median_ms"]["fused, CUDA graph"]
        yield Check(name=f"fused router at {TARGET_CASE}, ms", value=fused, maximum=MAX_TARGET_MS)
        yield Check(
            name="fused router, % of the prefill of a 2B model",
            value=100 * fused / median(prefill_ms),
            maximum=MAX_PREFILL_PERCENT,
        )


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Time every case, or say why nothing can be timed here.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    if reason := why_no_gpu():
        return Result(text=f"skipped: the fused router was not measured: {reason}")
    from benchmarks import fused_candidates as gpu

    cases = (TARGET_CASE,) if options.target_only else CASES
    bandwidth = gpu.copy_bandwidth()
    records = []
    for at, case in enumerate(cases):
        progress("cases", at, len(cases))
        candidates, agreement = gpu.candidates(case, dtype=options.dtype, rank=RANK)
        samples = take_turns(candidates, rounds=options.rounds, warm_up=WARM_UP)
        records.append(
            case_record(
                case, samples, agreement, dtype=options.dtype, bytes_per_second=max(bandwidth)
            )
        )
    progress("cases", len(cases), len(cases))
    tokens = TARGET_CASE.image_tokens + TARGET_CASE.text_tokens
    prefill = gpu.prefill_ms(tokens, dtype=options.dtype) if TARGET_CASE in cases else []
    checks = tuple(checks_of(records, prefill))
    record = {
        "machine": gpu.machine(),
        "dtype": options.dtype,
        "copy_bytes_per_second": bandwidth,
        "prefill_ms": prefill,
        "cases": records,
        "checks": [check.record() for check in checks],
    }
    lines = [_line(case, one) for case, one in zip(cases, records, strict=True)]
    return Result(text="\n".join(lines), record=record, checks=checks)


def _line(case: Case, record: Mapping[str, Any]) -> str:
    figures = ", ".join(
        f"{name} {value:.3f} ms ({record['share_of_limit_percent'][name]:.0f} % of the limit)"
        for name, value in record["median_ms"].items()
    )
    return f"{case}: limit {record['limit_ms']:.4f} ms; {figures}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; without a GPU it is 0.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("fused_router", __doc__)
    parser.add_argument("--dtype", choices=sorted(ELEMENT_BYTES), default="fp16")
    add_count(parser, "--rounds", ROUNDS, "calls of each candidate")
    parser.add_argument(
        "--target-only", action="store_true", help=f"measure {TARGET_CASE} and no other size"
    )
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
