"""Figures for Prometheus."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from moir_edge.device.collector import BoardCollector
from moir_edge.device.sensors import Telemetry
from moir_edge.serve.jobs import Done
from moir_edge.serve.metrics import Metrics

from .running import Run

WORKER: Any = SimpleNamespace(waiting=3, running=1)


def figures(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        one.name + "".join(f" {value}" for value in one.labels.values()): one.value
        for family in families
        for one in family.samples
    }


def test_an_answer_is_counted() -> None:
    metrics = Metrics(WORKER, BoardCollector(Telemetry))
    run = Run(4)
    routing: Any = (SimpleNamespace(gate=np.array([0.2, 0.4]), scores=np.array([0.5, 0.7])),)
    object.__setattr__(run.result, "routing", routing)
    object.__setattr__(run.result, "cached_tokens", 7)
    metrics.answer(Done(generation=run.result, queue_ms=1500.0))
    metrics.request("/v1/chat/completions", 200)
    metrics.request("other", 404)
    found = figures(metrics)
    assert found["moir_edge_requests_total /v1/chat/completions 200"] == 1
    assert found["moir_edge_requests_total other 404"] == 1
    assert found["moir_edge_tokens_total prompt"] == 10
    assert found["moir_edge_tokens_total generated"] == 4
    assert found["moir_edge_prompt_cache_tokens_total"] == 7
    assert found["moir_edge_queue_seconds_sum"] == 1.5
    assert found["moir_edge_time_to_first_token_seconds_sum"] == 0.002
    assert found["moir_edge_time_per_output_token_seconds_count"] == 1
    assert found["moir_edge_requests_waiting"] == 3
    assert found["moir_edge_requests_running"] == 1
    assert found["moir_edge_peak_memory_bytes"] > 1e6
    assert abs(found["moir_edge_router_gate_sum"] - 0.3) < 1e-9  # a sum of two floats
    assert abs(found["moir_edge_router_density_sum"] - 0.6) < 1e-9


def test_the_sensors_of_a_board_are_told() -> None:
    reading = Telemetry(rails_w={"VDD_IN": 7.5}, temperatures_c={"cpu-thermal": 51.0})
    found = figures(Metrics(WORKER, BoardCollector(lambda: reading)))
    assert found["moir_edge_board_power_watts VDD_IN"] == 7.5
    assert found["moir_edge_board_temperature_celsius cpu-thermal"] == 51.0
