"""What a demo measures: how far the model has come and how good it is, and how long predictions take."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

MAX_LATENCIES = 100_000  # kept for the percentiles: an hour's worth


@dataclass(frozen=True)
class Forecast:
    """A flight, the probability that it would be late, given before it was learned, and whether it was."""

    features: dict[str, Any]
    probability: float
    is_late: bool


@dataclass
class Measurement:
    """What the demo has seen so far; seconds are monotonic.

    Args:
        model: the last answer of GET /v1/model.
        idle_at: when nothing had been learned yet, last seen; `grown_at` when the count last grew.
        latencies_ms: of the last predictions that were answered; `n_predictions` counts them all.
        forecast: the last of them that was of a flight not yet learned.
    """

    model: dict[str, Any] = field(default_factory=dict)
    idle_at: float = 0.0
    grown_at: float = 0.0
    n_predictions: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_LATENCIES))
    forecast: Forecast | None = None

    @property
    def n_events(self) -> int:
        """Flights learned so far."""
        return int((self.model.get("version") or {}).get("events", 0))

    @property
    def events_per_second(self) -> float:
        """Flights learned a second, from before the first until the last so far."""
        return self.n_events / (self.grown_at - self.idle_at) if self.n_events else 0.0

    def metric(self, name: str) -> float | None:
        """A progressive metric over all flights; None before there is one."""
        value: float | None = self.model.get("metrics", {}).get(name)
        return value

    def percentile_ms(self, share: float) -> float | None:
        """The latency that `share` of the predictions stayed within (nearest rank); None before the first."""
        ordered = sorted(self.latencies_ms)
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None

    def note(self, model: dict[str, Any], now: float) -> None:
        """Take in an answer of GET /v1/model."""
        before, self.model = self.n_events, model
        if not self.n_events:
            self.idle_at = now
        if self.n_events > before:
            self.grown_at = now

    def summary(self) -> dict[str, float | int | None]:
        """The figures that `--json` prints, all of them measured; null where there was nothing to measure."""
        return {
            "events": self.n_events,
            "events_per_second": round(self.events_per_second, 1),
            "log_loss": self.metric("log_loss"),
            "auc": self.metric("auc"),
            "baseline_log_loss": self.metric("baseline_log_loss"),
            "predictions": self.n_predictions,
            "predict_p50_ms": self.percentile_ms(0.50),
            "predict_p99_ms": self.percentile_ms(0.99),
        }
