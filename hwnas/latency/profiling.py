"""From a space and a device to a latency table.

**What an entry is.** An operator is timed alone, and behind an operator that precedes it in the space. Alone
it costs too much: the call, and layout conversions at its borders that a network does not do. Behind another
these cancel in the difference. An entry is the mean of (alone - an empty call) and (behind another - that
other alone).

An operator of several inputs is timed behind the operator that gives its first one; its other inputs are then
inputs of the model.

**How it is timed.** A visit runs the operators of one random architecture in turn, so that each finds the
caches as it does inside a network: warm where a network fits, cold where it does not. A round is visits that
together hold every operator, and a visit to each whole network, in shuffled order.

**What makes it whole.** At each size of the inputs (resolution, or length), in each precision, networks over
the range of MACs are timed back to back. Entries are corrected, alike operators alike, towards what these
networks take; then they give slope and intercept of each size and precision. Further, random ones are only
predicted, and judge the table.

benchmarks/README.md holds the measurements behind these choices, and the protocols that lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import DeviceError, TableError, TimingError
from hwnas.latency.calibrate import (
    correction_gain,
    fit,
    judge,
    least_squares,
    linear,
    repeatability_cv,
    spread_over,
)
from hwnas.latency.campaign import (
    OPEN_BYTES,
    OPEN_MODELS,
    Campaign,
    Chunk,
    discard_passes,
    measure_in_passes,
)
from hwnas.latency.devices import get_device
from hwnas.latency.jobs import Models
from hwnas.latency.measure import Device, Identity, Plan, Samples, Timing, Visit, cores_of, timings
from hwnas.latency.noise import noise
from hwnas.latency.table import Entry, Group, LatencyTable, group_lookup
from hwnas.networks.quantization import timed_model
from hwnas.ops import PRECISIONS, Network
from hwnas.ops.network import as_network
from hwnas.ops.onnx import random_weights
from hwnas.progress import Progress, as_progress, silent
from hwnas.spaces import Architecture, Architectures, NetworkSpace, Operator
from hwnas.spaces.base import Rng, size_of_input

CALIBRATION_NETWORKS = 48
CANDIDATES = 2000  # architectures that networks are chosen from
DRAWS = 8  # architectures tried for one that holds an operator
DIFFERENCE = np.array([0.5, -0.5, 0.5, -0.5])  # an entry of the models that `Subject.parts` names
CONSIDERED = 16  # chains that compete for each visit
FLOOR = 0.01  # of an empty call: what an operator that cannot be told from one is taken to cost
PATIENCE_S = 20.0  # a resolution, for timings that are not precise yet
UNLIKE = 256.0  # times: operators of several precisions are corrected apart
LARGEST_FACTOR = 4.0  # that an operator is corrected by; on quiet machines it is 1.1
EMPTY_CALL = Operator("conv", (1, 1, 1), (1, 1, 1), (("k", 1), ("s", 1), ("act", "identity")))

log = logging.getLogger(__name__)

Chain = tuple[int, ...]  # indices of the operators of an architecture, in order


def profile(
    space: NetworkSpace,
    device: str | Device = "onnxruntime",
    threads: int = 1,
    *,
    cores: Sequence[int] | None = None,
    precision: str = "fp32",
    batch_size: int = 1,
    rounds: int | None = None,
    calibration_networks: int = CALIBRATION_NETWORKS,
    held_out_networks: int = 12,
    time_limit_s: float | None = None,
    checkpoint: str | Path | None = None,
    rng: Rng = 0,
    progress: Progress | bool = silent,
) -> LatencyTable:
    """Measure every operator of a space on a device, calibrate on whole networks, and judge on others.

    `precision` is "fp32" or "int8", of all operators, unless it is a choice of the space (`PrecisionSpace`).
    `device` is a name of `hwnas list devices`, with `threads` and the `cores` that may be used (by default
    those of the highest capacity), or a device of your own. `rounds` is how often
    each operator and network is visited at least; without it, 12 times, and then until the 95 % interval of
    predicted networks is within ±1.25 %, or for 20 seconds a resolution.
    `calibration_networks` and `held_out_networks` are per resolution. The device is used for `time_limit_s`
    seconds at most, with opening the models. `checkpoint` is a folder that keeps what is measured, so that
    an interrupted profile goes on from there. `rng` draws weights, networks and the order of visits.

    A latency is that of a whole batch of `batch_size` images. `protocol` of the table says what was done and
    whether it is `noisy`, with the reasons; a warning is logged if so. DeviceError if the device cannot time
    the models, or not within the limit; TableError if what it gave makes no table.
    """
    progress = as_progress(progress, "profile")
    device = get_device(device, threads, cores) if isinstance(device, str) else device
    subject = subject_of(space, precision, calibration_networks, held_out_networks, rng, batch_size)

    limit = math.inf if time_limit_s is None else time_limit_s
    campaign = campaign_of(subject, device, rounds, limit, checkpoint, progress)
    try:
        return table_of(subject, campaign, device.identity)
    except (DeviceError, TableError):
        if checkpoint is not None:
            discard_passes(checkpoint)  # the next profile would take them over and fail at once
        raise


def campaign_of(
    subject: Subject,
    device: Device,
    rounds: int | None = None,
    time_limit_s: float = math.inf,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> Campaign:
    """What the device says of a subject; the arguments are those of `profile`."""

    def half_width(passes: Sequence[Samples]) -> float:
        try:
            return _half_width(subject, timings(passes, len(subject.models), subject.seed))
        except TimingError:
            raise
        except DeviceError:  # not everything was seen yet
            return math.inf

    return measure_in_passes(
        subject.models,
        subject.chunks,
        device,
        half_width,
        seed=subject.seed,
        rounds=rounds,
        patience_s=PATIENCE_S * len(subject.networks),
        time_limit_s=time_limit_s,
        checkpoint=checkpoint,
        progress=progress,
    )


def table_of(subject: Subject, campaign: Campaign, identity: Identity) -> LatencyTable:
    """The table that passes over a subject make; DeviceError or TableError if they make none."""
    found = timings([p.samples for p in campaign.passes], len(subject.models), subject.seed)
    precisions = list(dict.fromkeys(operator.precision for operator in subject.operators))
    runtime = {**identity.runtime, "precisions": precisions, "batch_size": subject.batch_size}
    plain = LatencyTable(identity.device, runtime, {}, [], _entries(subject, found))
    calibration = [_calibrate(subject, plain, group, found) for group in subject.networks]
    protocol = _protocol(subject, campaign, found, calibration, identity.statistic)
    if protocol["noisy"]:
        log.warning("the latency table is noisy: %s", "; ".join(protocol["noise"]))
    return LatencyTable(identity.device, runtime, protocol, calibration, plain.operators)


def _protocol(
    subject: Subject,
    campaign: Campaign,
    found: Sequence[Timing],
    calibration: Sequence[Mapping[str, Any]],
    statistic: str,
) -> dict[str, Any]:
    """What was done and how sure it is, as plain data of the table."""
    passes = [p.samples for p in campaign.passes]
    networks = found[subject.first_network :]
    half_width = _half_width(subject, found)
    return {
        "statistic": statistic,
        "cores": list(cores_of(passes)) or None,
        "rounds": min(campaign.rounds, *(timing.count for timing in found)),
        "passes": len(passes) // campaign.chunks,  # of each model, with fresh sessions
        "stopped": campaign.stopped,
        "half_width": round(half_width, 5) if math.isfinite(half_width) else None,
        "warmup_runs": Plan(()).warmup_runs,
        "kept_runs": Plan(()).kept_runs,
        "dropped_readings": sum(timing.dropped_readings for timing in found),
        **noise(
            passes,
            found,
            subject.first_network,
            max(row["repeatability_cv"] for row in calibration),
            half_width,
            [subject.operators[i].key for i in _unresolved(subject, found)],
        ),
        "cold_ratio": round(float(np.median([t.cold_ms / t.ms for t in networks])), 2),
        "seconds": round(campaign.seconds, 1),
    }


# ---- what is timed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """What a profile times, drawn once.

    The models are each of n operators alone, each behind another, an empty call, and the networks,
    calibrating and held out, by resolution and precision.
    """

    space: NetworkSpace
    precision: str
    operators: tuple[Operator, ...]
    before: tuple[int | None, ...]  # the operator that each is behind; None for the first of a network
    networks: Mapping[Group, tuple[Architectures, Architectures]]
    models: Models
    chunks: Sequence[Chunk]
    seed: int  # of visits and bootstraps
    batch_size: int = 1

    @property
    def empty(self) -> int:
        """The model of an empty call."""
        return 2 * len(self.operators)

    @property
    def first_network(self) -> int:
        """The first model of a network."""
        return self.empty + 1

    @cached_property
    def parts(self) -> NDArray[np.int64]:
        """The models of operators alone, an empty call, operators behind another, that alone, (n, 4)."""
        n = len(self.operators)
        others = [self.empty if other is None else other for other in self.before]
        return np.array([[i, self.empty, n + i, other] for i, other in enumerate(others)])

    def models_of(self, group: Group) -> tuple[slice, slice]:
        """The models of the calibrating and of the held-out networks of a resolution and precision."""
        start = self.first_network
        for other, (calibrating, held_out) in self.networks.items():
            middle = start + len(calibrating)
            stop = middle + len(held_out)
            if other == group:
                return slice(start, middle), slice(middle, stop)
            start = stop
        raise KeyError(group)


def subject_of(
    space: NetworkSpace,
    precision: str,
    calibration_networks: int,
    held_out_networks: int,
    rng: Rng,
    batch_size: int = 1,
) -> Subject:
    """What to time of a space; the arguments are those of `profile`."""
    if batch_size < 1:
        raise TableError(f"batch_size is {batch_size}; give at least 1")
    if min(calibration_networks, held_out_networks) < 1:
        raise TableError("calibration_networks and held_out_networks are at least 1 each")
    generator = np.random.default_rng(rng)
    seed = int(generator.integers(2**62))
    operators = space.all_operators(precision)
    weights = {operator: random_weights(operator, generator) for operator in operators}
    covering = _covering_networks(space, operators, generator)
    chains = [chain for chain, _ in covering]
    before = tuple(_before(i, *pair) for i, pair in enumerate(covering))
    networks = _choose_networks(space, precision, calibration_networks, held_out_networks, generator)
    weights[EMPTY_CALL] = random_weights(EMPTY_CALL, generator)

    def model(operators: Network | Sequence[Operator]) -> bytes:
        network = as_network(operators)
        return timed_model(network, [weights[operator] for operator in network.operators], batch_size)

    timed: list[Network | Sequence[Operator]] = [[operator] for operator in operators]
    for operator, other in zip(operators, before, strict=True):
        timed.append([operator] if other is None else [operators[other], operator])
    timed.append([EMPTY_CALL])
    for archs in networks.values():
        timed += [space.network(arch, precision) for part in archs for arch in part]
    models = Models(map(model, timed))
    chunks = _chunks(chains, len(operators), models)
    return Subject(space, precision, operators, before, networks, models, chunks, seed, batch_size)


def _before(operator: int, chain: Chain, network: Network) -> int | None:
    """The operator whose result is the first input of another; None where that is an input of the network."""
    source = network.connections[chain.index(operator)][0]
    return chain[source] if isinstance(source, int) else None


def _covering_networks(
    space: NetworkSpace, operators: Sequence[Operator], generator: np.random.Generator
) -> list[tuple[Chain, Network]]:
    """Draw a random network for each operator that has it, with the indices of the network's operators."""
    precision = operators[0].precision
    index = {operator: i for i, operator in enumerate(operators)}
    chains: dict[Operator, tuple[Chain, Network]] = {}
    for slot in space.slots:
        columns = [space.index(name) for name in slot.choices]
        for values, operator in space.slot_operators(slot, precision).items():
            if operator is None or operator in chains:
                continue
            genotypes = space.sample(DRAWS, generator).genotypes.copy()
            genotypes[:, columns] = values
            genotypes = space.canonical(genotypes)
            for arch in Architectures(space, genotypes[space.valid(genotypes)]):
                if operator in space.operators(arch, precision):
                    network = space.network(arch, precision)
                    chains[operator] = tuple(index[o] for o in network.operators), network
                    break
            else:
                raise TableError(f"no valid architecture of {space.id} holds {operator.key}")
    return [chains[operator] for operator in operators]


def _chunks(chains: Sequence[Chain], operators: int, models: Models, limit: int = OPEN_MODELS) -> list[Chunk]:
    """Chains and networks shared out so that no chunk opens over `limit` models or 2 GiB, where possible.

    Chains that are neighbours in order share their first operators, so they go together; each chunk of them
    has the empty call. Networks are kept from operators, since a network that runs with fewer others open is
    up to 2 % faster, and so nearer to one that runs alone.
    """
    empty = 2 * operators

    def too_many(opened: Collection[int]) -> bool:
        return len(opened) > limit or sum(map(models.size, opened)) > OPEN_BYTES

    parts: list[tuple[list[Chain], set[int]]] = []
    for chain in sorted(set(chains)):
        opened = {empty, *chain, *(operators + i for i in chain)}
        if not parts or too_many(parts[-1][1] | opened):
            parts.append(([], set()))
        parts[-1][0].append(chain)
        parts[-1][1].update(opened)
    groups: list[list[int]] = []
    for network in range(empty + 1, len(models)):
        if not groups or too_many([*groups[-1], network]):
            groups.append([])
        groups[-1].append(network)

    def of_operators(chains: list[Chain], opened: set[int]) -> Chunk:
        def draw_round(generator: np.random.Generator) -> list[Visit]:
            drawn = _one_round(chains, generator)
            visits: list[Visit] = [(*chain, empty) for chain in drawn]
            visits += [tuple(operators + i for i in chain) for chain in drawn]
            return [visits[i] for i in generator.permutation(len(visits))]

        return Chunk(tuple(sorted(opened)), draw_round)

    def of_networks(networks: list[int]) -> Chunk:
        def draw_round(generator: np.random.Generator) -> list[Visit]:
            return [(int(network),) for network in generator.permutation(networks)]

        return Chunk(tuple(networks), draw_round)

    return [of_operators(*part) for part in parts] + [of_networks(group) for group in groups]


def _one_round(chains: Sequence[Chain], generator: np.random.Generator) -> list[Chain]:
    """Chains that together hold every operator of all, each the best of a random few at what is missing."""
    missing, drawn = {i for chain in chains for i in chain}, []
    while missing:
        considered = [chains[j] for j in generator.integers(len(chains), size=CONSIDERED)]
        best = max(considered, key=lambda chain: len(missing.intersection(chain)))
        if missing.isdisjoint(best):
            best = next(chain for chain in chains if min(missing) in chain)
        missing.difference_update(best)
        drawn.append(best)
    return drawn


def _choose_networks(
    space: NetworkSpace,
    precision: str,
    calibration_networks: int,
    held_out_networks: int,
    generator: np.random.Generator,
) -> dict[Group, tuple[Architectures, Architectures]]:
    """By resolution and precision, the networks to calibrate on, spread over MACs, and random others.

    Where one has fewer architectures than asked for, at most half of them are held out, none of a single one.
    """
    candidates = space.sample(CANDIDATES, generator)
    order = generator.permutation(np.unique(candidates.genotypes, axis=0, return_index=True)[1])
    candidates = candidates[order]
    groups, groups_of = group_lookup(space, precision)
    at = groups_of(candidates)
    chosen = {}
    for position in np.unique(at).tolist():
        archs, group = candidates[at == position], groups[position]
        held_out = min(held_out_networks, len(archs) // 2)  # 0 of a single architecture
        rest = archs[held_out:]
        spread = spread_over(space.macs(rest), min(calibration_networks, len(rest)))
        chosen[group] = (rest[spread], archs[:held_out])
    return chosen


# ---- what the timings say -----------------------------------------------------------------------


def _entries(subject: Subject, found: Sequence[Timing]) -> dict[str, Entry]:
    """An entry for each operator by key: the mean of both differences, corrected; see the module."""
    parts = subject.parts
    ms = np.array([timing.ms for timing in found])
    if len(unresolved := _unresolved(subject, found)) > len(parts) / 2:
        raise DeviceError(
            f"{len(unresolved)} of {len(parts)} operators cannot be told from an empty call "
            f"({1000 * ms[subject.empty]:.3f} µs), such as {subject.operators[unresolved[0]].key}; the "
            "machine was disturbed: profile again, with more rounds"
        )
    alone = _alone(subject, ms)
    measured = {r: ms[subject.models_of(r)[0]] for r in subject.networks}
    counts = {r: _counts(subject, calibrating) for r, (calibrating, _) in subject.networks.items()}
    factors = _factors(_gain(subject, alone, counts, measured), _residuals(alone, counts, measured))
    entries = {}
    for operator, row, cost, factor in zip(subject.operators, parts, alone, factors, strict=True):
        timed = [found[j] for j in row]
        std = factor * math.sqrt(sum(part.std_ms**2 for part in timed)) / 2
        count = min(part.count for part in timed)
        entries[operator.key] = Entry(round(float(factor * cost), 7), round(float(std), 7), count)
    return entries


def _alone(subject: Subject, ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Milliseconds of each operator (n,), of those of the models; above zero whatever the noise."""
    return np.asarray(np.maximum(ms[subject.parts] @ DIFFERENCE, FLOOR * ms[subject.empty]))


def _unresolved(subject: Subject, found: Sequence[Timing]) -> NDArray[np.int64]:
    """The operators that cost no more than nothing by what was timed."""
    ms = np.array([timing.ms for timing in found])
    return np.flatnonzero(ms[subject.parts] @ DIFFERENCE <= 0)


def _gain(
    subject: Subject,
    entries: NDArray[np.float64],
    counts: Mapping[Group, NDArray[np.float64]],
    measured: Mapping[Group, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """From the relative errors of the calibrating networks to corrections of the operators, (n, m)."""
    shares = []
    for group, of in counts.items():
        slope, intercept = fit(of @ entries, measured[group])
        shares.append(slope * of * entries / linear(of @ entries, slope, intercept)[:, None])
    features = [
        [
            *(o.in_shape[0], size_of_input(o), o.out_shape[0], o.out_shape[-1]),
            *(max(1, o.macs), UNLIKE ** PRECISIONS.index(o.precision)),
        ]
        for o in subject.operators
    ]
    return correction_gain(np.concatenate(shares), np.log2(features))


def _residuals(
    entries: NDArray[np.float64],
    counts: Mapping[Group, NDArray[np.float64]],
    measured: Mapping[Group, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Relative errors of the calibrating networks of all groups, (m,)."""
    return np.concatenate(
        [
            measured[group] / linear(of @ entries, *fit(of @ entries, measured[group])) - 1
            for group, of in counts.items()
        ]
    )


def _factors(gain: NDArray[np.float64], residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """By what the operators are corrected, (n,); noise corrects by no more than `LARGEST_FACTOR`."""
    limit = math.log(LARGEST_FACTOR)
    return np.asarray(np.exp(np.clip(gain @ residuals, -limit, limit)))


def _half_width(subject: Subject, found: Sequence[Timing]) -> float:
    """Half the 95 % interval of a predicted network as a share of it, mean of the held-out ones.

    The whole way from timings to corrected and calibrated predictions is bootstrapped; infinite if some of
    it makes no table.
    """
    ms = np.array([timing.ms for timing in found])
    replicates = np.array([timing.replicates_ms for timing in found])
    counts = {r: _counts(subject, calibrating) for r, (calibrating, _) in subject.networks.items()}
    judging = {
        r: _counts(subject, held_out if len(held_out) else calibrating)
        for r, (calibrating, held_out) in subject.networks.items()
    }
    rows = {r: subject.models_of(r)[0] for r in subject.networks}

    def predict(alone: NDArray[np.float64], measured: Mapping[Group, NDArray[np.float64]]) -> list[float]:
        entries = alone * _factors(gain, _residuals(alone, counts, measured))
        return [
            ms
            for r, of in counts.items()
            for ms in linear(judging[r] @ entries, *fit(of @ entries, measured[r]))
        ]

    try:
        gain = _gain(subject, _alone(subject, ms), counts, {r: ms[part] for r, part in rows.items()})
        predicted = [
            predict(_alone(subject, replicate), {r: replicate[part] for r, part in rows.items()})
            for replicate in replicates.T
        ]
    except TableError:
        return math.inf
    low, high = np.quantile(predicted, [0.025, 0.975], axis=0)
    return float(np.mean((high - low) / 2 / np.median(predicted, axis=0)))


def _counts(subject: Subject, archs: Sequence[Architecture] | Architectures) -> NDArray[np.float64]:
    """How often each of n operators is in each of m architectures, (m, n)."""
    index = {operator: i for i, operator in enumerate(subject.operators)}
    counts = np.zeros((len(archs), len(index)))
    for row, arch in enumerate(archs):
        for operator in subject.space.operators(arch, subject.precision):
            counts[row, index[operator]] += 1
    return counts


def _calibrate(
    subject: Subject, plain: LatencyTable, group: Group, found: Sequence[Timing]
) -> dict[str, Any]:
    """A row of the table's calibration."""
    space, networks = subject.space, subject.networks[group]
    sums = [plain.sum_ms(space, archs, subject.precision) for archs in networks]
    macs = [space.macs(archs) for archs in networks]
    timed = [found[models] for models in subject.models_of(group)]
    calibrating, held_out = ([timing.ms for timing in part] for part in timed)
    slope, intercept = fit(sums[0], calibrating)
    row = {
        "space": space.id,
        space.size_name: group[0],
        "precision": group[1],
        "slope": slope,
        "intercept_ms": intercept,
        "networks": len(calibrating),
        "repeatability_cv": repeatability_cv([timing.halves_ms for timing in timed[1] or timed[0]]),
    }
    if not held_out:  # one architecture: nothing is left to judge the table by
        return row
    baseline = judge(linear(macs[1], *least_squares(macs[0], calibrating)), held_out)
    return {
        **row,
        "held_out": judge(linear(sums[1], slope, intercept), held_out),
        "macs_baseline": {name: baseline[name] for name in ("mape", "kendall_tau")},
    }
