"""The process of the command line: `moir-edge`, and `python -m moir_edge`.

An interrupt or a termination ends it with one line at any time, also while the first modules load. A reader that goes away, as
`| head` does, changes neither what the command does nor its exit code: the rest of the output is dropped.
"""

import gc
import io
import os
import signal
import stat
import sys

__all__ = ["let_readers_go", "main"]

_USAGE_ERROR = 2
_INTERRUPTED = 130
_TERMINATED = 143
# New objects between two looks for garbage, by default 700 to 2,000: start-up makes many, nearly all last, and looks cost a tenth of it.
_COLLECT_EVERY = 50_000


class _Droppable(io.FileIO):
    """A pipe that swallows what is written after its reader has gone."""

    def write(self, data, /):  # type: ignore[no-untyped-def]  # the types of buffers differ between versions
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes


def main() -> int:
    """Run the command line as a process of its own, and return its exit code.

    130 after an interrupt (Ctrl-C), 143 after a termination (SIGTERM); else as `moir_edge.cli.main.main`.
    """
    gc.set_threshold(_COLLECT_EVERY, *gc.get_threshold()[1:])
    let_readers_go()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _run()
    except KeyboardInterrupt:
        code = _say("interrupted", _INTERRUPTED)
    except MemoryError:  # while the first modules load; `moir_edge.cli.main` says the others
        code = _say("memory ran out; close other programs, or raise the limit", _USAGE_ERROR)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
        if code == _TERMINATED:
            _say("terminated", code)
    _give_up_handlers()
    return _flush(code)


def _run() -> int:
    from moir_edge.cli.main import main as run

    return run()


def _terminate(number: int, frame: object) -> None:
    """End as an interrupt does, so that nothing half-written stays."""
    del number, frame
    raise SystemExit(_TERMINATED)


def _give_up_handlers() -> None:
    """Let a second signal end the process at once: the interpreter's shutdown would print a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def let_readers_go() -> None:
    """Drop what standard output and error get after the reader of their pipe has gone, in place of an error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            piped = stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
        except (AttributeError, OSError, ValueError):  # closed, or not a file of the system
            continue
        if piped:
            raw = _Droppable(stream.fileno(), "wb", closefd=False)
            wrapped = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, wrapped)


def _flush(code: int) -> int:
    """Write out what is buffered; a full disk behind standard output is an error and not a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        # The interpreter would try once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _say(f"cannot write the output: {error.strerror}", _USAGE_ERROR)
    return code


def _say(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
