"""How the process of the command line ends: interrupts, termination, readers that go away, full disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from moir_edge.children import child_command, child_environment
from moir_edge.cli.main import main

# Stands in for a command: the whole process around it is the real one.
_PROGRAM = """
import sys, time, typer
import moir_edge.cli.main as cli
from moir_edge.__main__ import main

def command():
{body}

cli.COMMANDS = ("targets", "inspect")
cli._register = lambda app, name: app.command("work" if name == "targets" else name)(command)
sys.argv[1:] = ["work"]
sys.exit(main())
"""


def program(body: str) -> list[str]:
    code = _PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "error: interrupted\n"),
        (signal.SIGTERM, 143, "error: terminated\n"),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        "print('ready', flush=True); time.sleep(600)",
        # in a thread pool, which waits for its threads on the way out
        """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            pool.submit(time.sleep, 1)
            print('ready', flush=True)
            time.sleep(600)
        """,
        # While the parent waits for a process of its own, as `subprocess.run` does. A signal that comes before `Popen` has
        # returned would leave a process that nobody knows of, so "ready" is said after it.
        """
        import subprocess
        child = subprocess.Popen(["sleep", "600"])
        try:
            print('ready', flush=True)
            child.wait()
        except BaseException:
            child.kill()
            raise
        """,
    ],
)
def test_a_signal_is_one_line_and_its_own_exit_code(
    number: signal.Signals, code: int, line: str, body: str
) -> None:
    with subprocess.Popen(
        program(body),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets its background jobs, such as these tests, ignore interrupts, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (code, line)


def test_an_interrupt_may_carry_advice() -> None:
    done = subprocess.run(
        program("raise KeyboardInterrupt('go on with --resume')"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted; go on with --resume\n")


def test_the_end_of_a_file_is_not_an_interrupt() -> None:
    done = subprocess.run(
        program("raise EOFError('cut short')"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: EOFError: cut short (run again")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 2])
@pytest.mark.parametrize(
    "output",
    [
        "for i in range(20000): print(i)",
        "for i in range(20000): typer.echo(i)",
        "print('x' * 10)  # stays in the buffer until the process ends",
        "from rich.console import Console; [Console().print(i) for i in range(3000)]",
        "for i in range(20000): print(i, file=sys.stderr)",
    ],
)
def test_a_reader_that_goes_away_changes_nothing(code: int, output: str, tmp_path: Path) -> None:
    body = f"import os; os.read(0, 1)\n{output}\nopen('end', 'w').close()\nraise typer.Exit({code})"
    read, write = os.pipe()
    with subprocess.Popen(
        program(body),
        stdin=subprocess.PIPE,
        stdout=write,
        stderr=write if "stderr" in output else subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    ) as process:
        os.close(write)
        os.close(read)
        _, error = process.communicate("go", timeout=300)
    assert process.returncode == code
    assert not error
    assert (tmp_path / "end").exists()


def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            program("print('x')"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_real_command_in_a_pipe() -> None:
    command = child_command("moir_edge.__main__:main", "targets", "--json")
    with subprocess.Popen(
        command, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_each_shell(shell: str) -> None:
    environment = child_environment({"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"})
    command = child_command("moir_edge.__main__:main", "--show-completion", shell)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_MOIR_EDGE_COMPLETE" in done.stdout


def test_completion_names_commands_flags_and_values() -> None:
    for words, expected in (
        ("moir-edge ex", "export"),
        ("moir-edge export --prec", "--precision"),
        ("moir-edge export vlm --target jetson-o", "jetson-orin-nano"),
        ("moir-edge chat bundle --provider tens", "tensorrt"),
    ):
        environment = child_environment(
            {
                "_MOIR_EDGE_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            }
        )
        command = child_command("moir_edge.__main__:main")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert expected in done.stdout.split(), done.stderr


def test_interrupt_inside_a_caller_of_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moir_edge.cli.main.build_app", lambda: lambda **_: stop())
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"
