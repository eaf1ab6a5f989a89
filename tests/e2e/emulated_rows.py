"""Answer rows with bundles, and keep every number on the way: run alike on this machine and on the emulated one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from moir_edge import load
from moir_edge.evaluation.candidates.components import run_components
from moir_edge.runtime import EdgeModel
from moir_edge.targets import _FUSED, session_config
from moir_edge.threads import session_options

ACCURACY = "session.qdq_matmulnbits_accuracy_level"
STEPS = 4


def answer(bundle: Path, rows: list[dict[str, Any]], *, exact: bool) -> dict[str, np.ndarray]:
    """Return greedy tokens, and the numbers of each component, by row.

    Args:
        bundle: A bundle.
        rows: Images and prompts.
        exact: Multiply packed weights with float32 activations; 8-bit activations are rounded differently by each core.
    """
    before = dict(_FUSED)
    if exact:
        _FUSED[ACCURACY] = "1"
    try:
        model = load(bundle, threads=1, provider="cpu", verify=False)
    finally:
        _FUSED.update(before)
    found: dict[str, np.ndarray] = {}
    for at, row in enumerate(rows):
        inputs = model.encode(row["prompt"], row["images"], context=row["context"])
        run = run_components(model, inputs, None, STEPS)
        assert run.routing is not None
        found[f"features-{at}"] = np.asarray(run.image_features)
        found[f"indices-{at}"] = run.routing.indices[0]
        found[f"logits-{at}"] = run.logits
        found[f"tokens-{at}"] = run.tokens
    return found | {"answer": answered(model, rows[0])}


def answered(model: EdgeModel, row: dict[str, Any]) -> np.ndarray:
    """Return the tokens that the public way gives."""
    done = model.generate(row["prompt"], row["images"], context=row["context"], max_new_tokens=8)
    return np.array(done.token_ids[0])


def product(graph: Path, rows: np.ndarray) -> np.ndarray:
    """Return what a graph of one int4 product gives, under the settings of a decoder in int4."""
    import onnxruntime

    options = session_options(1)
    for key, value in session_config("decoder", "int4", onnxruntime.__version__).items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": rows})[0])


def main(job: Path, output: Path, kind: str) -> None:
    """Answer with every bundle as it is shipped, or with exact products; float32 ones are exact as they are shipped."""
    wanted = json.loads(job.read_text())
    exact = kind == "exact"
    for name in wanted["bundles"]:
        if exact and name == "bundle-fp32":
            continue
        found = answer(Path(wanted["folder"]) / name, wanted["rows"], exact=exact)
        np.savez(output / f"{name}-{kind}.npz", **found)  # type: ignore[arg-type]
    if not exact:
        folder = job.parent
        rows = np.load(folder / "rows.npy")
        np.save(output / "product.npy", product(folder / "product.onnx", rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
