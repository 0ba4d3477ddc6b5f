"""Figures for Prometheus, in a registry of their own. Texts, tokens and addresses of clients are in none of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from retrainer.server.batcher import Run
from retrainer.server.models import Models, State

CONTENT_TYPE = CONTENT_TYPE_LATEST
PREDICT_ROUTE = "/v1/models/{name}:predict"
# For names that no model has: a client must not be able to make a series for each name that it invents.
NO_MODEL = ""
# For addresses that are none, and what is not even HTTP.
NO_ROUTE = "other"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """What a server counts."""

    def __init__(self, models: Models) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "retrainer_http_requests",
            "Requests that were answered.",
            ("model", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "retrainer_http_request_seconds",
            "From a prediction's headers to its answer.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rows = Counter(
            "retrainer_rows", "Texts or pairs that went through runs.", ("model",), registry=self._registry
        )
        self._batch_rows = Histogram(
            "retrainer_batch_rows", "Rows of a run.", ("model",), buckets=_SIZES, registry=self._registry
        )
        self._batch_requests = Histogram(
            "retrainer_batch_requests",
            "Requests that share a run.",
            ("model",),
            buckets=_SIZES,
            registry=self._registry,
        )
        self._run_seconds = Histogram(
            "retrainer_run_seconds", "Time that a run takes.", ("model",), buckets=_SECONDS, registry=self._registry
        )
        self._counted: dict[tuple[str, str, int], Counter] = {}
        self._timed: dict[str, Histogram] = {}
        self._registry.register(_ModelCollector(models))
        ProcessCollector(registry=self._registry)

    def answered(self, model: str, route: str, status: int) -> None:
        """Count a request."""
        key = (model, route, status)
        counter = self._counted.get(key)
        if counter is None:
            counter = self._counted[key] = self._requests.labels(model, route, str(status))
        counter.inc()

    def predicted(self, model: str, status: int, seconds: float) -> None:
        """Count a prediction, whatever came of it."""
        self.answered(model, PREDICT_ROUTE, status)
        timer = self._timed.get(model)
        if timer is None:
            timer = self._timed[model] = self._seconds.labels(model)
        timer.observe(seconds)

    def ran(self, model: str, run: Run) -> None:
        """Count a run."""
        self._rows.labels(model).inc(run.rows)
        self._batch_rows.labels(model).observe(run.rows)
        self._batch_requests.labels(model).observe(run.requests)
        self._run_seconds.labels(model).observe(run.seconds)

    def render(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)


class _ModelCollector(Collector):
    """What the models say of themselves, when it is asked for."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("retrainer_model_ready", "1 when the model answers.", labels=("model",))
        queue = GaugeMetricFamily("retrainer_queue_rows", "Rows that wait for a run.", labels=("model",))
        info = GaugeMetricFamily(
            "retrainer_model_version_info",
            "The version that answers.",
            labels=("model", "channel", "version", "precision"),
        )
        swaps = CounterMetricFamily("retrainer_model_swaps", "Versions that took over from another.", labels=("model",))
        refusals = CounterMetricFamily("retrainer_model_refusals", "Versions that were refused.", labels=("model",))
        age = GaugeMetricFamily(
            "retrainer_store_look_age_seconds",
            "Since the channel was last read from the store, or since the start where it never was.",
            labels=("model",),
        )
        failed = GaugeMetricFamily(
            "retrainer_model_failed_looks",
            "Looks at the store in a row that did not end with its champion: unreachable, refused, no room for it.",
            labels=("model",),
        )
        offline = GaugeMetricFamily(
            "retrainer_model_offline", "1 while the store cannot be reached.", labels=("model",)
        )
        watching = GaugeMetricFamily("retrainer_model_watching", "1 while the channel is followed.", labels=("model",))
        for model in self._models:
            name = (model.name,)
            ready.add_metric(name, float(model.state is State.READY))
            queue.add_metric(name, float(model.batcher.queued_rows) if model.batcher is not None else 0.0)
            if model.classifier is None:
                continue
            status = model.classifier.status
            info.add_metric((model.name, model.address.channel, status.version, status.precision), 1.0)
            swaps.add_metric(name, status.swaps)
            refusals.add_metric(name, status.refusals)
            looked_at = status.checked_at or status.loaded_at
            age.add_metric(name, (datetime.now(UTC) - looked_at).total_seconds())
            failed.add_metric(name, float(status.failures_in_a_row))
            offline.add_metric(name, float(status.offline))
            watching.add_metric(name, float(status.watching))
        return iter((ready, queue, info, swaps, refusals, age, failed, offline, watching))
