"""Sensors of a board as figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from moir_edge.device.sensors import Telemetry, read_telemetry

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["BoardCollector"]


class BoardCollector:
    """Reads the sensors whenever the figures are asked for; gives nothing on a machine without any.

    Register it with a registry of `prometheus_client`. A reading takes some milliseconds and starts no program.

    Args:
        read: Gives a reading; of this machine by default.
    """

    def __init__(self, read: Callable[[], Telemetry] | None = None) -> None:
        self._read = read or (lambda: read_telemetry(ask_tools=False))

    def describe(self) -> Iterable[Metric]:
        """Name no figure beforehand, so that registering reads no sensor."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Give the figures that the board has."""
        from prometheus_client.core import GaugeMetricFamily as Gauge
        from prometheus_client.core import InfoMetricFamily as Info

        now = self._read()
        labelled = (
            ("moir_edge_board_power_watts", "Power of a rail", "rail", now.rails_w),
            ("moir_edge_board_temperature_celsius", "Temperature", "zone", now.temperatures_c),
        )
        for name, text, label, values in labelled:
            if values:
                family = Gauge(name, text, labels=[label])
                for key, reading in values.items():
                    family.add_metric([key], reading)
                yield family
        single = (
            ("moir_edge_board_input_power_watts", "Power of the whole board", now.total_w),
            ("moir_edge_board_gpu_clock_hertz", "Clock of the GPU", _hertz(now.gpu_mhz)),
            ("moir_edge_board_cpu_clock_hertz", "Clock of the fastest CPU", _hertz(now.cpu_mhz)),
            ("moir_edge_board_gpu_load_percent", "GPU busy", now.gpu_load_percent),
            ("moir_edge_board_throttle_events", "Clocks lowered, since boot", now.throttle_events),
        )
        for name, text, value in single:
            if value is not None:
                yield Gauge(name, text, value=value)
        if now.power_mode is not None:
            yield Info("moir_edge_board", "Power mode", value={"power_mode": now.power_mode})


def _hertz(mhz: float | None) -> float | None:
    return None if mhz is None else mhz * 1e6
