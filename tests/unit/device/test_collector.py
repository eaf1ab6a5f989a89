"""A board's sensors in the text that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from moir_edge.device.collector import BoardCollector
from moir_edge.device.sensors import Telemetry, read_telemetry
from tests.unit.device.recorded import system


def text(collector: BoardCollector) -> list[str]:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode().splitlines()


def test_an_orin_shows_all_its_sensors() -> None:
    lines = text(BoardCollector(lambda: read_telemetry(system("orin-nano-jetpack-6"))))
    assert 'moir_edge_board_power_watts{rail="VDD_SOC"} 1.46816' in lines
    assert 'moir_edge_board_temperature_celsius{zone="tj-thermal"} 48.906' in lines
    assert 'moir_edge_board_info{power_mode="25W"} 1.0' in lines
    assert "moir_edge_board_gpu_clock_hertz 3.06e+08" in lines
    assert "moir_edge_board_throttle_events 2.0" in lines
    assert any(line.startswith("moir_edge_board_input_power_watts 5.24") for line in lines)


def test_a_machine_without_sensors_shows_nothing() -> None:
    assert text(BoardCollector(Telemetry)) == []


def test_registering_reads_no_sensor() -> None:
    def read() -> Telemetry:
        raise AssertionError

    CollectorRegistry().register(BoardCollector(read))
