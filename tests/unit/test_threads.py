"""How many threads an operation takes: by affinity, cores and quota, and one figure for every library."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from moir_edge.cli.main import main
from moir_edge.cli.threads_option import Threads, ThreadWaitOption
from moir_edge.errors import DataError
from moir_edge.threads import (
    check_thread_wait,
    default_thread_wait,
    default_threads,
    limited_threads,
    session_options,
    wait_policy,
    waiting_entries,
    waiting_threads,
)

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight hardware threads on four cores; the process may run on six of them, which are three cores."""
    for cpu in range(8):
        file = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 5, 6})
    return tmp_path


def limit(root: Path, groups: str, files: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_hardware_threads_of_one_core_count_once(machine: Path) -> None:
    assert default_threads(machine) == 3


def test_without_topology_each_cpu_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
    assert default_threads(tmp_path) == 3


@pytest.mark.parametrize(
    ("groups", "files", "threads"),
    [
        ("0::/box\n", {"box/cpu.max": "200000 100000"}, 2),
        ("0::/box\n", {"box/cpu.max": "150000 100000"}, 2),
        ("0::/box\n", {"box/cpu.max": "50000 100000"}, 1),
        ("0::/box\n", {"box/cpu.max": "max 100000"}, 3),
        ("0::/box\n", {"box/cpu.max": "900000 100000"}, 3),
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),
        # a limit of the group around it holds too
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "100000 100000"}, 1),
        (
            "4:memory:/box\n3:cpu,cpuacct:/box\n",
            {
                "cpu,cpuacct/box/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("4:memory:/box\n", {"memory/box/cpu.max": "100000 100000"}, 3),
        ("0::/box\n", {"box/cpu.max": "nonsense"}, 3),
    ],
)
def test_the_quota_of_the_control_group_is_kept(
    groups: str, files: dict[str, str], threads: int, machine: Path
) -> None:
    limit(machine, groups, files)
    assert default_threads(machine) == threads


@pytest.mark.parametrize(
    ("given", "threads"), [("5", 5), ("4,2", 4), (" 2 ", 2), ("0", 3), ("many", 3), ("", 3)]
)
def test_the_users_own_setting_comes_first(
    given: str, threads: int, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert default_threads(machine) == threads


def test_every_library_gets_the_same_number_and_gives_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    before = torch.get_num_threads()
    with limited_threads(3) as threads:
        assert threads == torch.get_num_threads() == default_threads() == 3
        assert session_options().intra_op_num_threads == 3
        assert [os.environ.get(name) for name in VARIABLES] == ["3", "3", None, "PASSIVE"]
    assert torch.get_num_threads() == before
    assert [os.environ.get(name) for name in VARIABLES] == [None, "7", None, None]


def test_a_waiting_policy_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    with limited_threads(None):
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


SPIN, STOP = "session.intra_op.allow_spinning", "session.force_spinning_stop"
MICROSECONDS = "session.intra_op.spin_duration_us"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.25.1", {SPIN: "0"}),  # it knows no time: a thread would spin until the run ends
        ("1.26.0", {SPIN: "1", STOP: "1", MICROSECONDS: "50"}),
        ("2.0.0rc1", {SPIN: "1", STOP: "1", MICROSECONDS: "50"}),
    ],
)
def test_threads_of_a_session_sleep_soon(
    version: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", version)
    options = session_options(2)
    assert waiting_entries("sleep") == expected
    assert {name: options.get_session_config_entry(name) for name in expected} == expected
    assert options.intra_op_num_threads == 2


def test_the_flag_holds_for_the_command_alone() -> None:
    app = typer.Typer()
    seen = []

    @app.command()
    def work(threads: Threads = None) -> None:
        seen.append((threads, torch.get_num_threads(), default_threads()))

    before = torch.get_num_threads()
    assert CliRunner().invoke(app, ["--threads", "2"]).exit_code == 0
    assert seen == [(2, 2, 2)]
    assert torch.get_num_threads() == before
    assert CliRunner().invoke(app, ["--threads", "0"]).exit_code == 2


@pytest.mark.parametrize(
    ("policy", "wait"),
    [("ACTIVE", "spin"), (" active", "spin"), ("PASSIVE", "sleep"), ("", "sleep"), ("x", "sleep")],
)
def test_threads_wait_as_openmp_is_told_to(
    policy: str, wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_thread_wait() == "sleep"
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert default_thread_wait() == wait


def test_what_is_asked_for_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr("onnxruntime.__version__", "1.25.0")
    found = [session_options(2, wait).get_session_config_entry(SPIN) for wait in (None, "sleep")]
    assert found == ["1", "0"]
    # Threads of a session that is idle do not spin.
    assert waiting_entries("spin") == {SPIN: "1", STOP: "1"}


def test_a_block_says_how_threads_wait_and_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with waiting_threads("spin"):
        assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
        with limited_threads(2), waiting_threads(None):
            assert wait_policy() == {"OMP_WAIT_POLICY": "ACTIVE"}
        with waiting_threads("sleep"):
            assert wait_policy() == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with waiting_threads("spin"):
        assert default_thread_wait() == "spin"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("words", [["--thread-wait", "spin", "--threads", "2"], []])
def test_the_way_to_wait_holds_for_the_command_alone(words: list[str]) -> None:
    seen: list[str] = []
    app = typer.Typer()

    @app.command()
    def command(threads: Threads = None, thread_wait: ThreadWaitOption = None) -> None:
        seen.append(default_thread_wait())

    assert CliRunner().invoke(app, words).exit_code == 0
    assert seen == ["spin" if words else "sleep"]
    assert default_thread_wait() == "sleep"


def test_another_way_to_wait_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        check_thread_wait("nap")
    assert str(caught.value) == "thread_wait is 'nap'; it must be one of sleep, spin"


def test_the_flag_refuses_another_way_to_wait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tmp_path), "-p", "what?", "--thread-wait", "nap"]) == 2
    assert "--thread-wait 'nap': expected sleep or spin" in capsys.readouterr().err
