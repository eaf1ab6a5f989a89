"""Compare bundles with transformers token for token, over checkpoints, generation configs, prompts and odd pictures.

`python -m benchmarks.generations` makes tiny checkpoints, exports them in fp32 and prints one table; it exits with 1
where any answer differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.generations.cases import SETTINGS, cases, write_pictures
from benchmarks.generations.checkpoints import CHECKPOINTS, build
from benchmarks.generations.run import Outcome, Twins

__all__ = ["main", "measure"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit code.

    Args:
        arguments: The words after the module's name; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="generations", description=__doc__)
    parser.add_argument("--checkpoints", nargs="+", choices=CHECKPOINTS, default=_exportable())
    parser.add_argument("--per-setting", type=int, default=3, metavar="N")
    options = parser.parse_args(arguments)
    found: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(prefix="moir-generations-") as folder:
        for name in options.checkpoints:
            print(f"{name} …", file=sys.stderr)  # noqa: T201
            found[name] = measure(name, Path(folder) / name, per_setting=options.per_setting)
    print(_table(found))  # noqa: T201
    return int(any(not one.equal for outcomes in found.values() for one in outcomes))


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


def _table(found: dict[str, list[Outcome]]) -> str:
    """Return one line per setting, one column per checkpoint, and every difference."""
    import onnxruntime
    import transformers

    names = list(found)
    width = max(map(len, SETTINGS))
    lines = [
        f"transformers {transformers.__version__}, ONNX Runtime {onnxruntime.__version__}; "
        "equal / generations (answers that the setting changed)",
        "  ".join(["setting".ljust(width), *names]),
    ]
    for setting in SETTINGS:
        cells = [
            _cell([one for one in found[name] if one.case.setting == setting]).ljust(len(name))
            for name in names
        ]
        lines.append("  ".join([setting.ljust(width), *cells]).rstrip())
    every = [one for outcomes in found.values() for one in outcomes]
    lines += [
        f"DIFFERENT {name}: {one.case.setting}, {one.case.prompt!r}, {', '.join(one.case.pictures) or 'no picture'}: "
        f"transformers {list(one.expected)}, bundle {list(one.got)}"
        for name, outcomes in found.items()
        for one in outcomes
        if not one.equal
    ]
    lines.append(f"{sum(one.equal for one in every)} of {len(every)} generations equal")
    return "\n".join(lines)


def _cell(outcomes: list[Outcome]) -> str:
    equal, changed = (sum(getattr(one, key) for one in outcomes) for key in ("equal", "changed"))
    return f"{equal} / {len(outcomes)} ({changed})"


if __name__ == "__main__":
    sys.exit(main())
