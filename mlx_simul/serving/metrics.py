"""What the server does, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlx_simul.serving.streams import Streams

LAG_WORDS = (0, 1, 2, 3, 5, 7, 10, 15, 25, 40)


class Metrics(Collector):
    """Reads the figures of streams whenever it is asked.

    Args:
        streams: of the server.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._registry = CollectorRegistry()
        self._registry.register(self)
        lag = Histogram(
            "mlx_simul_lag_words",
            "Source words that had arrived and not been read when a target word was complete.",
            buckets=LAG_WORDS,
            registry=self._registry,
        )
        streams.counts.on_lag = lag.observe

    def text(self) -> bytes:
        """All figures, in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now."""
        streams, figures = self._streams, self._streams.worker.figures
        gauges = {
            "sessions": ("Live sessions.", len(streams)),
            "listeners": ("Connections that hear a session.", streams.n_connections),
            "step_running_seconds": (
                "How long one pass has been running.",
                streams.worker.stalled_s,
            ),
            "memory_bytes": ("Memory of MLX's arrays.", figures.memory_bytes),
            "audio_waiting_seconds": (
                "Audio that waits to be recognised.",
                streams.waiting_audio_s,
            ),
        }
        counters = {
            "source_words": ("Source words read.", streams.counts.words_read),
            "target_words": ("Target words written.", streams.counts.words_written),
            "passes": ("Passes over a model, each for many sessions.", figures.steps),
            "pass_rows": ("Sessions that took part, summed over the passes.", figures.rows),
            "pass_seconds": ("Time that passes took.", figures.step_s),
            "sessions_opened": ("Sessions that have begun.", streams.counts.n_opened),
        }
        if streams.recognition is not None:
            heard = streams.recognition.figures
            counters |= {
                "audio_seconds": ("Audio that was listened to.", heard.audio_s),
                "recognition_seconds": ("Time spent recognising audio.", heard.busy_s),
            }
        for name, (help_text, value) in gauges.items():
            yield GaugeMetricFamily(f"mlx_simul_{name}", help_text, value=value)
        for name, (help_text, value) in counters.items():
            yield CounterMetricFamily(f"mlx_simul_{name}", help_text, value=value)
        refusals = CounterMetricFamily(
            "mlx_simul_refusals", "What was refused, by the code of the error.", labels=["code"]
        )
        for code, count in sorted(streams.counts.refusals.items()):
            refusals.add_metric([code], count)
        yield refusals
