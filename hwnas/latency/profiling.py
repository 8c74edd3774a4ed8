"""From a space and a device to a latency table.

**What an entry is.** An operator is timed alone, and behind an operator that precedes it in the space. Alone
it costs too much: the call, and layout conversions at its borders that a network does not do. Behind another
these cancel in the difference. An entry is the mean of (alone - an empty call) and (behind another - that
other alone).

**How it is timed.** A visit runs the operators of one random architecture in turn, so that each finds the
caches as it does inside a network: warm where a network fits, cold where it does not. Visits are drawn until
every operator had its number of rounds.

**What makes it whole.** At each resolution networks over the range of predicted latency are timed back to
back; they give slope and intercept. Further, random ones are only predicted, and judge the table.

benchmarks/README.md holds the measurements behind these choices, and the protocols that lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import DeviceError, TableError
from hwnas.latency.calibrate import fit, judge, linear, repeatability_cv, spread_over
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Device, Plan, Timing, Visit, time_models, timings
from hwnas.latency.table import Entry, LatencyTable, resolutions
from hwnas.networks.onnx_graph import onnx_model, random_weights
from hwnas.progress import Progress, silent
from hwnas.spaces import Architectures, NetworkSpace, Operator
from hwnas.spaces.base import Rng

ROUNDS = 24
CANDIDATES = 2000  # architectures that networks are chosen from
DRAWS = 8  # architectures tried for one that holds an operator
CONSIDERED = 16  # chains that compete for each visit
OPERATORS_SHARE = 0.6  # of a time limit
EMPTY_CALL = Operator("conv", (1, 1, 1), (1, 1, 1), (("k", 1), ("s", 1), ("act", "identity")))

Weights = Mapping[Operator, Mapping[str, NDArray[np.float32]]]


def profile(
    space: NetworkSpace,
    device: str | Device = "onnxruntime",
    threads: int = 1,
    *,
    precision: str = "fp32",
    rounds: int | None = None,
    calibration_networks: int = 12,
    held_out_networks: int = 12,
    time_limit_s: float | None = None,
    rng: Rng = 0,
    progress: Progress = silent,
) -> LatencyTable:
    """Measure every operator of a space on a device, calibrate on whole networks, and judge on others.

    `device` is a name of `hwnas list devices`, with `threads`, or a device of your own. `rounds` (24 by
    default) is how often each operator and network is visited at least; `calibration_networks` and
    `held_out_networks` are per resolution. Within `time_limit_s` seconds, opening the models aside, rounds
    that are left are dropped. `rng` draws weights, networks and the order of visits.

    Latency is that of batch size 1. DeviceError if the device cannot time the models, TableError if what it
    gave makes no table.
    """
    rounds = ROUNDS if rounds is None else rounds
    if min(calibration_networks, held_out_networks) < 1:
        raise TableError("calibration_networks and held_out_networks are at least 1 each")
    generator = np.random.default_rng(rng)
    device = get_device(device, threads) if isinstance(device, str) else device
    operators = space.all_operators(precision)
    weights = {operator: random_weights(operator, generator) for operator in operators}
    limit = math.inf if time_limit_s is None else time_limit_s

    start = time.monotonic()
    entries, preempted = _time_operators(
        space, operators, weights, device, rounds, generator, progress, OPERATORS_SHARE * limit
    )
    identity = device.identity
    runtime = {**identity.runtime, "precisions": [precision], "batch_size": 1}
    plain = LatencyTable(identity.device, runtime, {}, [], entries)

    chosen = _choose_networks(space, plain, precision, calibration_networks, held_out_networks, generator)
    archs = [arch for networks in chosen.values() for part in networks for arch in part]
    models = [_model(space.operators(arch, precision), weights) for arch in archs]
    left = max(0.0, limit - (time.monotonic() - start))
    measured = time_models(models, device, rounds, generator, progress, left)
    of = dict(zip(archs, measured, strict=True))
    calibration = [
        _calibrate(
            space, plain, precision, resolution, networks, [[of[arch] for arch in part] for part in networks]
        )
        for resolution, networks in chosen.items()
    ]
    protocol = {
        "statistic": identity.statistic,
        "rounds": min(rounds, *(t.count for t in measured), *(e.count for e in entries.values())),
        "warmup_runs": Plan(()).warmup_runs,
        "kept_runs": Plan(()).kept_runs,
        "preempted": round(max(preempted, float(np.mean([t.preempted for t in measured]))), 4),
        "cold_ratio": round(float(np.median([t.cold_ms / t.ms for t in measured])), 2),
        "seconds": round(time.monotonic() - start, 1),
    }
    return LatencyTable(identity.device, runtime, protocol, calibration, entries)


# ---- operators ----------------------------------------------------------------------------------


def _time_operators(
    space: NetworkSpace,
    operators: Sequence[Operator],
    weights: Weights,
    device: Device,
    rounds: int,
    generator: np.random.Generator,
    progress: Progress,
    time_limit_s: float,
) -> tuple[dict[str, Entry], float]:
    """An entry for each operator by key, and the share of preempted runs."""
    n = len(operators)
    chains = _covering_chains(space, operators, generator)
    before: list[int | None] = [_before(i, chain) for i, chain in enumerate(chains)]
    models = [_model([operator], weights) for operator in operators]
    for operator, other in zip(operators, before, strict=True):
        models.append(_model([operator] if other is None else [operators[other], operator], weights))
    models.append(_model([EMPTY_CALL], {EMPTY_CALL: random_weights(EMPTY_CALL, generator)}))
    empty = len(models) - 1
    visits: list[Visit] = []
    for _ in range(rounds):
        drawn = _one_round(chains, generator)
        one_round: list[Visit] = [(*chain, empty) for chain in drawn]
        one_round += [tuple(n + i for i in chain) for chain in drawn]
        visits += [one_round[i] for i in generator.permutation(len(one_round))]
    samples = device.measure(models, Plan(tuple(visits), time_limit_s=time_limit_s), progress)
    found = timings(samples, len(models), generator)
    entries = {}
    for i, (operator, other) in enumerate(zip(operators, before, strict=True)):
        parts = (found[i], found[empty], found[n + i], found[empty if other is None else other])
        entries[operator.key] = _entry(operator, *parts)
    return entries, float(samples.preempted.mean())


def _before(operator: int, chain: tuple[int, ...]) -> int | None:
    """The operator that precedes one in a chain; None for the first."""
    place = chain.index(operator)
    return chain[place - 1] if place else None


def _entry(operator: Operator, alone: Timing, empty: Timing, behind: Timing, other: Timing) -> Entry:
    """The mean of both differences; see the module."""
    parts = (alone, empty, behind, other)
    ms = (alone.ms - empty.ms + behind.ms - other.ms) / 2
    if ms <= 0:
        raise DeviceError(
            f"{operator.key} cannot be told from an empty call ({1000 * ms:.3f} µs); "
            "the machine was disturbed: profile again, with more rounds"
        )
    std = math.sqrt(sum(part.std_ms**2 for part in parts)) / 2
    return Entry(round(ms, 7), round(std, 7), min(part.count for part in parts))


def _covering_chains(
    space: NetworkSpace, operators: Sequence[Operator], generator: np.random.Generator
) -> list[tuple[int, ...]]:
    """For each operator a random architecture that holds it, as the indices of its operators in order."""
    precision = operators[0].precision
    index = {operator: i for i, operator in enumerate(operators)}
    chains: dict[Operator, tuple[int, ...]] = {}
    for slot in space.slots:
        columns = [space.index(name) for name in slot.choices]
        for values, operator in space.slot_operators(slot, precision).items():
            if operator is None or operator in chains:
                continue
            genotypes = space.sample(DRAWS, generator).genotypes.copy()
            genotypes[:, columns] = values
            genotypes = space.canonical(genotypes)
            for arch in Architectures(space, genotypes[space.valid(genotypes)]):
                found = space.operators(arch, precision)
                if operator in found:
                    chains[operator] = tuple(index[o] for o in found)
                    break
            else:
                raise TableError(f"no valid architecture of {space.id} holds {operator.key}")
    return [chains[operator] for operator in operators]


def _one_round(chains: Sequence[tuple[int, ...]], generator: np.random.Generator) -> list[tuple[int, ...]]:
    """Chains that together hold every operator, each the best of a random few at what is still missing."""
    missing, drawn = set(range(len(chains))), []
    while missing:
        considered = [chains[j] for j in generator.integers(len(chains), size=CONSIDERED)]
        best = max(considered, key=lambda chain: len(missing.intersection(chain)))
        if missing.isdisjoint(best):
            best = chains[min(missing)]
        missing.difference_update(best)
        drawn.append(best)
    return drawn


# ---- whole networks -----------------------------------------------------------------------------


def _choose_networks(
    space: NetworkSpace,
    plain: LatencyTable,
    precision: str,
    calibration_networks: int,
    held_out_networks: int,
    generator: np.random.Generator,
) -> dict[int, tuple[Architectures, Architectures]]:
    """By resolution, the networks to calibrate on, spread over the predicted range, and random others.

    Where a resolution has fewer architectures than asked for, they are shared out in the same proportion.
    """
    candidates = space.sample(CANDIDATES, generator)
    order = generator.permutation(np.unique(candidates.genotypes, axis=0, return_index=True)[1])
    candidates = candidates[order]
    at = resolutions(space, candidates)
    chosen = {}
    asked = calibration_networks + held_out_networks
    for resolution in np.unique(at).tolist():
        archs = candidates[at == resolution]
        held_out = max(1, min(held_out_networks, len(archs) * held_out_networks // asked))
        if len(archs) < 2:
            raise TableError(
                f"{space.id} has one architecture at {resolution} px; there is nothing to calibrate"
            )
        rest = archs[held_out:]
        spread = spread_over(plain.sum_ms(space, rest, precision), min(calibration_networks, len(rest)))
        chosen[resolution] = (rest[spread], archs[:held_out])
    return chosen


def _calibrate(
    space: NetworkSpace,
    plain: LatencyTable,
    precision: str,
    resolution: int,
    networks: tuple[Architectures, Architectures],
    measured: Sequence[Sequence[Timing]],
) -> dict[str, Any]:
    """A row of the table's calibration from (calibrating, held out) networks and their timings."""
    sums = [plain.sum_ms(space, archs, precision) for archs in networks]
    macs = [space.macs(archs) for archs in networks]
    calibrating, held_out = ([timing.ms for timing in part] for part in measured)
    slope, intercept = fit(sums[0], calibrating)
    baseline = judge(linear(macs[1], *fit(macs[0], calibrating)), held_out)
    return {
        "space": space.id,
        "resolution": resolution,
        "precision": precision,
        "slope": slope,
        "intercept_ms": intercept,
        "networks": len(calibrating),
        "held_out": judge(linear(sums[1], slope, intercept), held_out),
        "macs_baseline": {name: baseline[name] for name in ("mape", "kendall_tau")},
        "repeatability_cv": repeatability_cv([timing.halves_ms for timing in measured[1]]),
    }


def _model(operators: Sequence[Operator], weights: Weights) -> bytes:
    model = onnx_model(operators, [weights[operator] for operator in operators])
    return bytes(model.SerializeToString())
