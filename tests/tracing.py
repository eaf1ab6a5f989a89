"""Watch what a command and its child processes ask of Linux: sockets, and files that they write, make, rename or remove.

A seccomp filter stops each such system call, of native code too, until this process has noted it; nothing is forbidden.
It needs no privileges and no program: Linux 5.5 on x86-64 or arm64. Opening files to read, and pipes, go by unseen.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import queue
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Call", "Done", "Place", "Traced", "can_trace", "traced"]

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Name -> number on x86-64 and arm64 (None: absent), the arguments that are paths, each with that of its folder or None.
_CALLS: dict[str, tuple[int, int | None, tuple[tuple[int | None, int], ...]]] = {
    "socket": (41, 198, ()),
    "connect": (42, 203, ()),
    "io_uring_setup": (425, 425, ()),  # could do all of these unseen
    "open": (2, None, ((None, 0),)),
    "openat": (257, 56, ((0, 1),)),
    "openat2": (437, 437, ((0, 1),)),
    "creat": (85, None, ((None, 0),)),
    "truncate": (76, 45, ((None, 0),)),
    "mkdir": (83, None, ((None, 0),)),
    "mkdirat": (258, 34, ((0, 1),)),
    "mknod": (133, None, ((None, 0),)),
    "mknodat": (259, 33, ((0, 1),)),
    "rename": (82, None, ((None, 0), (None, 1))),
    "renameat": (264, 38, ((0, 1), (2, 3))),
    "renameat2": (316, 276, ((0, 1), (2, 3))),
    "link": (86, None, ((None, 1),)),
    "linkat": (265, 37, ((2, 3),)),
    "symlink": (88, None, ((None, 1),)),
    "symlinkat": (266, 36, ((1, 2),)),
    "unlink": (87, None, ((None, 0),)),
    "unlinkat": (263, 35, ((0, 1),)),
    "rmdir": (84, None, ((None, 0),)),
}
# Calls of which only some are noted: the argument with the flags.
_FLAGS = {"open": 1, "openat": 2}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AT_FDCWD = -100
_FAMILIES = {family.value: family.name for family in socket.AddressFamily}


@dataclass(frozen=True)
class Call:
    """One system call, as it was about to begin.

    Attributes:
        name: Of the call.
        process: Its command line.
        paths: Absolute paths that it writes, makes, renames or removes.
        address: Of a socket: its family, and where it connects to.
    """

    name: str
    process: str
    paths: tuple[Path, ...] = ()
    address: str = ""


@dataclass
class Traced:
    """What a command did."""

    code: int = 0
    output: str = ""
    calls: list[Call] = field(default_factory=list)

    def network(self) -> list[Call]:
        """Return every socket that was made or connected; socket pairs, which lead nowhere, are not among them."""
        return [call for call in self.calls if call.name in ("socket", "connect", "io_uring_setup")]

    def touched(self) -> Iterator[tuple[str, Path]]:
        """Yield each path that something was written to, made at or removed from, with the name of the call."""
        yield from ((call.name, path) for call in self.calls for path in call.paths)


def can_trace() -> bool:
    """Say whether this system lets a process watch another: it is tried."""
    if not sys.platform.startswith("linux") or platform.machine() not in _SECCOMP:
        return False
    wanted = Path("/nowhere/at/all")
    try:
        found = traced([sys.executable, "-S", "-c", f"import os; os.mkdir({str(wanted)!r})"])
    except OSError:
        return False
    return wanted in (path for _, path in found.touched())


def traced(
    words: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Traced:
    """Run a command to its end and return what it did.

    Args:
        words: The command.
        env: Its whole environment.
        cwd: Its folder.

    Raises:
        OSError: The system does not let this process watch.
    """
    found = Traced()
    listener: queue.Queue[int | OSError] = queue.Queue()

    def run() -> None:
        # The filter holds for this thread alone, and for all that it starts.
        try:
            listener.put(_watched())
        except OSError as error:
            listener.put(error)
            return
        done = subprocess.run(
            words, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        found.code, found.output = done.returncode, done.stdout.decode(errors="replace")

    thread = threading.Thread(target=run)
    thread.start()
    descriptor = listener.get()
    if isinstance(descriptor, OSError):
        thread.join()
        raise descriptor
    own = os.getpid()
    try:
        for call in _answered(descriptor, thread, own):
            found.calls.append(call)
    finally:
        thread.join()
        os.close(descriptor)
    return found


def _watched() -> int:
    """Put the filter on this thread and return the descriptor through which its calls are seen."""
    machine = platform.machine()
    code = _program(machine)
    buffer = ctypes.create_string_buffer(b"".join(code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "prctl")
    # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_NEW_LISTENER
    found = libc.syscall(_SECCOMP[machine], 1, 8, ctypes.c_char_p(program))
    if found < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(found)


def _program(machine: str) -> list[bytes]:
    """Return the filter: instructions of struct sock_filter over struct seccomp_data."""
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, notify = 0x7FFF0000, 0x7FC00000

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    steps = [step(load, 4), step(equal, _ARCH[machine], 1, 0), step(give, allow), step(load, 0)]
    for name in _CALLS:
        number = _number(name, machine)
        if number is None:
            continue
        if name in _FLAGS:
            low_word = 16 + 8 * _FLAGS[name]
            steps += [
                step(equal, number, 0, 4),
                step(load, low_word),
                step(any_bit, _WRITING, 0, 1),
                step(give, notify),
                step(give, allow),
            ]
        else:
            steps += [step(equal, number, 0, 1), step(give, notify)]
    return [*steps, step(give, allow)]


def _number(name: str, machine: str) -> int | None:
    on_x86, on_arm, _ = _CALLS[name]
    return on_x86 if machine == "x86_64" else on_arm


def _answered(descriptor: int, thread: threading.Thread, own: int) -> Iterator[Call]:
    """Yield each call that is stopped, and let it go on; ends with the thread and all that it started."""
    names = {_number(name, platform.machine()): name for name in _CALLS}
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        events = poll.poll(100)
        if not events:
            if not thread.is_alive():
                return
            continue
        if not events[0][1] & select.POLLIN:  # nobody is left
            return
        request = bytearray(80)
        try:
            fcntl.ioctl(descriptor, 0xC0502100, request)  # SECCOMP_IOCTL_NOTIF_RECV
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # killed meanwhile
                continue
            raise
        number_of_call, task = struct.unpack_from("QI", request)
        (number,) = struct.unpack_from("i", request, 16)
        arguments = struct.unpack_from("6Q", request, 32)
        call = _call(names[number], task, arguments)
        answer = struct.pack("QqiI", number_of_call, 0, 0, 1)  # go on
        with suppress(FileNotFoundError):
            fcntl.ioctl(descriptor, 0xC0182101, answer)  # SECCOMP_IOCTL_NOTIF_SEND
        if call.process and _leader(task) != own:
            yield call


def _call(name: str, task: int, arguments: Sequence[int]) -> Call:
    try:
        process = Path(f"/proc/{task}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it has ended
        return Call(name, "")
    if name == "socket":
        return Call(name, process, address=_FAMILIES.get(arguments[0], str(arguments[0])))
    if name == "connect":
        return Call(name, process, address=_address(_memory(task, arguments[1], arguments[2])))
    paths = tuple(
        _path(task, None if folder is None else arguments[folder], arguments[at])
        for folder, at in _CALLS[name][2]
    )
    return Call(name, process, paths=paths)


def _leader(task: int) -> int:
    """Return the process that a thread belongs to; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{task}/status").read_text().splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    return 0


def _memory(task: int, at: int, size: int) -> bytes:
    try:
        with open(f"/proc/{task}/mem", "rb", buffering=0) as memory:
            memory.seek(at)
            return memory.read(size)
    except (OSError, ValueError, OverflowError):
        return b""


def _path(task: int, folder: int | None, at: int) -> Path:
    """Return the absolute path at an address of another process."""
    text = b""
    while b"\0" not in text and len(text) < 4096:
        part = _memory(task, at + len(text), 256 - (at + len(text)) % 256)
        if not part:
            break
        text += part
    name = os.fsdecode(text.partition(b"\0")[0])
    number = ctypes.c_int(_AT_FDCWD if folder is None else folder & 0xFFFFFFFF).value
    base = f"/proc/{task}/cwd" if number == _AT_FDCWD else f"/proc/{task}/fd/{number}"
    with suppress(OSError):
        return Path(os.path.normpath(os.path.join(os.readlink(base), name)))
    return Path(name)


def _address(data: bytes) -> str:
    if len(data) < 2:
        return "?"
    (family,) = struct.unpack_from("H", data)
    name = _FAMILIES.get(family, str(family))
    if family == socket.AF_UNIX:
        path = data[2:3] + data[3:].partition(b"\0")[0]  # an abstract one begins with a zero byte
        return f"{name} {os.fsdecode(path)}"
    if family == socket.AF_INET and len(data) >= 8:
        return f"{name} {socket.inet_ntoa(data[4:8])}:{struct.unpack_from('!H', data, 2)[0]}"
    if family == socket.AF_INET6 and len(data) >= 24:
        port = struct.unpack_from("!H", data, 2)[0]
        return f"{name} {socket.inet_ntop(socket.AF_INET6, data[8:24])}:{port}"
    return name


# Memory that `multiprocessing` and torch share between processes; its name goes as soon as it is made.
_SHARED = "/dev/shm/"
_NOWHERE = ("/dev/null", "/dev/tty", "/proc/")


@dataclass(frozen=True)
class Done:
    """A command that has run.

    Attributes:
        traced: What it did; no calls where nothing can be traced.
        left: Files and folders that it left outside its output.
        foreign: What it wrote to, made or removed outside of its output and `TMPDIR`, with the name of the call.
    """

    traced: Traced
    left: tuple[str, ...]
    foreign: tuple[tuple[str, str], ...]


class Place:
    """Folders of its own for everything that a command may write to."""

    def __init__(self, root: Path) -> None:
        self.habits = tuple(root / name for name in ("home", "scratch", "here"))
        self.out = root / "out"
        for folder in (*self.habits, self.out):
            folder.mkdir()
        home, scratch, _ = self.habits
        # Python's own cache of compiled modules is the installer's matter. Without the user's name, torch asks the system
        # for it, and on some systems a service answers.
        own = {
            "HOME": str(home),
            "TMPDIR": str(scratch),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LOGNAME": "somebody",
        }
        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "LANG")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | own

    def run(self, words: Sequence[str]) -> Done:
        """Run `moir-edge`, watched if that can be."""
        command = [sys.executable, "-m", "moir_edge", *words]
        here = self.habits[-1]
        if can_trace():
            found = traced(command, env=self.environment, cwd=here)
        else:
            plain = subprocess.run(
                command, env=self.environment, cwd=here, capture_output=True, text=True, check=False
            )
            found = Traced(plain.returncode, plain.stdout + plain.stderr)
        return Done(found, self.left(), tuple(self._foreign(found)))

    def left(self) -> tuple[str, ...]:
        """Return what lies in the home, in `TMPDIR` and in the current folder."""
        return tuple(sorted(str(one) for folder in self.habits for one in folder.rglob("*")))

    def _foreign(self, found: Traced) -> list[tuple[str, str]]:
        allowed = (self.out, self.habits[1])
        return [
            (name, str(path))
            for name, path in found.touched()
            if not any(path == folder or folder in path.parents for folder in allowed)
            and not str(path).startswith(_NOWHERE)
            and not (str(path).startswith(_SHARED) and not path.exists())
        ]
