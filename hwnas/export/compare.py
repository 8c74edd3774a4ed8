"""Whether one version of a model is faster than another, which a busy machine does not hide.

What slows a machine down for longer than a round slows both versions in the same rounds, and what interrupts
single runs moves no median. So the median over the rounds of a pass of the ratio of the visits' medians is
known much better than either latency. Passes have fresh sessions and are what is independent, as everywhere:
see `hwnas.latency.together`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.latency.measure import Device, Plan, Samples, check_clock, cores_of, shuffled_rounds, trimmed_mean
from hwnas.latency.together import PASSES, geometric_mean, student_interval
from hwnas.progress import Progress, silent


@dataclass(frozen=True)
class Comparison:
    """The latencies, in milliseconds, of a model and of another version of it, and how much faster that is.

    `ci_ms` are 95 % intervals (low, high) over passes. `speedup` is the old latency over the new one, the
    geometric mean of what passes say, with its 95 % interval; it is not the ratio of the two latencies, which
    disturbances move.
    """

    old_ms: float
    old_ci_ms: tuple[float, float]
    new_ms: float
    new_ci_ms: tuple[float, float]
    speedup: float
    speedup_ci: tuple[float, float]

    @property
    def faster(self) -> bool:
        """Whether the new version is faster beyond doubt."""
        return self.speedup_ci[0] > 1


def compare(
    pairs: Mapping[str, tuple[bytes, bytes]],
    device: Device,
    rounds: int,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Comparison]:
    """Time pairs of serialised ONNX models, (old, new), all together; by the pairs' names.

    They are visited in six passes that share `rounds` shuffled rounds, four at least in each. DeviceError if
    a model cannot be timed.
    """
    models = [model for pair in pairs.values() for model in pair]
    each = max(4, math.ceil(rounds / PASSES))
    passes: list[Samples] = []
    latencies, ratios = [], []  # of each pass: (models,) milliseconds, (pairs,) logarithms
    for number in range(PASSES):
        generator = np.random.default_rng((seed, number))
        plan = Plan(shuffled_rounds(len(models), each, generator), cores=cores_of(passes))
        samples = device.measure(models, plan, progress)
        passes.append(samples)
        check_clock(passes)
        # Models of one visit a round, so the visits of each are in the order of the rounds.
        times = np.stack([samples.time_ms[samples.model == i] for i in range(len(models))])
        latencies.append(trimmed_mean(times.reshape(len(models), -1)))
        medians = np.ma.median(np.ma.masked_invalid(times), axis=2)  # type: ignore[no-untyped-call]  # (models, rounds)
        visits = np.log(np.ma.filled(medians, np.nan))
        ratios.append(np.nanmedian(visits[::2] - visits[1::2], axis=1))
    cores_of(passes)
    ms, logs = np.stack(latencies, axis=1), np.stack(ratios, axis=1)
    found = {}
    for i, name in enumerate(pairs):
        old, new, log = ms[2 * i], ms[2 * i + 1], logs[i]
        speedup, speedup_ci = geometric_mean(log.tolist())
        found[name] = Comparison(
            old_ms=float(old.mean()),
            old_ci_ms=student_interval(old.tolist()),
            new_ms=float(new.mean()),
            new_ci_ms=student_interval(new.tolist()),
            speedup=speedup,
            speedup_ci=speedup_ci,
        )
    return found
