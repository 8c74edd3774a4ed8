"""Whole models timed together: interleaved, in passes with fresh sessions, each latency with its interval.

A session's memory layout shifts a latency as a whole, and a machine's state drifts; no number of runs in one
session shows either. So passes are what is independent: a latency is the mean of its passes, and its interval
is Student's over them (Kalibera and Jones, Rigorous benchmarking in reasonable time,
https://doi.org/10.1145/2464157.2464160).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hwnas.latency.campaign import measure_chosen
from hwnas.latency.measure import (
    CONFIDENCE,
    Device,
    Plan,
    Samples,
    cores_of,
    shuffled_rounds,
    timings,
    trimmed_mean,
)
from hwnas.latency.noise import disturbance
from hwnas.progress import Progress, silent

PASSES = 6  # at first; where these do not decide, as many again
MOST_PASSES = 24
STABLE = 0.05  # half an interval, as a share, above which a latency does not repeat


@dataclass(frozen=True)
class Latency:
    """The latency of a model in milliseconds: `ms` is the mean of `passes_ms`, each in fresh sessions.

    `ci_ms` is the 95 % interval (low, high) over the passes, `cold_ms` the slowest first call, `preempted`
    the share of kept runs that the system interrupted, `dropped_readings` the number of impossible clock
    readings that were left out.
    """

    ms: float
    ci_ms: tuple[float, float]
    passes_ms: tuple[float, ...]
    cold_ms: float
    preempted: float
    dropped_readings: int = 0

    @property
    def half_width(self) -> float:
        """Half the interval, as a share of the latency."""
        return (self.ci_ms[1] - self.ci_ms[0]) / 2 / self.ms

    @property
    def stable(self) -> bool:
        """Whether the latency is known to ±5 %."""
        return self.half_width <= STABLE


@dataclass(frozen=True)
class Together:
    """Latencies of models that were timed together, in their order, and in words what disturbed them all."""

    latencies: tuple[Latency, ...]
    noise: tuple[str, ...]
    cores: tuple[int, ...] = ()  # numbers of the cores of all passes; empty if unknown


def time_together(
    models: Sequence[bytes],
    device: Device,
    rounds: int = 48,
    seed: int = 0,
    decided: Callable[[int, Latency], bool] = lambda model, latency: True,
    progress: Progress = silent,
) -> Together:
    """Time serialised ONNX models in six passes that share `rounds` shuffled rounds; two at least in each.

    Models whose latency has not `decided` what it is wanted for, by index, are timed in as many passes again,
    up to 24. `seed` draws the order of visits. DeviceError if a model cannot be timed.
    """
    if not models:
        return Together((), ())
    each, passes = max(2, math.ceil(rounds / PASSES)), list[Samples]()
    left, wanted = list(range(len(models))), PASSES
    while True:
        for number in range(len(passes), wanted):
            visits = shuffled_rounds(len(left), each, np.random.default_rng((seed, number)))
            plan = Plan(visits, cores=cores_of(passes))
            shown = _Shown(progress, number, wanted)
            selected = [models[i] for i in left]
            passes.append(measure_chosen(selected, left, len(models), device, plan, shown))
        timed = timings(passes, len(models), seed)
        latencies = []
        for i, timing in enumerate(timed):
            by_pass = _by_pass(passes, i)
            mean, (low, high) = sum(by_pass) / len(by_pass), student_interval(by_pass)
            interval = (max(low, 0.0), high)
            latencies.append(
                Latency(mean, interval, by_pass, timing.cold_ms, timing.preempted, timing.dropped_readings)
            )
        left = [i for i in left if not decided(i, latencies[i])]
        if not left or wanted >= MOST_PASSES:
            noise = tuple(disturbance(passes, timed, [slice(None)])[1])
            return Together(tuple(latencies), noise, cores_of(passes))
        wanted *= 2


@dataclass(frozen=True)
class _Shown:
    """Progress of a pass as that of all passes."""

    progress: Progress
    number: int
    wanted: int

    def __call__(self, done: int, total: int, text: str = "") -> None:
        text = f"pass {self.number + 1} of {self.wanted}: {text}"
        self.progress(self.number * total + done, self.wanted * total, text)


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval (low, high) of the mean of n independent values, at least two."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def geometric_mean(logarithms: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean ratio of n independent ones, given as logarithms, with its 95 % interval (low, high)."""
    low, high = student_interval(logarithms)
    return math.exp(float(np.mean(logarithms))), (math.exp(low), math.exp(high))


def _by_pass(passes: Sequence[Samples], model: int) -> tuple[float, ...]:
    """The latency of a model in each pass that has it, in milliseconds."""
    rows = [samples.time_ms[samples.model == model] for samples in passes]
    return tuple(float(trimmed_mean(times.ravel())) for times in rows if len(times))
