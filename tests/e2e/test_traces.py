"""Commands on local folders make no socket, and write nothing but the output that was asked for.

Two layers. The tracer sees what native code and worker processes do too, whether it stays or not; it needs Linux. The folders
that a program writes to by habit are listed after each command, on every system.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from moir_edge.demo import checkpoint_path, demo_rows, write_jsonl

from ..tracing import Done, Place, can_trace, traced

pytestmark = pytest.mark.slow

COMMANDS: Mapping[str, str] = {
    "export": "export {model} -o {out}/fp32",
    "export int4": "export {model} -o {out}/int4 --precision int4 --calib-data {rows}",
    "inspect": "inspect {out}/int4",
    "run": "run {out}/int4 --image {image} -p Why? --json --routing-map {out}/map.png",
    "bench": "bench {out}/fp32 {out}/int4 --parity --repeats 1 --max-new-tokens 2 -o {out}/bench",
    "compare": "compare {model} {out}/int4 --data {rows} --latency-rows 1 -o {out}/report",
    "diagnose a table": "diagnose {out}/int4 --data {table} --data-format hub --limit 2 -o {out}/table",
    "diagnose": "diagnose {out}/int4 --data {rows} --limit 4 -o {out}/diagnosis",
    "tune": "tune {model} --data {rows} --steps 1 --batch-size 2 -o {out}/tuned",
    "retrofit": "retrofit {bare} -o {out}/retrofitted",
    "targets": "targets",
}
"""Name -> words; each finds what those before it made."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def done(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Done]:
    """Every command of `COMMANDS`, run once."""
    data = tmp_path_factory.mktemp("rows")
    rows = write_jsonl(demo_rows("test", count=8), data)
    image, table = _table(rows, tmp_path_factory.mktemp("table"))
    words = {
        "model": checkpoint_path(),
        "bare": _without_router(tmp_path_factory.mktemp("bare") / "bare"),
        "rows": rows,
        "image": image,
        "table": table,
        "out": place.out,
    }
    return {
        name: place.run([word.format(**words) for word in command.split()])
        for name, command in COMMANDS.items()
    }


def _table(rows: Path, folder: Path) -> tuple[Path, Path]:
    """Return the first image, and a folder with the rows as a table of the library `datasets`."""
    records = [json.loads(line) for line in rows.read_text().splitlines() if '"image":' in line]
    for record in records:
        record["image"] = str(rows.parent / record["image"])
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, records)))
    return Path(records[0]["image"]), folder


def _without_router(folder: Path) -> Path:
    import torch

    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.router import remove_router

    checkpoint = load_checkpoint(checkpoint_path())
    remove_router(checkpoint.model.to(torch.float32))
    checkpoint.model.save_pretrained(folder)
    checkpoint.processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_no_socket_is_made(name: str, done: Mapping[str, Done]) -> None:
    """Hence nothing is connected to, sent or looked up, by the network or by a service of this machine."""
    if not can_trace():
        pytest.skip("this system does not let a process watch another (seccomp, Linux 5.5)")
    assert done[name].traced.code == 0, done[name].traced.output
    assert done[name].traced.network() == []


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_written_but_the_output(name: str, done: Mapping[str, Done]) -> None:
    assert done[name].traced.code == 0, done[name].traced.output
    assert done[name].left == ()
    assert done[name].foreign == ()


_NATIVE = """
import ctypes, os, socket, subprocess, sys
libc = ctypes.CDLL(None)
found = ctypes.c_void_p()
libc.getaddrinfo(b"moir-edge.invalid", b"80", None, ctypes.byref(found))
libc.open(os.fsencode(os.path.expanduser("~/left")), os.O_CREAT | os.O_WRONLY, 0o600)
libc.mkdir(b"here", 0o700)
code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
subprocess.run([sys.executable, "-c", code], check=True)
"""


def test_the_tracer_sees_native_code_and_child_processes(tmp_path: Path) -> None:
    if not can_trace():
        pytest.skip("this system does not let a process watch another (seccomp, Linux 5.5)")
    place = Place(tmp_path)
    found = traced([sys.executable, "-c", _NATIVE], env=place.environment, cwd=place.habits[-1])
    assert found.code == 0, found.output
    assert [(call.name, call.address) for call in found.network()][-2:] == [
        ("socket", "AF_INET"),
        ("connect", "AF_INET 127.0.0.1:9"),
    ]
    assert len(found.network()) > 2  # the look-up, by whichever way this system makes one
    assert {("open", place.habits[0] / "left"), ("mkdir", place.habits[2] / "here")} <= {
        (name.removesuffix("at"), path) for name, path in found.touched()
    }
    assert [Path(path).name for path in place.left()] == ["here", "left"]
