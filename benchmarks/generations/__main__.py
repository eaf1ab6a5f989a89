"""Compare bundles with transformers token for token, over checkpoints, generation configs, prompts and odd pictures.

Makes tiny checkpoints, exports them in fp32 and prints one table; the exit code is 1 where any answer differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import Result, add_count, markdown_table, new_parser, run
from benchmarks.generations.cases import SETTINGS, cases, write_pictures
from benchmarks.generations.checkpoints import CHECKPOINTS, build
from benchmarks.generations.run import Outcome, Twins
from moir_edge.progress import Progress

__all__ = ["main", "measure"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, 1 where any answer differs.

    Args:
        arguments: The words after the command; those of the process by default.
    """
    parser = new_parser("generations", __doc__)
    parser.add_argument("--checkpoints", nargs="+", choices=CHECKPOINTS, default=_exportable())
    add_count(parser, "--per-setting", 3, "generations per setting")
    return run(parser, _compare, arguments)


def _compare(options: argparse.Namespace, progress: Progress) -> Result:
    found: dict[str, list[Outcome]] = {}
    total = len(options.checkpoints)
    with tempfile.TemporaryDirectory(prefix="moir-generations-") as folder:
        for at, name in enumerate(options.checkpoints):
            progress("checkpoints", at, total)
            found[name] = measure(name, Path(folder) / name, per_setting=options.per_setting)
        progress("checkpoints", total, total)
    record = {name: [asdict(one) for one in outcomes] for name, outcomes in found.items()}
    failed = any(not one.equal for outcomes in found.values() for one in outcomes)
    return Result(text=_text(found), record=record, failed=failed)


def measure(name: str, folder: Path, *, per_setting: int) -> list[Outcome]:
    """Make a checkpoint, export it and answer every case on both sides.

    Args:
        name: Key of `CHECKPOINTS`.
        folder: Where checkpoint, bundle and pictures are written.
        per_setting: Generations per setting.
    """
    from moir_edge.export import export_bundle

    pictures = write_pictures(folder / "pictures")
    checkpoint = build(CHECKPOINTS[name], folder / "checkpoint")
    bundle = export_bundle(checkpoint, folder / "bundle")
    twins = Twins(checkpoint, bundle, folder / "pictures")
    return twins.run(cases(pictures, per_setting=per_setting))


def _exportable() -> list[str]:
    """Return the checkpoints whose model type this version exports."""
    from moir_edge.models import architecture_names

    known = architecture_names()
    return [name for name, layout in CHECKPOINTS.items() if layout.model_type in known]


def _text(found: dict[str, list[Outcome]]) -> str:
    """Return one line per setting, one column per checkpoint, and every difference."""
    import onnxruntime
    import transformers

    every = [(name, one) for name, outcomes in found.items() for one in outcomes]
    table = markdown_table(
        ["setting", *found],
        [
            (
                setting,
                *(
                    _cell([o for o in outcomes if o.case.setting == setting])
                    for outcomes in found.values()
                ),
            )
            for setting in SETTINGS
        ],
    )
    lines = [
        f"transformers {transformers.__version__}, ONNX Runtime {onnxruntime.__version__}; "
        "equal / generations (answers that the setting changed)",
        table,
    ]
    lines += [
        f"DIFFERENT {name}: {one.case.setting}, {one.case.prompt!r}, {', '.join(one.case.pictures) or 'no picture'}: "
        f"transformers {list(one.expected)}, bundle {list(one.got)}"
        for name, one in every
        if not one.equal
    ]
    lines.append(f"{sum(one.equal for _, one in every)} of {len(every)} generations equal")
    return "\n".join(lines)


def _cell(outcomes: list[Outcome]) -> str:
    equal, changed = (sum(getattr(one, key) for one in outcomes) for key in ("equal", "changed"))
    return f"{equal} / {len(outcomes)} ({changed})"


if __name__ == "__main__":
    sys.exit(main())
