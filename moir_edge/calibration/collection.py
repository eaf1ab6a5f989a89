"""Run a traced model over calibration rows and gather statistics of its activations; resumable, in bounded memory.

Statistics of all layers of a large model take more memory than its weights. Layers are therefore watched group by group,
with a pass over the rows for each group, and what a group gave lies on disk until its layers are quantized. A pass runs the
layers of its group alone, on what the pass before left of each row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from moir_edge.bundle.manifest import ModelFacts
from moir_edge.calibration.cut_graphs import CutGraphs
from moir_edge.calibration.groups import Observers, group_observers
from moir_edge.calibration.narrow_storage import store_narrow
from moir_edge.calibration.passes import RowPasses
from moir_edge.calibration.rows import CalibrationRows
from moir_edge.calibration.taps import add_taps, find_activations
from moir_edge.errors import DataError
from moir_edge.graphs.writing import written_graphs
from moir_edge.limits import PREPACKED_BYTES
from moir_edge.progress import Progress, silent
from moir_edge.temporary import TemporaryFolder

__all__ = ["collect"]


def collect(
    graphs: Mapping[str, ir.Model],
    facts: ModelFacts,
    rows: CalibrationRows,
    *,
    components: Mapping[str, bool],
    decode_steps: int,
    cache: Path | None = None,
    stage: str = "calibrate",
    progress: Progress = silent,
) -> Observers:
    """Run every row through the whole chain, prompt and a few tokens, and watch the named components.

    Args:
        graphs: Float graphs of all components.
        facts: The model's facts.
        rows: The data; read to its end.
        components: Those to watch; True to gather Σ x xᵀ too.
        decode_steps: Greedy tokens after each prompt.
        cache: Folder for the state, saved every 32 rows and at the end, and taken up from there; None saves nothing.
        stage: Name of the work, for the progress.
        progress: Called as ``progress(stage, done, total)``, with the rows of every pass counted.

    Returns:
        Statistics by component and activation.

    Raises:
        DataError: No row can be used, they change from pass to pass, the saved state is of other rows, or an activation
            is not finite.
    """
    groups = group_observers(graphs, components)
    found: Observers = {name: {} for name in components}
    is_large = sum(map(_weight_bytes, graphs.values())) > PREPACKED_BYTES
    with written_graphs(_tapped(graphs, components, is_large)) as folder:
        cut = CutGraphs(folder, groups, facts) if len(groups) > 1 else None
        passes = RowPasses(folder, facts, tuple(graphs), decode_steps, cache, is_large, cut)
        aside = TemporaryFolder() if len(groups) > 1 else None
        for at, group in enumerate(groups):
            if cut is not None:
                cut.choose(at)
            own = rows if at == 0 else rows.again()
            for done in passes.watch(group, own):
                progress(stage, at * rows.limit + done, len(groups) * rows.limit)
            if (own.count, own.sha256) != (rows.count, rows.sha256):
                raise DataError(f"{rows.path} changed while it was read; calibrate again")
            _take_over(found, group, aside)
    if rows.count < rows.limit:  # fewer rows than asked for: the stage ends here
        progress(stage, len(groups) * rows.count, len(groups) * rows.count)
    return found


def _tapped(
    graphs: Mapping[str, ir.Model], components: Mapping[str, bool], is_large: bool
) -> dict[str, ir.Model]:
    """Return copies of the graphs, the watched ones with taps, large ones with the checkpoint's own narrow weights."""
    copies = {
        name: add_taps(model, find_activations(model.graph) if name in components else ())
        for name, model in graphs.items()
    }
    for model in copies.values():
        if is_large:
            store_narrow(model, None)
    return copies


def _weight_bytes(model: ir.Model) -> int:
    """Return the bytes of a graph's constants."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _take_over(found: Observers, group: Observers, aside: TemporaryFolder | None) -> None:
    """Add a group's observers to those of all, with their largest part on disk where there are several groups."""
    for component, observers in group.items():
        found[component] |= observers
        for observer in observers.values():
            if aside is not None:
                observer.put_aside(aside)
