"""Telemetry of recorded boards, energy of a known power, and what a machine without sensors says."""

from __future__ import annotations

import time

import pytest

from moir_edge.device.energy import EnergyMeter
from moir_edge.device.sensors import Telemetry, read_telemetry, total_power
from moir_edge.device.system import RecordedSystem, System
from moir_edge.evaluation.machine import BoardWatch, busy_notices, describe_machine
from tests.unit.device.recorded import recording, system

# A line of an AGX Orin's tegrastats under JetPack 7.
TEGRASTATS = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] EMC_FREQ 3%@3199 "
    "GR3D_FREQ 12%@[1300,1300] NVENC0 off APE 174 cpu@52.968C/52.968C soc2@48.406C/48.406C "
    "gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW\n07-25-2026 09:08:29 RAM 20642/62817MB\n"
)


def test_orin_nano() -> None:
    found = read_telemetry(system("orin-nano-jetpack-6"))
    assert found.power_mode == "25W"
    assert found.rails_w == pytest.approx(
        {"VDD_IN": 5.246208, "VDD_CPU_GPU_CV": 1.07136, "VDD_SOC": 1.46816}, rel=1e-9
    )
    assert found.total_w == found.rails_w["VDD_IN"]  # it feeds the other two
    # One zone refuses to be read, another is switched off.
    assert set(found.temperatures_c) == {
        *("cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal"),
    }
    assert found.temperatures_c["tj-thermal"] == 48.906
    assert (found.gpu_mhz, found.cpu_mhz, found.gpu_load_percent) == (306.0, 1344.0, 12.5)
    assert found.throttle_events == 2


def test_thor_counts_the_whole_board() -> None:
    found = read_telemetry(system("thor-jetpack-7"))
    assert found.rails_w["VIN"] == 30.36
    assert found.total_w == 30.36
    assert found.power_mode == "MAXN"
    assert found.gpu_mhz == 1575.0
    module = {name: power for name, power in found.rails_w.items() if name != "VIN"}
    assert total_power(module) == pytest.approx(6.69312 + 7.739712 + 7.989504, rel=1e-9)


def test_tegrastats_is_asked_where_no_rail_is_shown() -> None:
    bare = RecordedSystem({}, {"tegrastats --interval 100": TEGRASTATS})
    found = read_telemetry(bare)
    assert found.total_w == pytest.approx(5.139 + 3.268 + 5.5, rel=1e-9)
    assert found.temperatures_c == {"cpu": 52.968, "soc2": 48.406, "gpu": 47.625}


def test_a_desktop_has_no_board_sensors() -> None:
    assert read_telemetry(system("desktop-rtx-4070")) == Telemetry()


def test_a_quick_reading_asks_no_tool() -> None:
    noted = system("orin-nano-jetpack-6", __var__lib__nvpmodel__status="pmode:0002")
    assert read_telemetry(noted).power_mode == "25W"
    assert read_telemetry(noted, ask_tools=False).power_mode == "MAXN_SUPER"
    bare = RecordedSystem({}, {"tegrastats --interval 100": TEGRASTATS})
    assert read_telemetry(bare, ask_tools=False) == Telemetry()


def test_this_machine_can_be_read() -> None:
    found = read_telemetry()
    assert found.total_w is None or found.total_w > 0
    assert found.to_dict().keys() == Telemetry().to_dict().keys()


def test_rails_that_do_not_add_up_give_no_total() -> None:
    assert total_power({"VDD_SOC": 1.0}) is None
    assert total_power({}) is None


def test_energy_is_the_area_under_the_power() -> None:
    now = [0.0]
    watts = iter([10.0, 20.0, 20.0])
    meter = EnergyMeter(lambda: next(watts), clock=lambda: now[0])
    for at in (0.0, 1.0, 2.0):
        now[0] = at
        meter.sample()
    assert meter.joules(0.0, 1.0) == 15.0
    assert meter.joules(0.5, 2.0) == 27.5  # linear between two samples of the energy
    assert meter.joules(2.0, 3.0) == 20.0  # the last power counts on
    assert meter.joules(-5.0, 0.0) == 0.0


def test_a_meter_samples_beside_the_work_and_stops() -> None:
    with EnergyMeter(lambda: 5.0, period_s=0.001) as meter:
        start = meter.now()
        time.sleep(0.05)
        end = meter.now()
    assert meter.joules(start, end) == pytest.approx(5.0 * (end - start), rel=1e-6)
    assert meter._thread is not None
    assert not meter._thread.is_alive()


def test_without_a_sensor_there_is_no_energy_and_no_thread() -> None:
    with EnergyMeter(lambda: None) as meter:
        assert meter._thread is None
        assert meter.joules(meter.now(), meter.now()) is None


class Switching(RecordedSystem):
    """A board whose GPU warms up, and whose clocks are lowered once."""

    def __init__(self) -> None:
        record = recording("orin-nano-jetpack-6")
        super().__init__(record["files"], record["commands"])
        self.changed: dict[str, str] = {}

    def text(self, path: str) -> str:
        return self.changed.get(path) or super().text(path)


def test_board_before_and_after() -> None:
    board = Switching()
    watch = BoardWatch(board)
    board.changed = {
        "/sys/class/hwmon/hwmon0/oc3_event_cnt": "5",
        "/sys/class/thermal/thermal_zone5/temp": "71250",
        "/sys/class/devfreq/17000000.gpu/cur_freq": "918000000",
    }
    found = watch.readings()
    assert found is not None
    assert found.gpu_mhz == (306.0, 918.0)
    assert found.hottest_c == (48.906, 71.25)
    assert found.throttle_events == 3
    assert found.sentence() == (
        "Power mode 25W; GPU 306 MHz before and 918 MHz after, CPU 1344 MHz before and 1344 MHz after, "
        "hottest zone 49 °C before and 71 °C after."
    )
    notices = busy_notices(describe_machine(0.0, None, found))
    assert notices[-1].startswith("The board lowered its clocks 3 times for a too large current")


def test_other_machines_have_no_board() -> None:
    assert BoardWatch(system("desktop-rtx-4070")).readings() is None


def test_a_tool_that_prints_for_ever_gives_its_first_line() -> None:
    assert System().first_line("yes") == "y"
    assert System().first_line("no-such-tool-here") == ""
    assert System().output("false") == ""
    assert System().output("echo", "one") == "one\n"
