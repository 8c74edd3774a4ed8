"""Whether one version of a model is faster than another, which a busy machine does not hide.

What slows a machine down for longer than a round slows both versions in the same rounds, and what interrupts
single runs moves no median. So the median over rounds of the ratio of the visits' medians is known much
better than either latency: beside other work on all cores to ±3 %, where latencies were to ±20 %. As
sessions differ by their memory layout, two campaigns with fresh sessions must agree; see
`hwnas.export.verify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.latency.measure import BOOTSTRAPS, CONFIDENCE, Device, Plan, shuffled_rounds, timings
from hwnas.progress import Progress, silent

CAMPAIGNS = 2  # each with sessions of its own


@dataclass(frozen=True)
class Comparison:
    """The latencies, in milliseconds, of a model and of another version of it, and how much faster that is.

    `ci_ms` are (low, high), the union of the campaigns' 95 % intervals. `speedup` is the old latency over
    the new one, the mean of the campaigns' medians over rounds, and `speedup_ci` the union of their 95 %
    intervals; it is not the ratio of the two latencies, which disturbances move.
    """

    old_ms: float
    old_ci_ms: tuple[float, float]
    new_ms: float
    new_ci_ms: tuple[float, float]
    speedup: float
    speedup_ci: tuple[float, float]

    @property
    def faster(self) -> bool:
        """Whether the new version is faster beyond doubt: by the interval of each campaign."""
        return self.speedup_ci[0] > 1


def compare(
    pairs: Mapping[str, tuple[bytes, bytes]],
    device: Device,
    rounds: int,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Comparison]:
    """Time pairs of serialised ONNX models, (old, new), all together in shuffled rounds; by the pairs' names.

    `rounds` are those of one campaign. DeviceError if a model cannot be timed.
    """
    models = [model for pair in pairs.values() for model in pair]
    latencies, intervals, speedups, bounds = [], [], [], []  # one row a campaign
    for campaign in range(CAMPAIGNS):
        generator = np.random.default_rng([seed, campaign])
        samples = device.measure(models, Plan(shuffled_rounds(len(models), rounds, generator)), progress)
        found = timings([samples], len(models), generator)
        latencies.append([timing.ms for timing in found])
        intervals.append([timing.ci_ms for timing in found])
        visits = np.median(samples.time_ns, axis=1)
        by_round = np.stack([visits[samples.model == i] for i in range(len(models))])  # (models, rounds)
        ratios = by_round[::2] / by_round[1::2]
        speedups.append(np.median(ratios, axis=1))
        resampled = np.median(ratios[:, generator.integers(0, rounds, (BOOTSTRAPS, rounds))], axis=2)
        tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        bounds.append(np.quantile(resampled, tails, axis=1).T)
    ms, speedup = np.mean(latencies, axis=0), np.mean(speedups, axis=0)
    low, high = np.min(intervals, axis=0)[:, 0], np.max(intervals, axis=0)[:, 1]
    least, most = np.min(bounds, axis=0)[:, 0], np.max(bounds, axis=0)[:, 1]
    return {
        name: Comparison(
            old_ms=float(ms[2 * i]),
            old_ci_ms=(float(low[2 * i]), float(high[2 * i])),
            new_ms=float(ms[2 * i + 1]),
            new_ci_ms=(float(low[2 * i + 1]), float(high[2 * i + 1])),
            speedup=float(speedup[i]),
            speedup_ci=(float(least[i]), float(most[i])),
        )
        for i, name in enumerate(pairs)
    }
