"""Figures of `/metrics` for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from moir_edge.device.collector import BoardCollector
from moir_edge.runtime import Generation
from moir_edge.runtime.timing import peak_memory_bytes
from moir_edge.serve.jobs import Done
from moir_edge.serve.worker import Worker

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHARES = tuple(step / 10 for step in range(11))


class Metrics:
    """Counts and times of one server.

    Args:
        worker: Whose queue is told.
        board: Gives the sensors of the board; by default those of this machine.
    """

    def __init__(self, worker: Worker, board: BoardCollector | None = None) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "moir_edge_requests",
            "Requests, by path and status",
            ["path", "status"],
            registry=registry,
        )
        self._tokens = Counter("moir_edge_tokens", "Tokens", ["kind"], registry=registry)
        self._known = Counter(
            "moir_edge_image_cache_hits",
            "Answers whose image features were known",
            registry=registry,
        )
        self._cached = Counter(
            "moir_edge_prompt_cache_tokens",
            "Prompt tokens whose keys and values were known",
            registry=registry,
        )
        self._ttft = _seconds(
            "moir_edge_time_to_first_token_seconds", "Without the queue", registry
        )
        self._tpot = _seconds(
            "moir_edge_time_per_output_token_seconds", "After the first", registry
        )
        self._queue = _seconds("moir_edge_queue_seconds", "Wait for the device", registry)
        self._gate = _shares(
            "moir_edge_router_gate", "Mean gate of the tokens of a prompt", registry
        )
        self._density = _shares(
            "moir_edge_router_density", "Mean information density of a prompt", registry
        )
        waiting = Gauge("moir_edge_requests_waiting", "Requests that wait", registry=registry)
        waiting.set_function(lambda: worker.waiting)
        running = Gauge("moir_edge_requests_running", "Requests that run", registry=registry)
        running.set_function(lambda: worker.running)
        memory = Gauge("moir_edge_peak_memory_bytes", "Most resident memory", registry=registry)
        memory.set_function(peak_memory_bytes)
        registry.register(board or BoardCollector())

    def request(self, path: str, status: int) -> None:
        """Count a request that was answered."""
        self._requests.labels(path=path, status=str(status)).inc()

    def answer(self, done: Done) -> None:
        """Count an answer that was given to its end."""
        generation = done.generation
        self._tokens.labels(kind="prompt").inc(generation.prompt_tokens[0])
        self._tokens.labels(kind="generated").inc(len(generation.token_ids[0]))
        self._known.inc(generation.images_known)
        self._cached.inc(generation.cached_tokens)
        self._queue.observe(done.queue_ms / 1000)
        self._ttft.observe(generation.timings.ttft_ms / 1000)
        for step in generation.timings.decode_ms:
            self._tpot.observe(step / 1000)
        self._routing(generation)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text form."""
        return generate_latest(self.registry)

    def _routing(self, generation: Generation) -> None:
        for one in generation.routing or ():
            if len(one.gate):
                self._gate.observe(float(one.gate.mean()))
                self._density.observe(float(one.scores.mean()))


def _seconds(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, buckets=_SECONDS, registry=registry)


def _shares(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, buckets=_SHARES, registry=registry)
