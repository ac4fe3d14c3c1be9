"""Counters of a server, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as _render
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_QUESTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)


class Metrics:
    """The counters of one server, in a registry of their own.

    Args:
        model: Name of the model.
        version: Version of qa-fast.
        engine: Name of the engine, such as "keras".
        precision: Precision of the engine's matrix products, such as "float32".
        cache_state: Returns hits, misses and bytes of the token cache.
    """

    def __init__(
        self, model: str, version: str, engine: str, precision: str, cache_state: Callable[[], tuple[int, int, int]]
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info("qa_fast", "What is served.", registry=self.registry).info(
            {"model": model, "version": version, "engine": engine, "precision": precision}
        )

        def histogram(name: str, help: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(f"qa_fast_{name}", help, buckets=buckets, registry=self.registry)

        self.requests = Counter(
            "qa_fast_requests",
            "Requests for answers, by the status of their response.",
            ["status"],
            registry=self.registry,
        )
        self.waiting = Gauge("qa_fast_waiting_requests", "Requests that wait to be answered.", registry=self.registry)
        self.abandoned = Counter(
            "qa_fast_abandoned_requests", "Requests withdrawn while they were answered.", registry=self.registry
        )
        self.request_seconds = histogram("request_seconds", "Time from a request's arrival to its response.")
        self.prepare_seconds = histogram("prepare_seconds", "Time to tokenize one request and cut it into windows.")
        self.model_seconds = histogram("model_seconds", "Time to compute one batch.")
        self.batch_questions = histogram("batch_questions", "Questions that began in one batch.", _QUESTIONS)
        self.batch_tokens = histogram("batch_tokens", "Tokens in the windows of one batch, without padding.", _TOKENS)
        self.registry.register(_CacheCollector(cache_state))

    def totals(self) -> tuple[int, int, int]:
        """Return the numbers of all requests for answers, of those that were refused, and of those that failed."""
        counts = [(sample.labels["status"], int(sample.value)) for metric in self.requests.collect()
                  for sample in metric.samples if sample.name.endswith("_total")]  # fmt: skip
        refused, failed = (sum(count for status, count in counts if status[0] == first) for first in "45")
        return sum(count for _, count in counts), refused, failed

    def render(self) -> bytes:
        """Return all values as text."""
        return _render(self.registry)


class _CacheCollector(Collector):
    """Reads the counts of the token cache when metrics are rendered."""

    def __init__(self, cache_state: Callable[[], tuple[int, int, int]]) -> None:
        self._cache_state = cache_state

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        hits, misses, size = self._cache_state()
        yield CounterMetricFamily("qa_fast_cache_hits", "Texts found in the token cache.", hits)
        yield CounterMetricFamily("qa_fast_cache_misses", "Texts tokenized.", misses)
        yield GaugeMetricFamily("qa_fast_cache_bytes", "Memory of the token cache.", size)
