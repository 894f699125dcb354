"""/metrics in Prometheus's words and under vLLM's names, so that dashboards made for it show this server too.

Counters and gauges come from the engine on each request; latencies are observed where outputs reach their request.
Used by the event loop only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from weft.base.data_files import read_toml
from weft.engine.core.buckets import Buckets
from weft.frontend.server.errors import CLIENT_GONE
from weft.frontend.server.metrics.engine_view import EngineView, engine_label, histogram
from weft.frontend.serving.replicas import Replicas
from weft.frontend.serving.stream import Stream

CONTENT_TYPE = CONTENT_TYPE_LATEST

ANSWER_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60)

REASONS = ("stop", "length", "abort", "error")
"""Why outputs end."""


class _Tables(msgspec.Struct, frozen=True):
    bounds: dict[str, tuple[float, ...]]
    histograms: dict[str, dict[str, str]]


_TABLES = read_toml("weft.frontend.server.metrics", "histograms.toml", _Tables)
HISTOGRAMS = {name: (row["text"], _TABLES.bounds[row["bounds"]]) for name, row in _TABLES.histograms.items()}
"""Name -> what it counts, upper bounds of its buckets."""
OLDER_NAMES = {"time_per_output_token_seconds": "inter_token_latency_seconds"}


class _Histograms(Collector):
    """All of HISTOGRAMS, for each replica."""

    def __init__(self, engines: Replicas, model: str) -> None:
        self._engines, self._model = engines, model
        self.of = [{name: Buckets(bounds) for name, (_, bounds) in HISTOGRAMS.items()} for _ in engines.loops]

    def collect(self) -> Iterator[Metric]:
        """Metric families."""
        for name, (text, _) in HISTOGRAMS.items():
            yield self._family(name, text, name)
        for name, newer in OLDER_NAMES.items():
            yield self._family(name, f"The older name of vllm:{newer}", newer)

    def _family(self, name: str, text: str, source: str) -> Metric:
        series = [
            ((self._model, engine_label(self._engines, replica)), values[source])
            for replica, values in enumerate(self.of)
        ]
        return histogram(f"vllm:{name}", text, ("model_name", "engine"), series)


class Metrics:
    """A registry of its own: two servers can live in one process."""

    def __init__(self, engines: Replicas, model: str) -> None:
        self._engines, self._model = engines, model
        self._registry = CollectorRegistry(auto_describe=False)
        self._view = EngineView(engines, model)
        self._registry.register(self._view)
        histograms = _Histograms(engines, model)
        self._registry.register(histograms)
        self.of = histograms.of
        """By replica."""
        names = ("model_name", "engine", "finished_reason")
        self._success = Counter("vllm:request_success", "Answers that ended", names, registry=self._registry)
        self._refused = Counter("weft:requests_failed", "Requests that failed", ("status",), registry=self._registry)
        self._accepted = Counter("weft:requests_accepted", "Requests taken in", registry=self._registry)
        self._completed = Counter("weft:requests_completed", "Requests answered whole", registry=self._registry)
        self._http = Counter("http_requests", "HTTP answers", ("handler", "method", "status"), registry=self._registry)
        self._http_s = Histogram(
            "http_request_duration_seconds",
            "From the head of a request to the end of its answer",
            ("handler", "method"),
            buckets=ANSWER_S,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)

    def begin(self, stream: Stream) -> RequestTimes:
        """A request has been taken in; at its end it has completed or failed, never both."""
        self._accepted.inc()
        of = self.of[stream.replica]
        for prompt in stream.prompts:
            of["request_prompt_tokens"].observe(len(prompt))
        of["request_params_n"].observe(stream.params.n)
        if stream.params.max_tokens is not None:
            of["request_params_max_tokens"].observe(stream.params.max_tokens)
        return RequestTimes(self, stream)

    def ended(self, replica: int, reason: str, answers: int = 1) -> None:
        """An answer is whole, or its client has left (`abort`, `error`)."""
        self._success.labels(self._model, engine_label(self._engines, replica), reason).inc(answers)

    def completed(self) -> None:
        """A request's answers are whole."""
        self._completed.inc()

    def failed(self, status: int) -> None:
        """A request that had been taken in came to nothing."""
        self._refused.labels(str(status)).inc()

    def answered(self, handler: str, method: str, status: int, seconds: float) -> None:
        """Any HTTP answer; `handler` is a route's pattern, or "none"."""
        self._http.labels(handler, method, f"{status // 100}xx").inc()
        self._http_s.labels(handler, method).observe(seconds)

    async def exposition(self) -> bytes:
        """The whole page."""
        self._view.stats = await self._engines.stats()
        for loop in self._engines.loops:
            if loop.engine is not None:  # a counter that begins at 1 has no rate: all begin at 0
                for reason in REASONS:
                    self._success.labels(self._model, engine_label(self._engines, loop.index), reason)
        return generate_latest(self._registry)


class RequestTimes:
    """Times of one request's outputs, counted where it runs."""

    def __init__(self, metrics: Metrics, stream: Stream) -> None:
        self._metrics, self._stream = metrics, stream
        self._began = time.monotonic()
        self._firsts: dict[int, float] = {}
        self._lasts: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._queued_s: dict[int, float] = {}
        self._over, self._whole = False, 0

    @property
    def _of(self) -> dict[str, Buckets]:
        return self._metrics.of[self._stream.replica]

    def tokens(self, output: int, count: int, queued_s: float) -> None:
        """`count` tokens of an output have come; it had waited `queued_s` for its first step."""
        if not count:
            return
        now = time.monotonic()
        last = self._lasts.get(output)
        if last is not None:
            self._of["inter_token_latency_seconds"].observe((now - last) / count, count)
        else:
            self._firsts[output], self._queued_s[output] = now, queued_s
            self._of["time_to_first_token_seconds"].observe(now - self._began)
        self._lasts[output] = now
        self._counts[output] = self._counts.get(output, 0) + count

    def computed(self, tokens: int) -> None:
        """Of a prompt, so many were not in the prefix cache."""
        self._of["request_prefill_kv_computed_tokens"].observe(tokens)

    def ended(self, output: int, reason: str) -> None:
        """An output is whole."""
        of, count = self._of, self._counts.get(output, 0)
        of["e2e_request_latency_seconds"].observe(time.monotonic() - self._began)
        self._metrics.ended(self._stream.replica, reason)
        self._whole += 1
        of["request_generation_tokens"].observe(count)
        if not count:
            return
        first, last, queued = self._firsts[output], self._lasts[output], self._queued_s[output]
        started = min(first, self._began + queued)
        of["request_queue_time_seconds"].observe(queued)
        of["request_prefill_time_seconds"].observe(first - started)
        of["request_decode_time_seconds"].observe(last - first)
        of["request_inference_time_seconds"].observe(last - started)
        if count > 1:
            of["request_time_per_output_token_seconds"].observe((last - first) / (count - 1))

    def whole(self) -> None:
        """Every output is."""
        self._over = True
        self._metrics.completed()
        self._of["request_max_num_generation_tokens"].observe(max(self._counts.values(), default=0))

    def failed(self, status: int) -> None:
        """The request came to nothing; said again, or after it was whole, it is not counted."""
        if self._over:
            return
        self._over = True
        self._metrics.failed(status)
        reason = "abort" if status == CLIENT_GONE else "error"
        outputs = self._stream.n * len(self._stream.request_ids)
        self._metrics.ended(self._stream.replica, reason, outputs - self._whole)

    def again(self) -> None:
        """What came is void."""
        self._firsts, self._lasts, self._counts, self._whole = {}, {}, {}, 0
