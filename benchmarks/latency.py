"""How well a latency table predicts whole networks that it has not seen, on this machine.

    python benchmarks/latency.py [digits] [ofa64] [ofa128] [ofa160] [--seeds 0 1] [--networks 60]
    python benchmarks/latency.py ofa224 --device torch-cuda --batch-size 32        # on an NVIDIA GPU

For each space and seed: time random networks in two campaigns with fresh sessions, profile the space as a
user would, time the same networks in two more campaigns, and compare. The machine changes while this goes on,
so what the two before differ from the two after is the floor that no table can be below; MACs calibrated on
the same networks are what the table must beat. Takes up to two minutes a space and seed on two cores.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from hwnas.latency.calibrate import judge, repeatability_cv
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Device, time_models
from hwnas.latency.profiling import profile
from hwnas.networks.onnx_graph import onnx_model, random_weights
from hwnas.spaces import NetworkSpace, get_space


def digits() -> NetworkSpace:
    """The space of configs/digits.yaml: fused blocks of a few microseconds at 16, 20 and 24 pixels."""
    fused = {"block": "fused", "depth": [1, 2], "expand": [1, 2, 3]}
    return get_space(
        "mobilenetv3",
        resolutions=(16, 20, 24),
        channels=1,
        classes=10,
        stem={"width": [8, 16], "activation": "relu"},
        head={"width": 96, "activation": "relu"},
        stages=[
            {**fused, "width": [8, 12, 16], "kernel": [3], "stride": 1},
            {**fused, "width": [16, 24, 32], "kernel": [3, 5], "stride": 2},
            {**fused, "width": [24, 32, 48], "kernel": [3], "stride": 2},
        ],
    )


def ofa(resolution: int) -> NetworkSpace:
    """Once-for-All's space at one resolution."""
    return get_space("mobilenetv3", resolutions=(resolution,))


SPACES = {
    "digits": digits,
    "ofa64": lambda: ofa(64),
    "ofa128": lambda: ofa(128),
    "ofa160": lambda: ofa(160),
    "ofa224": lambda: ofa(224),
}
DEFAULT = ["digits", "ofa64", "ofa128", "ofa160"]
CAMPAIGNS, ROUNDS = 4, 12


def measure(space: NetworkSpace, device: Device, batch_size: int, seed: int, networks: int) -> None:
    archs = space.sample(networks, 1000 + seed)
    campaigns = []
    for campaign in range(CAMPAIGNS):
        if campaign == CAMPAIGNS // 2:
            start = time.perf_counter()
            table = profile(space, device, batch_size=batch_size, rng=seed)
            seconds = time.perf_counter() - start
        rng = np.random.default_rng((seed, campaign))
        models = []
        for arch in archs:
            operators = space.operators(arch)
            weights = [random_weights(operator, rng) for operator in operators]
            models.append(onnx_model(operators, weights, batch_size).SerializeToString())
        campaigns.append([timing.ms for timing in time_models(models, device, ROUNDS, rng)])
    pairs = np.array([np.mean(half, axis=0) for half in np.array_split(campaigns, 2)]).T
    truth, predicted = pairs.mean(axis=1), table.latency_ms(archs)
    found = judge(predicted, truth)
    floor = judge(*pairs.T)
    macs = [row["macs_baseline"]["mape"] for row in table.calibration]
    protocol = table.protocol
    print(
        f"  seed {seed}: {len(table.operators)} operators in {seconds:.0f} s ({protocol['rounds']} rounds "
        f"in {protocol['passes']} passes, ±{100 * protocol['half_width']:.1f} %); {networks} unseen "
        f"networks of {truth.min():.4f} to {truth.max():.4f} ms: MAPE {found['mape']:.2f} % "
        f"(bias {100 * np.mean(predicted / truth - 1):+.2f} %), tau {found['kendall_tau']:.3f}, "
        f"within ±10 % {found['within_10pct']:.0f}"
    )
    print(
        f"          halves of the truth: MAPE {floor['mape']:.2f} %, CV {repeatability_cv(pairs):.2f} %, tau "
        f"{floor['kendall_tau']:.3f}; MACs alone: MAPE {' / '.join(format(mape, '.1f') for mape in macs)} %; "
        f"the table's own halves: CV "
        f"{' / '.join(format(row['repeatability_cv'], '.1f') for row in table.calibration)} %; "
        f"{100 * protocol['preempted']:.1f} % of runs preempted, {100 * protocol['taken']:.0f} % "
        f"of time taken, drift {100 * protocol['drift']:.0f} %; "
        f"{'NOISY: ' + '; '.join(protocol['noise']) if protocol['noisy'] else 'not noisy'}",
        flush=True,
    )


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
    parser.add_argument("--networks", type=int, default=60)
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
            measure(space, device, arguments.batch_size, seed, arguments.networks)
        if arguments.throughput:
            throughput(space)


if __name__ == "__main__":
    main()
