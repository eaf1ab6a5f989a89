"""Measure what keys and values in int8 would save: ONNX Runtime's GroupQueryAttention on a cache in float32 and in int8.

The layer has the geometry of SmolVLM-256M: 9 heads, 3 of keys and values, 64 numbers each. Keys and values are noise, and each of
their channels has its own scale, from its largest value. Both layers read the same numbers in turns, one thread each, and the time is
the processor's. The difference is that of the outputs over their own size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from benchmarks.common import (
    Result,
    add_count,
    markdown_table,
    new_parser,
    replace_between,
    run,
    take_turns,
)
from moir_edge.progress import Progress

__all__ = ["CASES", "Case", "Layer", "main", "measure"]

MARKS = ("<!-- int8 cache: begin -->", "<!-- int8 cache: end -->")
_HEADS, _KV_HEADS, _WIDTH = 9, 3, 64
_CONTRIB = "com.microsoft"
_SCALES = ("k_scale", "v_scale")


@dataclass(frozen=True)
class Case:
    """A run of the layer: how many tokens it reads, and how many of them are new."""

    context: int
    new: int

    @property
    def name(self) -> str:
        """Return what the table calls the run."""
        return "a token" if self.new == 1 else "the whole prompt"


CASES = (Case(92, 1), Case(1000, 1), Case(4000, 1), Case(1000, 1000))


class Layer:
    """One layer of attention whose cache is written in place.

    Args:
        case: What it reads.
        int8: Whether keys and values are stored in int8.
        seed: Of the numbers, equal for both kinds of cache.
    """

    def __init__(self, case: Case, *, int8: bool, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        past = draw.normal(size=(2, 1, _KV_HEADS, case.context, _WIDTH)).astype(np.float32)
        query = draw.normal(size=(1, case.new, _HEADS * _WIDTH)).astype(np.float32)
        fresh = draw.normal(size=(2, 1, case.new, _KV_HEADS * _WIDTH)).astype(np.float32)
        scales = None
        if int8:
            # Over the tokens of the cache and the new ones, whose channels lie behind each other.
            new = fresh.reshape(2, case.new, _KV_HEADS, _WIDTH).transpose(0, 2, 1, 3)
            most = np.maximum(np.abs(past[:, 0]).max(axis=2), np.abs(new).max(axis=2))
            scales = (most / 127).reshape(2, -1).astype(np.float32)
            past = np.rint(past / (most / 127)[:, None, :, None]).clip(-127, 127).astype(np.int8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            _model(scales).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        place = onnxruntime.OrtValue.ortvalue_from_numpy
        self._binding = self._session.io_binding()
        known = {
            "query": query,
            "key": fresh[0],
            "value": fresh[1],
            "seqlens_k": np.array([case.context - 1], np.int32),
            "total": np.array(case.context, np.int32),
        }
        for name, array in known.items():
            self._binding.bind_ortvalue_input(name, place(array))
        for name, array in zip(("key", "value"), past, strict=True):
            window = place(np.ascontiguousarray(array))
            self._binding.bind_ortvalue_input(f"past_{name}", window)
            self._binding.bind_ortvalue_output(f"present_{name}", window)
        self._binding.bind_output("output")
        self.bytes = past.nbytes

    def __call__(self) -> float:
        """Run once and return the processor's time in milliseconds."""
        start = time.process_time()
        self._session.run_with_iobinding(self._binding)
        return (time.process_time() - start) * 1000

    def output(self) -> Any:
        """Return (1, new tokens, width) of the last run."""
        return self._binding.get_outputs()[-1].numpy()


def _model(scales: Any) -> onnx.ModelProto:
    """Return the layer, with int8 keys and values where there are scales (2, channels)."""
    stored = TensorProto.FLOAT if scales is None else TensorProto.INT8
    inner = _KV_HEADS * _WIDTH
    cache: list[int | str | None] = [1, _KV_HEADS, "window", _WIDTH]
    value = helper.make_tensor_value_info
    inputs = [
        value("query", TensorProto.FLOAT, [1, "new", _HEADS * _WIDTH]),
        value("key", TensorProto.FLOAT, [1, "new", inner]),
        value("value", TensorProto.FLOAT, [1, "new", inner]),
        value("past_key", stored, cache),
        value("past_value", stored, cache),
        value("seqlens_k", TensorProto.INT32, [1]),
        value("total", TensorProto.INT32, []),
    ]
    outputs = [
        value("output", TensorProto.FLOAT, [1, "new", _HEADS * _WIDTH]),
        value("present_key", stored, cache),
        value("present_value", stored, cache),
    ]
    names = [one.name for one in inputs]
    weights: list[Any] = []
    more: dict[str, Any] = {}
    if scales is not None:
        weights = [
            helper.make_tensor(name, TensorProto.FLOAT, [inner], one)
            for name, one in zip(_SCALES, scales, strict=True)
        ]
        names += [""] * 5 + list(_SCALES)
        more = {
            "k_quant_type": "PER_CHANNEL",
            "v_quant_type": "PER_CHANNEL",
            "kv_cache_bit_width": 8,
        }
    node = helper.make_node(
        "GroupQueryAttention",
        names,
        [one.name for one in outputs],
        domain=_CONTRIB,
        num_heads=_HEADS,
        kv_num_heads=_KV_HEADS,
        **more,
    )
    graph = helper.make_graph([node], "layer", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(_CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def measure(options: argparse.Namespace, progress: Progress) -> Result:
    """Time both kinds of cache in turns.

    Args:
        options: Of the command line.
        progress: Called as ``progress(stage, done, total)``.
    """
    records = []
    for done, case in enumerate(CASES):
        progress("cases", done, len(CASES))
        records.append(
            _measured(case, options.rounds if case.new == 1 else max(3, options.rounds // 40))
        )
    progress("cases", len(CASES), len(CASES))
    text = f"ONNX Runtime {onnxruntime.__version__}, one layer:\n\n{_table(records)}"
    if options.write is not None:
        replace_between(options.write, *MARKS, text)
    return Result(text=text, record={"onnxruntime": onnxruntime.__version__, "cases": records})


def _measured(case: Case, rounds: int) -> dict[str, Any]:
    layers = {name: Layer(case, int8=name == "int8") for name in ("float32", "int8")}
    calls: dict[str, Callable[[], float]] = {name: partial(one) for name, one in layers.items()}
    samples = take_turns(calls, rounds=rounds, warm_up=2)
    exact, rounded = (one.output() for one in layers.values())
    return {
        "context": case.context,
        "new": case.new,
        "name": case.name,
        "bytes": {name: one.bytes for name, one in layers.items()},
        "cpu_ms": samples,
        "difference": float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact)),
    }


def _table(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for one in records:
        plain, small = (median(one["cpu_ms"][name]) for name in ("float32", "int8"))
        sizes = one["bytes"]
        rows.append(
            (
                f"{one['name']}, {one['context']:,} in all",
                f"{sizes['float32'] / 1e6:.2f} MB",
                f"{sizes['int8'] / 1e6:.2f} MB",
                f"{plain:.3f} ms",
                f"{small:.3f} ms ({small / plain:.2f}×)",
                f"{one['difference']:.1%}",
            )
        )
    head = ("run", "cache, float32", "int8", "CPU time, float32", "int8", "difference")
    return markdown_table(head, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("int8_cache", __doc__)
    add_count(parser, "--rounds", 200, "turns of a token; a prompt gets a fortieth")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into a page")
    return run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
