"""One quantizer at work, in a process of its own, which `benchmarks.peers.quantizers` starts; prints figures as JSON."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy.typing as npt

from benchmarks.common import new_parser
from benchmarks.peers.quantizer_feeds import COMPONENTS, read_feeds
from moir_edge.finite import json_text
from moir_edge.runtime.timing import peak_memory_bytes, reset_peak_memory

Work = Callable[[], None]


class FeedReader:
    """Gives feeds one at a time, as `onnxruntime.quantization.CalibrationDataReader` does."""

    def __init__(self, folder: Path, component: str) -> None:
        self._source = (folder, component)
        self._feeds: Iterator[dict[str, npt.NDArray[Any]]] = read_feeds(*self._source)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next feed, or None after the last."""
        return next(self._feeds, None)

    def get_first(self) -> dict[str, npt.NDArray[Any]]:
        """Return the first feed, whatever was given so far; modelopt asks for it."""
        return next(read_feeds(*self._source))

    def rewind(self) -> None:
        """Begin again."""
        self._feeds = read_feeds(*self._source)


def prepare_ours(bundle: Path, data: Path, output: Path, kept: Mapping[str, Sequence[str]]) -> Work:
    """Return the work of moir-edge: calibrate both components in one pass, quantize, write."""
    import onnx_ir as ir

    from moir_edge.bundle import open_bundle
    from moir_edge.calibration import CalibrationSettings
    from moir_edge.calibration.layers import LayerOptions, quantize_layers
    from moir_edge.calibration.preparation import calibrate
    from moir_edge.graphs.writing import write_graphs

    del kept

    def work() -> None:
        opened = open_bundle(bundle, verify=False)
        graphs = {
            name: ir.load(bundle / part.graph) for name, part in opened.manifest.components.items()
        }
        settings = CalibrationSettings(data=data, rows=10**9)
        found = calibrate(graphs, opened.manifest.model, bundle, settings, components=COMPONENTS)
        left = {}
        for name in COMPONENTS:
            summary = quantize_layers(
                found.graphs[name],
                "int8",
                options=LayerOptions(signed=False),
                observers=found.observers[name],
                smoothing=found.smoothing[name],
            )
            quantized = {one.node for one in summary.weights if one.activation is not None}
            left[name] = sorted(_products(graphs[name]) - quantized)
        write_graphs({name: found.graphs[name] for name in COMPONENTS}, output)
        (output / "kept.json").write_text(json_text(left))

    return work


def _products(model: Any) -> set[str]:
    """Return the names of the nodes that multiply matrices."""
    return {node.name for node in model.graph if node.op_type in ("MatMul", "Gemm")}


def prepare_onnxruntime(
    bundle: Path, data: Path, output: Path, kept: Mapping[str, Sequence[str]]
) -> Work:
    """Return the work of ONNX Runtime's quantizer: its shape inference, then QDQ by MinMax, uint8 × int8 per channel."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    graphs = _copied(bundle, output)

    def work() -> None:
        for name in COMPONENTS:
            inferred = output / f"inferred-{name}.onnx"
            quant_pre_process(str(graphs / f"{name}.onnx"), str(inferred), skip_symbolic_shape=True)
            quantize_static(
                str(inferred),
                str(output / f"{name}.onnx"),
                FeedReader(data.parent / "feeds", name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(kept.get(name, ())),
                calibrate_method=CalibrationMethod.MinMax,
            )

    return work


def prepare_modelopt(
    bundle: Path, data: Path, output: Path, kept: Mapping[str, Sequence[str]]
) -> Work:
    """Return the work of nvidia-modelopt's ONNX quantizer with its defaults, but for the float type, which stays fp32."""
    from modelopt.onnx.quantization import quantize

    graphs = _copied(bundle, output)

    def work() -> None:
        for name in COMPONENTS:
            quantize(
                str(graphs / f"{name}.onnx"),
                quantize_mode="int8",
                calibration_data_reader=FeedReader(data.parent / "feeds", name),
                calibration_eps=["cpu"],
                high_precision_dtype="fp32",
                nodes_to_exclude=[f"^{re.escape(node)}$" for node in kept.get(name, ())],
                opset=21,
                output_path=str(output / f"{name}.onnx"),
                log_level="ERROR",
            )

    return work


def _copied(bundle: Path, output: Path) -> Path:
    """Return a folder with the float graphs, weights inside: the peers lose track of outside ones, or rewrite the graph."""
    import onnx

    folder = output / "fp32"
    folder.mkdir()
    for name in COMPONENTS:
        onnx.save(onnx.load(bundle / f"{name}.onnx"), folder / f"{name}.onnx")
    return folder


METHODS = {
    "moir-edge": (prepare_ours, "onnxruntime"),
    "onnxruntime": (prepare_onnxruntime, "onnxruntime"),
    "modelopt": (prepare_modelopt, "nvidia-modelopt"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Import, then measure the work, and print the figures as JSON.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("peers.quantizer_worker", __doc__, writes_json=False)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("bundle", type=Path, help="float32 bundle")
    parser.add_argument("data", type=Path, help="calibration rows")
    parser.add_argument("folder", type=Path, help="takes the graphs")
    parser.add_argument("kept", type=Path, nargs="?", help="nodes to leave alone, by component")
    options = parser.parse_args(arguments)
    kept = {} if options.kept is None else json.loads(options.kept.read_text())
    # One core for each: thread pools would measure what else the machine does.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    prepare, package = METHODS[options.method]
    work = prepare(options.bundle, options.data, options.folder, kept)
    reset_peak_memory()
    before, start, cpu = peak_memory_bytes(), time.perf_counter(), time.process_time()
    work()
    figures = {
        "package": f"{package} {version(package)}",
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_memory_bytes": peak_memory_bytes(),
        "work_memory_bytes": peak_memory_bytes() - before,
    }
    sys.stdout.write(json_text(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
