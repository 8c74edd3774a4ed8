"""Latency without a table of operators: learnt from few whole networks, or measured for each one.

**Learnt.** A linear model of eight costs of a network, by ridge regression, from networks spread over the
range of MACs: MACs and elements written, of depthwise and of dense layers, squeeze-and-excites and the
elements they scale, parameters, operators. On the Once-for-All networks that HELP measured
(https://arxiv.org/abs/2106.08630), 50 of them learnt from and 500 judged on, the error is 1.0 % on a Titan
RTX at batch 32 and 1.9 % on a 2080 Ti at batch 64 (Kendall tau .979 and .963); MACs alone give 2.9 and 3.6 %.
One-hot choices, a Gaussian process, the logarithm of latency, and another device's table did not help.

**Measured.** Each network that is asked for is built and timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import DeviceError, HwnasError, TableError
from hwnas.latency.calibrate import judge, least_squares, linear, repeatability_cv, spread_over
from hwnas.latency.measure import Device, Identity, Plan, Timing, shuffled_rounds, timings
from hwnas.latency.runner import core_list
from hwnas.latency.table import SCHEMA, Entry, check_schema
from hwnas.networks.quantization import timed_model
from hwnas.ops.base import Op, TensorSpec
from hwnas.ops.onnx import random_weights
from hwnas.predictors.ridge import Ridge
from hwnas.progress import Progress, as_progress, silent
from hwnas.spaces import Architectures, NetworkSpace, Operator, OperatorSum, space_of
from hwnas.spaces.base import Rng
from hwnas.store import digest, read_json, sealed_json, write_output

ROUNDS = 24
CANDIDATES = 2000  # architectures that networks are chosen from
FOLDS = 5  # of the cross-validation that judges a predictor
LOWEST = 0.1  # no prediction is below this share of the fastest network that was measured
MIN_NETWORKS = 10

Cost = Callable[..., float]  # function of an op and of the specifications of its inputs


# ---- learnt --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network and its latency; `architecture` is values by choice name."""

    architecture: Mapping[str, Any]
    ms: float
    std_ms: float
    count: int


class LatencyPredictor:
    """Latency in milliseconds, learnt from networks of a space that were measured on a device.

    `device`, `runtime` and `protocol` are plain data as those of a latency table. It is fitted when it is
    made, so its file holds the networks and no weights.
    """

    def __init__(
        self,
        space: NetworkSpace,
        networks: Sequence[MeasuredNetwork],
        device: Mapping[str, Any],
        runtime: Mapping[str, Any],
        protocol: Mapping[str, Any],
    ) -> None:
        """TableError for too few networks."""
        if len(networks) < MIN_NETWORKS:
            raise TableError(f"{len(networks)} networks are too few to learn from; give {MIN_NETWORKS}")
        self.space = space
        self.networks = tuple(networks)
        self.device = dict(device)
        self.runtime = dict(runtime)
        self.protocol = dict(protocol)
        self._costs = costs(space)
        self._archs = Architectures(
            space, np.array([space.architecture(n.architecture).genotype for n in networks])
        )
        self._ms = np.array([n.ms for n in networks])
        self._ridge = Ridge()
        self._ridge.fit(self._costs(self._archs), self._ms)

    def latency_ms(self, archs: Any) -> NDArray[np.float64]:
        """Predicted latency of n architectures of the space, (n,), in milliseconds."""
        if len(archs) == 0:
            return np.zeros(0)
        mean = self._ridge.predict(self._costs(archs))[0]
        return np.asarray(np.maximum(mean, LOWEST * self._ms.min()))

    @cached_property
    def quality(self) -> dict[str, Any]:
        """What predictors that had not seen a network said of it (5 folds), beside MACs alone."""
        features, macs = self._costs(self._archs), self.space.macs(self._archs)
        predicted, baseline = np.zeros(len(self._ms)), np.zeros(len(self._ms))
        fold = np.random.default_rng(0).permutation(len(self._ms)) % FOLDS
        for part in range(FOLDS):
            seen, unseen = fold != part, fold == part
            ridge = Ridge()
            ridge.fit(features[seen], self._ms[seen])
            predicted[unseen] = ridge.predict(features[unseen])[0]
            baseline[unseen] = linear(macs[unseen], *least_squares(macs[seen], self._ms[seen]))
        return {"held_out": judge(predicted, self._ms), "macs_baseline": judge(baseline, self._ms)}

    def summary(self) -> str:
        """A text for a person: what was measured, and how well networks are predicted unseen."""
        found, baseline = self.quality["held_out"], self.quality["macs_baseline"]
        return (
            f"{self.device['cpu']}, {self.runtime['name']} {self.runtime['version']}, threads "
            f"{self.runtime['threads']}: predictor from {len(self.networks)} networks\n"
            f"  unseen: MAPE {found['mape']:.1f} %, Kendall tau {found['kendall_tau']:.2f}, within ±10 % "
            f"{found['within_10pct']:.0f} %\n"
            f"  MACs alone: MAPE {baseline['mape']:.1f} %, tau {baseline['kendall_tau']:.2f}; repeatability "
            f"{self.protocol['repeatability_cv']:.1f} %"
        )

    def to_dict(self) -> dict[str, Any]:
        """The predictor as plain data."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "runtime": self.runtime,
            "protocol": self.protocol,
            "space": self.space.definition,
            **self.quality,
            "networks": [asdict(network) for network in self.networks],
        }

    def save(self, path: str | Path) -> None:
        """Write the predictor as sealed JSON.

        Args:
            path: Where the predictor goes. A regular file is replaced as a whole, also behind a symbolic
                link; devices and pipes are written to.

        Raises:
            StoreError: If the path cannot be written.
        """
        write_output(path, sealed_json(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> LatencyPredictor:
        """The predictor in a file, fitted again.

        StoreError for an unreadable file, ChecksumError for a changed one, TableError for one that holds no
        predictor or an impossible latency.
        """
        data = read_json(path)
        check_schema(data, path)
        try:
            networks = [MeasuredNetwork(**row) for row in data["networks"]]
            for network in networks:
                Entry(network.ms, float(network.std_ms), network.count)  # checks the values
            facts = (data["device"], data["runtime"], data["protocol"])
            return cls(space_of(data["space"]), networks, *facts)
        except (KeyError, TypeError, HwnasError) as error:
            raise TableError(f"{path} is not a latency predictor: {error}") from None


def learn_latency(
    space: NetworkSpace,
    device: Device,
    networks: int = 50,
    rounds: int | None = None,
    rng: Rng = 0,
    progress: Progress | bool = silent,
    batch_size: int = 1,
) -> LatencyPredictor:
    """Time `networks` whole networks of a space on a device and learn from them.

    Each is visited in `rounds` (24 by default) shuffled rounds, all together; `rng` draws networks, weights
    and the order. A latency is that of a batch of `batch_size` images. DeviceError if the device cannot time
    them, TableError if there are too few.
    """
    progress = as_progress(progress, "profile")
    rounds = ROUNDS if rounds is None else rounds
    generator = np.random.default_rng(rng)
    archs = _spread(space, networks, generator)
    found, cores = _time(space, archs, device, rounds, generator, progress, batch_size)
    identity = device.identity
    measured = [
        MeasuredNetwork(arch.values, timing.ms, timing.std_ms, timing.count)
        for arch, timing in zip(archs, found, strict=True)
    ]
    protocol = {
        "statistic": identity.statistic,
        "cores": list(cores) or None,
        "rounds": rounds,
        "preempted": round(float(np.mean([timing.preempted for timing in found])), 4),
        "repeatability_cv": repeatability_cv([timing.halves_ms for timing in found]),
        "dropped_readings": sum(timing.dropped_readings for timing in found),
    }
    return LatencyPredictor(space, measured, identity.device, _runtime(identity, batch_size), protocol)


def _spread(space: NetworkSpace, n: int, generator: np.random.Generator) -> Architectures:
    """n different architectures, evenly over the range of MACs from the least to the most."""
    ends = space.canonical(np.stack([np.zeros_like(space.cardinalities), space.cardinalities - 1]))
    drawn = space.sample(CANDIDATES, generator).genotypes
    genotypes = np.unique(np.concatenate([ends[space.valid(ends)], drawn]), axis=0)
    archs = Architectures(space, genotypes)
    return archs if len(archs) <= n else archs[np.unique(spread_over(space.macs(archs), n))]


def costs(space: NetworkSpace) -> Callable[[Any], NDArray[np.float64]]:
    """The function from n architectures of a space to their eight costs, (n, 8); see the module."""

    def macs(op: Op, *inputs: TensorSpec) -> float:
        return op.macs(*inputs)

    def elements(op: Op, *inputs: TensorSpec) -> float:
        return op.output(*inputs).size

    def one(op: Op, *inputs: TensorSpec) -> float:
        return 1.0

    summands = [
        ("depthwise", macs),
        ("dense", macs),
        ("depthwise", elements),
        ("dense", elements),
        ("attention", one),
        ("attention", elements),
    ]
    sums = [OperatorSum(space, _sum_of_ops(latency_class, cost)) for latency_class, cost in summands]
    sums += [OperatorSum(space, lambda op: op.params), OperatorSum(space, lambda op: 1.0)]
    return lambda archs: np.stack([total(archs) for total in sums], axis=1)


def _sum_of_ops(latency_class: str, cost: Cost) -> Callable[[Operator], float]:
    """Return the function from an operator to the cost of its ops of a class that are not fused."""

    def total(operator: Operator) -> float:
        return sum(
            cost(node.op, *operator.graph.inputs_of(node))
            for node in operator.graph.nodes
            if node.op.latency_class == latency_class and not node.op.fused
        )

    return total


# ---- measured ------------------------------------------------------------------------------------


class MeasuredLatency:
    """Latency in milliseconds, measured on a device for each network that is asked for.

    `source` is a digest of all that a value depends on. `open_device` gives the device when one is needed.
    """

    def __init__(
        self,
        space: NetworkSpace,
        facts: Mapping[str, Any],
        open_device: Callable[[], Device],
    ) -> None:
        """`facts` are those of `measured_on`."""
        self.space = space
        self.facts = dict(facts)
        self.device, self.runtime, self.protocol = facts["device"], facts["runtime"], facts["protocol"]
        self.source = digest({**facts, "space": space.definition})
        self._open_device = open_device
        self._cores: tuple[int, ...] = ()  # of what was measured so far

    @cached_property
    def _opened(self) -> Device:
        return self._open_device()

    def latency_ms(self, archs: Any) -> NDArray[np.float64]:
        """Measured latency of n architectures of the space, timed together, (n,), in milliseconds.

        All calls measure on the cores of the first one. DeviceError if these are no longer available.
        """
        if len(archs) == 0:
            return np.zeros(0)
        generator = np.random.default_rng(self.protocol["seed"])
        rounds, batch_size = self.protocol["rounds"], self.runtime["batch_size"]
        found, self._cores = _time(
            self.space, archs, self._opened, rounds, generator, silent, batch_size, self._cores
        )
        return np.array([timing.ms for timing in found])

    def to_dict(self) -> dict[str, Any]:
        """What the latencies are true of, as plain data."""
        return self.facts

    def summary(self) -> str:
        """A text for a person."""
        return (
            f"{self.device['cpu']}, {self.runtime['name']} {self.runtime['version']}, threads "
            f"{self.runtime['threads']}: each network is measured, in {self.protocol['rounds']} rounds"
        )


def measured_on(
    device: Device, rounds: int | None, seed: int, batch_size: int = 1, cores: Sequence[int] | None = None
) -> dict[str, Any]:
    """Plain data on what measured latencies are true of: device, runtime, protocol.

    `cores` are those that were chosen to be used, if any were.
    """
    identity = device.identity
    protocol: dict[str, Any] = {
        "statistic": identity.statistic,
        "rounds": rounds or ROUNDS,
        "seed": seed,
        **({} if cores is None else {"cores": list(cores)}),
    }
    return {
        "schema": SCHEMA,
        "device": dict(identity.device),
        "runtime": _runtime(identity, batch_size),
        "protocol": protocol,
    }


def _runtime(identity: Identity, batch_size: int) -> dict[str, Any]:
    return {**identity.runtime, "precisions": ["fp32"], "batch_size": batch_size}


def _time(
    space: NetworkSpace,
    archs: Any,
    device: Device,
    rounds: int,
    generator: np.random.Generator,
    progress: Progress,
    batch_size: int,
    cores: tuple[int, ...] = (),
) -> tuple[list[Timing], tuple[int, ...]]:
    """Time architectures on `cores`, if there are any; their latencies and the cores."""
    models = []
    for arch in archs:
        network = space.network(arch)
        weights = [random_weights(operator, generator) for operator in network.operators]
        models.append(timed_model(network, weights, batch_size))
    samples = device.measure(
        models, Plan(shuffled_rounds(len(models), rounds, generator), cores=cores), progress
    )
    if cores and samples.cores != cores:
        raise DeviceError(
            f"earlier networks were measured on cores {core_list(cores)}, which are no longer available; "
            f"give the process these cores again (taskset -c {core_list(cores)})"
        )
    return timings([samples], len(models), generator), samples.cores
