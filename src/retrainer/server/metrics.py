"""Figures for Prometheus, in a registry of their own. Texts, tokens and addresses of clients are in none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from retrainer.serve.status import Status
from retrainer.server.batcher import Ended
from retrainer.server.models import Models, State

CONTENT_TYPE = CONTENT_TYPE_LATEST
# For names that no model has, and addresses that do not exist: a client must not be able to make a series for each
# that it invents.
NO_MODEL = ""
NO_ROUTE = "other"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What a server counts."""

    def __init__(self, models: Models) -> None:
        self._registry = CollectorRegistry()
        requests = Counter(
            "retrainer_http_requests",
            "Requests that were answered.",
            ("model", "route", "status"),
            registry=self._registry,
        )
        seconds = self._histogram("http_request_seconds", "From a question's headers to its answer's end.", _SECONDS)
        # Looked up for each request, and there are few.
        self._requests = cache(requests.labels)
        self._seconds = cache(seconds.labels)
        self._rows = Counter(
            "retrainer_rows", "Texts or pairs that went through runs.", ("model",), registry=self._registry
        )
        self._batch_rows = self._histogram("batch_rows", "Texts of a run.", _SIZES)
        self._batch_requests = self._histogram("batch_requests", "Requests that share a run.", _SIZES)
        self._run_seconds = self._histogram("run_seconds", "Time that a run takes.", _SECONDS)
        self._registry.register(_ModelCollector(models))
        ProcessCollector(registry=self._registry)

    def _histogram(self, name: str, said: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"retrainer_{name}", said, ("model",), buckets=buckets, registry=self._registry)

    def answered(self, model: str, route: str, status: int) -> None:
        """Count a request."""
        self._requests(model, route, str(status)).inc()

    def predicted(self, model: str, seconds: float) -> None:
        """Time a prediction, whatever came of it."""
        self._seconds(model).observe(seconds)

    def ran(self, model: str, run: Ended) -> None:
        """Count a run."""
        self._rows.labels(model).inc(run.rows)
        self._batch_rows.labels(model).observe(run.rows)
        self._batch_requests.labels(model).observe(run.requests)
        self._run_seconds.labels(model).observe(run.seconds)

    def render(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)


# Of a model that is loaded, by its name in the figures: what it means, and where in its status it is.
_OF_STATUS: dict[str, tuple[type[GaugeMetricFamily | CounterMetricFamily], str, Callable[[Status], float]]] = {
    "model_swaps": (CounterMetricFamily, "Versions that took over from another.", lambda status: status.swaps),
    "model_refusals": (CounterMetricFamily, "Versions that were refused.", lambda status: status.refusals),
    "store_look_age_seconds": (
        GaugeMetricFamily,
        "Since the channel was last read from the store, or since the start where it never was.",
        lambda status: (datetime.now(UTC) - (status.checked_at or status.loaded_at)).total_seconds(),
    ),
    "model_failed_looks": (
        GaugeMetricFamily,
        "Looks at the store in a row that did not end with its champion: unreachable, refused, no room for it.",
        lambda status: status.failures_in_a_row,
    ),
    "model_offline": (GaugeMetricFamily, "1 while the store cannot be reached.", lambda status: status.offline),
    "model_watching": (GaugeMetricFamily, "1 while the channel is followed.", lambda status: status.watching),
}


class _ModelCollector(Collector):
    """What the models say of themselves, when it is asked for."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("retrainer_model_ready", "1 when the model answers.", labels=("model",))
        queue = GaugeMetricFamily("retrainer_queue_rows", "Texts that wait for a run.", labels=("model",))
        named = ("model", "channel", "version", "precision")
        info = GaugeMetricFamily("retrainer_model_version_info", "The version that answers.", labels=named)
        statuses = {model.name: model.client.status for model in self._models if model.client is not None}
        for model in self._models:
            ready.add_metric((model.name,), float(model.state is State.READY))
            queue.add_metric((model.name,), float(model.queue.queued_rows) if model.queue is not None else 0.0)
            if status := statuses.get(model.name):
                info.add_metric((model.name, model.address.channel, status.version, status.precision), 1.0)
        yield from (ready, queue, info)
        for figure, (kind, said, value) in _OF_STATUS.items():
            family = kind(f"retrainer_{figure}", said, labels=("model",))
            for name, status in statuses.items():
                family.add_metric((name,), float(value(status)))
            yield family
