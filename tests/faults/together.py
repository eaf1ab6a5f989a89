"""Several writers of one output at the same time, in processes and, if asked, in process namespaces of their own, as containers are.

`python -m tests.faults.together FOLDER --writers 4 --rounds 50 --force --namespaces` prints one JSON line per round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moir_edge import replacing
from moir_edge.errors import DataError, MoirEdgeError
from moir_edge.ownership import FolderKind
from moir_edge.staging import staged_folder
from moir_edge.whole_files import write_whole

_KIND = FolderKind(name="report", marker="report.json", error=DataError, keys=("version",))
# A process namespace counts from 1 anew: two writers in two of them have the same number.
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


def namespaces_are_permitted() -> bool:
    """Say whether this machine lets this user make process namespaces."""
    try:
        return (
            subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


def write(output: Path, writer: int, *, force: bool) -> None:
    """Write a folder whose files, and how many there are, tell who wrote it."""
    with staged_folder(output, _KIND, force=force) as folder:
        (folder / "report.json").write_text(f'{{"version": {writer}}}')
        for at in range(writer + 1):
            (folder / f"part-{writer}-{at}").write_text(f"{writer}")
        write_whole(output.with_name("latest"), f"{writer}" * 5000)


def author_of(output: Path) -> int:
    """Return who wrote a folder; −1 if it is not whole."""
    try:
        writer = int(json.loads((output / "report.json").read_text())["version"])
        parts = {path.name: path.read_text() for path in output.glob("part-*")}
    except (OSError, ValueError):
        return -1
    whole = {f"part-{writer}-{at}": f"{writer}" for at in range(writer + 1)}
    return writer if parts == whole else -1


def _work(writer: int, *, force: bool) -> None:
    """Write the output that each line of standard input names, and answer with what came of it."""
    for line in sys.stdin:
        error = ""
        try:
            write(Path(line.strip()), writer, force=force)
        except MoirEdgeError as problem:
            error = f"{type(problem).__name__}: {problem}"
        answer = {"pid": os.getpid(), "error": error}
        print(json.dumps(answer), flush=True)  # noqa: T201


def rounds(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Let all writers begin at once, round after round; with `force` all at one output, else at a new one each time."""
    words = [sys.executable, "-m", "tests.faults.together", str(folder), "--worker"]
    flags = [f"--{name}" for name in ("force", "renames") if getattr(options, name)]
    start = [*(_NAMESPACE if options.namespaces else ()), *words]
    writers = [
        subprocess.Popen(
            [*start, f"{at}", *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for at in range(options.writers)
    ]
    for number in range(options.rounds):
        area = folder / ("all" if options.force else f"{number}")
        area.mkdir(exist_ok=True)
        first = number % len(writers)  # on one free core the first one always wins
        for writer in writers[first:] + writers[:first]:
            assert writer.stdin is not None
            writer.stdin.write(f"{area / 'out'}\n")
            writer.stdin.flush()
        answers = [json.loads(writer.stdout.readline()) for writer in writers]  # type: ignore[union-attr]
        latest = (area / "latest").read_text()
        yield {
            "round": number,
            "pids": [answer["pid"] for answer in answers],
            "errors": [answer["error"] for answer in answers if answer["error"]],
            "author": author_of(area / "out"),
            "latest_is_whole": latest == latest[:1] * 5000,
            "left": sorted(os.listdir(area)),
        }
    for writer in writers:
        writer.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--renames", action="store_true", help="as a system without an exchange")
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--worker", type=int)
    options = parser.parse_args()
    if options.renames:
        replacing.exchange = lambda *_: False
    if options.worker is not None:
        _work(options.worker, force=options.force)
        return
    for found in rounds(options.folder, options):
        print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
