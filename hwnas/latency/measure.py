"""The timing protocol: what a device is asked to do, and what becomes of the samples it gives.

All models stay ready while they are timed and are visited in shuffled order, so that a disturbance falls on
all alike. A visit discards its first runs and keeps the next: latency is warm, back to back. A latency is the
mean of the kept runs without the 10 % fastest and the 10 % slowest; its confidence interval is bootstrapped
over visits, since runs of one visit are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import DeviceError, TimingError
from hwnas.latency import runner
from hwnas.progress import Progress, silent
from hwnas.spaces.base import Rng

TRIM = 0.1  # share cut off at either end
BOOTSTRAPS = 200
CONFIDENCE = 0.95

Visit = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Which models are timed, in which order, how often: plain data that can be sent to another machine.

    A visit names models by index. They are run in turn, `warmup_runs` times discarded and `kept_runs` times
    kept, so a visit to one model times it back to back, and a visit to several times each of them amid the
    others. After `time_limit_s`, opening included, the visits that are left are dropped. `cores` are those of
    the earlier passes of the same measurement; the device uses them again while they are available.
    """

    visits: tuple[Visit, ...]
    warmup_runs: int = 5
    kept_runs: int = 5
    time_limit_s: float = math.inf
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.warmup_runs < 0 or self.kept_runs < 1:
            raise DeviceError(
                f"warmup_runs is {self.warmup_runs} and kept_runs {self.kept_runs}; give at least 0 and 1"
            )


def shuffled_rounds(models: int, rounds: int, rng: Rng) -> tuple[Visit, ...]:
    """`rounds` visits to each of n models alone: every round has each of them once, in shuffled order."""
    if rounds < 2:
        raise DeviceError(f"rounds is {rounds}; give at least 2")
    generator = np.random.default_rng(rng)
    return tuple((int(model),) for _ in range(rounds) for model in generator.permutation(models))


@dataclass(frozen=True)
class Samples:
    """What a device measured, in nanoseconds: one row for each model of each visit, in the order of the plan.

    `time_ns` is what the device's statistic says (CPU time of the thread, wall time, device events).
    """

    model: NDArray[np.int64]  # (rows,): index of the model
    time_ns: NDArray[np.int64]  # (rows, kept_runs)
    wall_ns: NDArray[np.int64]  # (rows, kept_runs)
    preempted: NDArray[np.bool_]  # (rows, kept_runs): interrupted by the system
    cold_ns: NDArray[np.int64]  # (models,): wall time of the very first call
    cores: tuple[int, ...] = ()  # numbers of the cores that the models ran on; empty if unknown

    @property
    def possible(self) -> NDArray[np.bool_]:
        """Whether each reading is a positive, finite time: (rows, kept_runs)."""
        return np.asarray((self.time_ns > 0) & np.isfinite(self.time_ns))

    @property
    def time_ms(self) -> NDArray[np.float64]:
        """Times in milliseconds, (rows, kept_runs); NaN for a reading that is dropped as impossible."""
        return np.where(self.possible, self.time_ns / 1e6, np.nan)


@dataclass(frozen=True)
class Identity:
    """What a latency is true of: the machine and the runtime with its settings, as plain data of a table."""

    device: dict[str, Any]  # name, cpu, cores
    runtime: dict[str, Any]  # name, version, threads, graph_optimization
    statistic: str


class Device(Protocol):
    """Where models are timed. One that is far away gets the models and the plan, and sends samples back."""

    @property
    def identity(self) -> Identity:
        """The machine and the runtime."""
        ...

    def measure(self, models: Sequence[bytes], plan: Plan, progress: Progress = silent) -> Samples:
        """Times of serialised ONNX models on random inputs of their types; DeviceError if one cannot run."""
        ...


@contextmanager
def naming_models(names: Sequence[str]) -> Iterator[None]:
    """Begin the message of a DeviceError about one model with the name of that model.

    Args:
        names: The names of the models that are timed in the block, in their order.
    """
    try:
        yield
    except DeviceError as error:
        if error.model is None or error.model not in range(len(names)):
            raise
        raise DeviceError(f"{names[error.model]}: {error}", error.model) from error.__cause__


@dataclass(frozen=True)
class Timing:
    """The latency of one model.

    `ci_ms` is the 95 % confidence interval (low, high), `std_ms` the standard deviation of single visits,
    `count` the number of visits, `preempted` the share of kept runs that the system interrupted,
    `halves_ms` the latency by the even and by the odd passes alone (visits, where there was one pass), which
    says how repeatable it is; `replicates_ms` the latency of 200 bootstrap samples of the visits.
    `dropped_readings` is the number of impossible clock readings, which the latency leaves out.
    """

    ms: float
    ci_ms: tuple[float, float]
    std_ms: float
    count: int
    wall_ms: float
    cold_ms: float
    preempted: float
    halves_ms: tuple[float, float] = field(repr=False)
    replicates_ms: NDArray[np.float64] = field(repr=False, compare=False)
    dropped_readings: int = 0


def time_models(
    models: Sequence[bytes],
    device: Device,
    rounds: int = 48,
    rng: Rng = 0,
    progress: Progress = silent,
    time_limit_s: float = math.inf,
) -> list[Timing]:
    """The latency of serialised models, timed together in shuffled rounds; `rng` orders and bootstraps.

    DeviceError if one cannot be timed.
    """
    generator = np.random.default_rng(rng)
    plan = Plan(shuffled_rounds(len(models), rounds, generator), time_limit_s=time_limit_s)
    return timings([device.measure(models, plan, progress)], len(models), generator)


def cores_of(passes: Sequence[Samples]) -> tuple[int, ...]:
    """Return the cores of the passes of a measurement.

    Args:
        passes: the passes; those of older versions may not know their cores.

    Returns:
        The numbers of the cores; empty if no pass knows them.

    Raises:
        DeviceError: if passes ran on different cores.
    """
    known = list(dict.fromkeys(samples.cores for samples in passes if samples.cores))
    if len(known) > 1:
        first, last = (runner.core_list(cores) for cores in (known[0], known[-1]))
        raise DeviceError(
            f"the measurement began on cores {first}, which are no longer available, and continued on cores "
            f"{last}; their latencies may differ: measure again"
        )
    return known[0] if known else ()


def check_clock(passes: Sequence[Samples]) -> None:
    """Check that the clock of a measurement works: impossible readings, which are dropped, must be rare.

    Args:
        passes: the passes of the measurement.

    Raises:
        TimingError: if more than one reading is impossible, and more than one in a thousand, or if most
            readings of a model in a pass are.
    """
    counts: list[tuple[int, int]] = []
    wrong: list[float] = []
    for samples in passes:
        possible = samples.possible
        impossible = np.bincount(samples.model, np.sum(~possible, axis=1))
        readings = np.bincount(samples.model, np.full(len(possible), possible.shape[1]))
        counts += [(int(i), int(n)) for i, n in zip(impossible, readings, strict=True) if n]
        wrong += samples.time_ns[~possible].tolist()
    if runner.is_clock_broken(counts):
        raise TimingError(
            f"the device gave a time of {wrong[0]} ns, which is no positive number, and {len(wrong)} of "
            f"{sum(n for _, n in counts)} timed runs have such a time: its clock cannot resolve these "
            "models, or is broken; measure again, or choose another device"
        )


def timings(passes: Sequence[Samples], models: int, rng: Rng) -> list[Timing]:
    """What the samples of one or more passes say of each of n models; `rng` is for the bootstrap.

    Readings that are no positive times are dropped. TimingError if they are too many for a clock that works,
    see `check_clock`; DeviceError for a model that was visited less than twice.
    """
    check_clock(passes)
    generator = np.random.default_rng(rng)
    visited = np.concatenate([samples.model for samples in passes])
    time_ms = np.concatenate([samples.time_ms for samples in passes])
    wall_ms = np.concatenate([samples.wall_ns for samples in passes]) / 1e6
    preempted = np.concatenate([samples.preempted for samples in passes])
    number = np.repeat(np.arange(len(passes)), [len(samples.model) for samples in passes])
    cold_ns = np.max([samples.cold_ns for samples in passes], axis=0)
    order = np.argsort(visited, kind="stable")
    bounds = np.searchsorted(visited[order], np.arange(models + 1))
    found = []
    for model in range(models):
        rows = order[bounds[model] : bounds[model + 1]]
        dropped = int(np.isnan(time_ms[rows]).sum())
        rows = rows[~np.isnan(time_ms[rows]).all(axis=1)]
        if len(rows) < 2:
            raise DeviceError(f"model {model} was visited {len(rows)} times, not twice; allow more time")
        times = time_ms[rows]
        replicates = _bootstrap(times, generator)
        low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        half = np.unique(number[rows], return_inverse=True)[1] % 2  # of the passes that visited this model
        if not half.any():
            half = np.arange(len(rows)) % 2
        found.append(
            Timing(
                ms=float(trimmed_mean(times.ravel())),
                ci_ms=(float(low), float(high)),
                std_ms=float(np.std(trimmed_mean(times), ddof=1)),
                count=len(rows),
                wall_ms=float(trimmed_mean(wall_ms[rows].ravel())),
                cold_ms=float(cold_ns[model] / 1e6),
                preempted=float(preempted[rows].mean()),
                halves_ms=(
                    float(trimmed_mean(times[half == 0].ravel())),
                    float(trimmed_mean(times[half == 1].ravel())),
                ),
                replicates_ms=replicates,
                dropped_readings=dropped,
            )
        )
    return found


def _bootstrap(times: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """The latency of resampled visits, (200,), of times (visits, runs)."""
    resampled = generator.integers(0, len(times), (BOOTSTRAPS, len(times)))
    return trimmed_mean(times[resampled].reshape(BOOTSTRAPS, -1))


def trimmed_mean(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without NaN, the 10 % smallest and the 10 % largest: (..., n) to (...)."""
    if np.isnan(times).any():
        return np.apply_along_axis(lambda row: trimmed_mean(row[~np.isnan(row)]), -1, times)
    cut = int(TRIM * times.shape[-1])
    if cut == 0:
        return np.asarray(times.mean(axis=-1))
    kept = np.partition(times, (cut, times.shape[-1] - cut - 1), axis=-1)
    return np.asarray(kept[..., cut : times.shape[-1] - cut].mean(axis=-1))
