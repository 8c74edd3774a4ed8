"""How well a latency table predicts whole networks that it has not seen, on this machine.

    python benchmarks/latency.py [digits] [ofa64] [ofa128] [ofa160] [--seeds 0 1] [--networks 60]
    python benchmarks/latency.py ofa224 --device torch-cuda --batch-size 32        # on an NVIDIA GPU

For each space and seed: profile the space as a user would, but with 60 networks a resolution held out, which
are timed in the same passes as the operators, in turns. So table and truth see the same machine, however its
speed changes; what the halves of these passes say of one network is the floor that no table can be below.
MACs calibrated on the same networks are what the table must beat.

With --apart the held-out networks are also timed by themselves, in two campaigns before the profile and two
after: what a table of some minutes ago is off by, which holds how much the machine changed since.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.config import load_config
from hwnas.latency.calibrate import judge
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Device, Timing, time_models, timings
from hwnas.latency.profiling import (
    CALIBRATION_NETWORKS,
    Subject,
    campaign_of,
    profile,
    subject_of,
    table_of,
)
from hwnas.latency.table import Group, LatencyTable
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.spaces import Architectures, NetworkSpace, get_space


def digits() -> NetworkSpace:
    """The space of configs/digits.yaml: fused blocks of a few microseconds at 16, 20 and 24 pixels."""
    named = load_config(Path(__file__).parents[1] / "configs" / "digits.yaml").space
    return get_space(named.name, classes=10, channels=1, **named.parameters)


def ofa(resolution: int) -> NetworkSpace:
    """Once-for-All's space at one resolution."""
    return get_space("mobilenetv3", resolutions=(resolution,))


SPACES: dict[str, Callable[[], NetworkSpace]] = {
    "digits": digits,
    **{f"ofa{size}": partial(ofa, size) for size in (64, 128, 160, 224)},
}
CALIBRATING = {name: 144 if name == "digits" else CALIBRATION_NETWORKS for name in SPACES}  # a resolution
DEFAULT = ["digits", "ofa64", "ofa128", "ofa160"]
CAMPAIGNS, ROUNDS = 4, 12


def measure(subject: Subject, device: Device, seed: int, apart: bool) -> None:
    """Profile, compare and print."""
    before = campaigns(subject, device, 0) if apart else []
    start = time.perf_counter()
    table, timed = profiled(subject, device)
    seconds = time.perf_counter() - start
    protocol = table.protocol
    print(
        f"  seed {seed}: {len(table.operators)} operators in {seconds:.0f} s ({protocol['rounds']} rounds in "
        f"{protocol['passes']} passes, ±{100 * (protocol['half_width'] or np.inf):.1f} %); "
        f"{100 * protocol['preempted']:.1f} % of runs preempted, {100 * protocol['taken']:.0f} % of time "
        f"taken, drift {100 * protocol['drift']:.0f} %; "
        f"{'NOISY: ' + '; '.join(protocol['noise']) if protocol['noisy'] else 'not noisy'}"
    )
    for row in table.calibration:
        halves = np.array([timing.halves_ms for timing in timed[row["resolution"], row["precision"]]])
        show(row, judge(*halves.T))
    if apart:
        pairs = np.array([np.mean(half, axis=0) for half in (before, campaigns(subject, device, 1))]).T
        truth, predicted = pairs.mean(axis=1), table.latency_ms(held_out(subject))
        found, floor = judge(predicted, truth), judge(*pairs.T)
        print(
            f"    apart: MAPE {found['mape']:.2f} % (bias {100 * np.mean(predicted / truth - 1):+.2f} %), "
            f"tau {found['kendall_tau']:.3f}, within ±10 % {found['within_10pct']:.0f}; before and after: "
            f"MAPE {floor['mape']:.2f} %, tau {floor['kendall_tau']:.3f}",
            flush=True,
        )


def show(row: Mapping[str, Any], halves: Mapping[str, Any]) -> None:
    """A line of a resolution: the table's error on held-out networks, and the floor of these minutes."""
    found, macs = row["held_out"], row["macs_baseline"]
    print(
        f"    {row['resolution']} px, {found['networks']} unseen: MAPE {found['mape']:.2f} %, tau "
        f"{found['kendall_tau']:.3f}, within ±10 % {found['within_10pct']:.0f}; halves: CV "
        f"{row['repeatability_cv']:.2f} %, MAPE {halves['mape']:.2f} %, tau {halves['kendall_tau']:.3f}; "
        f"MACs: MAPE {macs['mape']:.2f} %, tau {macs['kendall_tau']:.3f}",
        flush=True,
    )


def profiled(subject: Subject, device: Device) -> tuple[LatencyTable, dict[Group, list[Timing]]]:
    """The table of a subject, as `hwnas.profile` makes it; by group what held-out networks took."""
    campaign = campaign_of(subject, device)
    found = timings([p.samples for p in campaign.passes], len(subject.models), subject.seed)
    timed = {group: found[subject.models_of(group)[1]] for group in subject.networks}
    return table_of(subject, campaign, device.identity), timed


def held_out(subject: Subject) -> Architectures:
    """Those of all resolutions, one after another."""
    archs = [part for _, part in subject.networks.values()]
    return Architectures(subject.space, np.concatenate([part.genotypes for part in archs]))


def campaigns(subject: Subject, device: Device, turn: int) -> list[list[float]]:
    """What the held-out networks take, in campaigns with new weights and sessions."""
    found = []
    for campaign in range(CAMPAIGNS // 2):
        rng = np.random.default_rng((subject.seed, turn, campaign))
        models = []
        for arch in held_out(subject):
            operators = subject.space.operators(arch)
            weights = [random_weights(operator, rng) for operator in operators]
            models.append(onnx_model(operators, weights, subject.batch_size).SerializeToString())
        found.append([timing.ms for timing in time_models(models, device, ROUNDS, rng)])
    return found


def throughput(space: NetworkSpace) -> None:
    """Look-ups a second, of a table that a cheap profile of this machine's CPU made."""
    table = profile(space, rounds=2)
    archs = space.sample(1_000_000, 0)
    table.latency_ms(archs[:1])
    times = []
    for _ in range(5):
        start = time.perf_counter()
        table.latency_ms(archs)
        times.append(time.perf_counter() - start)
    rates = [len(archs) / t / 1e6 for t in times]
    spread = f"{min(rates):.1f} to {max(rates):.1f}"
    print(f"  look-up: {np.median(rates):.1f} million architectures a second ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spaces", nargs="*", default=DEFAULT, help=", ".join(SPACES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--throughput", action="store_true", help="time look-ups too")
    parser.add_argument("--apart", action="store_true", help="time the held-out networks by themselves too")
    parser.add_argument("--networks", type=int, default=60, help="held out at each resolution")
    parser.add_argument("--device", default="onnxruntime", help="see hwnas list devices")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1)
    arguments = parser.parse_args()
    device = get_device(arguments.device, arguments.threads)
    identity = device.identity
    machine = f"{identity.device['cpu']}, {identity.device['cores']} cores"
    print(f"{machine}; {identity.runtime}, batch {arguments.batch_size}")
    for name in arguments.spaces:
        space = SPACES[name]()
        print(f"{name}: {space.id}")
        for seed in arguments.seeds:
            subject = subject_of(
                space, "fp32", CALIBRATING[name], arguments.networks, seed, arguments.batch_size
            )
            measure(subject, device, seed, arguments.apart)
        if arguments.throughput:
            throughput(space)


if __name__ == "__main__":
    main()
