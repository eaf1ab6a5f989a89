from __future__ import annotations

from pathlib import Path

import pytest

from moir_edge.evaluation.machine import CpuTimes, busy_notices, cpu_model, describe_machine


def test_steal_is_a_share_of_the_time_since_the_start(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 1000 0 0 0 10 50 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    times = CpuTimes(stat)
    stat.write_text("cpu  150 0 110 1030 0 0 0 20 99 0\n")
    # 50 + 10 + 30 + 10 = 100 ticks passed; guest time is part of user time
    assert times.steal_percent() == pytest.approx(10.0, abs=1e-9)
    assert CpuTimes(tmp_path / "none").steal_percent() is None


def test_cpu_name_falls_back_to_the_board(tmp_path: Path) -> None:
    cpuinfo, board = tmp_path / "cpuinfo", tmp_path / "model"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n")
    assert cpu_model(cpuinfo, board) == "A CPU @ 2 GHz"
    cpuinfo.write_text("processor\t: 0\nCPU part\t: 0xd42\n")
    board.write_bytes(b"NVIDIA Jetson AGX Orin\0")
    assert cpu_model(cpuinfo, board) == "NVIDIA Jetson AGX Orin"


def test_this_machine() -> None:
    machine = describe_machine(0.5, None)
    assert machine.cores >= 1
    assert machine.load_average_before == 0.5
    assert "numpy" in machine.packages


def test_only_a_busy_machine_gives_a_notice() -> None:
    quiet = describe_machine(0.5, 1.0).model_copy(
        update={"cores": 2, "load_average_before": 0.5, "load_average_after": 2.0}
    )
    assert busy_notices(quiet) == ()
    assert busy_notices(quiet.model_copy(update={"steal_percent": None})) == ()
    loaded = quiet.model_copy(update={"load_average_after": 2.01, "steal_percent": 7.25})
    assert busy_notices(loaded) == (
        "The machine was busy: load average 0.50 before and 2.01 after the measurement on 2 cores, "
        "7.2 % of CPU time taken by the hypervisor. Times are less certain than they look.",
    )
