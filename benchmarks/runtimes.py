"""How the runtimes of this machine's CPU compare on the same networks.

    python benchmarks/runtimes.py [--networks 10] [--rounds 3] [--campaigns 8] [--resolution 128]

Random networks of the Once-for-All space, one thread. The runtimes take turns: each campaign opens
every network anew in each of them, in random order, and times the networks in shuffled rounds. A ratio is
that of one network's latencies within a campaign; its spread is over networks. Takes about a minute.
"""

from __future__ import annotations

import argparse

import numpy as np

from hwnas.errors import MissingExtraError
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Device, time_models
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.spaces import get_space

REFERENCE = "onnxruntime"
OTHERS = ("openvino", "torch")


def devices() -> dict[str, Device]:
    found = {}
    for name in (REFERENCE, *OTHERS):
        try:
            found[name] = get_device(name)
        except MissingExtraError as error:
            print(f"without {name}: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--campaigns", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=128)
    arguments = parser.parse_args()
    space = get_space("mobilenetv3", resolutions=(arguments.resolution,))
    models = []
    for seed, arch in enumerate(space.sample(arguments.networks, 0)):
        operators = space.operators(arch)
        rng = np.random.default_rng(seed)
        model = onnx_model(operators, [random_weights(operator, rng) for operator in operators])
        models.append(model.SerializeToString())

    known = devices()
    for device in known.values():
        print(device.identity.runtime)
    ms: dict[str, list[list[float]]] = {name: [] for name in known}
    preempted = []
    order = np.random.default_rng(0)
    for campaign in range(arguments.campaigns):
        for name in order.permutation(list(known)):
            timings = time_models(models, known[name], arguments.rounds, campaign)
            ms[name].append([timing.ms for timing in timings])
            preempted += [timing.preempted for timing in timings]

    latency = {name: np.array(rows) for name, rows in ms.items()}  # (campaigns, networks)
    print(f"{100 * np.mean(preempted):.1f} % of runs preempted")
    for name, rows in latency.items():
        mean = rows.mean(axis=0)
        cv = 100 * np.mean(rows.std(axis=0, ddof=1) / mean)
        print(f"{name:12} {mean.min():.2f} to {mean.max():.2f} ms; campaigns differ by CV {cv:.1f} %")
    reference = latency[REFERENCE]
    for name in [name for name in known if name != REFERENCE]:
        ratios = (latency[name] / reference).mean(axis=0)
        spread = f"{ratios.min():.2f} to {ratios.max():.2f} over networks"
        by_campaign = ", ".join(f"{ratio:.2f}" for ratio in np.median(latency[name] / reference, axis=1))
        print(f"{name} / {REFERENCE}: {np.median(ratios):.2f} ({spread}; campaigns {by_campaign})")


if __name__ == "__main__":
    main()
