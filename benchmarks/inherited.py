"""How good a supernet's subnets are with inherited weights, beside subnets that were trained alone.

    hwnas train configs/cifar10.yaml --set data.path=DIR
    python benchmarks/inherited.py runs/cifar10 [--random 30] [--alone 8] [--epochs 20]

Judges the largest, the smallest and random subnets on the validation and the test split. Then subnets spread
over the range of MACs are trained alone, from new weights, with the run's own settings but on labels only,
for so many epochs, and Kendall's tau says how well inherited accuracy ranks them, and how well MACs do. What
is finished is kept in RUN/alone, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

import hwnas
from hwnas.config import Named, Training
from hwnas.latency.calibrate import spread_over
from hwnas.latency.runner import cpu_name
from hwnas.networks.supernet import Supernet
from hwnas.pipeline import Run, load_run
from hwnas.spaces import Architecture
from hwnas.spaces.fixed import FixedSpace
from hwnas.store import read_json, write_json
from hwnas.training.evaluation import AccuracyEvaluator
from hwnas.training.finetune import finetuning
from hwnas.training.loop import train

CANDIDATES = 2000  # random architectures that those to be trained alone are chosen from


def evaluators(run: Run, net: Supernet) -> list[AccuracyEvaluator]:
    """Of the validation and of the test split."""
    images = run.config.search.calibration_images
    return [
        AccuracyEvaluator(net, run.data("train"), run.data(split), images, run.config.seed)
        for split in ("validation", "test")
    ]


def trained_alone(run: Run, arch: Architecture, epochs: int) -> list[float]:
    """Validation and test accuracy in percent of a subnet that was trained alone."""
    folder = run.directory / "alone" / f"{arch.id}-{epochs}"
    if (folder / "accuracy.json").exists():
        return list(read_json(folder / "accuracy.json")["accuracy"])
    settings, data = run.config.training, run.data("train")
    on_labels = {
        "strategy": Named(name="uniform"),  # of one subnet
        "loss": Training().loss,
        "random_subnets": Training().random_subnets,
        "dropout": 0,  # in a supernet that of the largest subnet alone
        "drop_connect": 0,
        "report_every": 1000,
    }
    settings = finetuning(settings, epochs, len(data), settings.learning_rate).model_copy(update=on_labels)
    net = Supernet(FixedSpace(run.space, arch), run.config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    train(net, data, run.data("validation"), settings, folder, run.config.seed)
    found = [float(judge([net.space.largest()])[0]) for judge in evaluators(run, net)]
    write_json(folder / "accuracy.json", {"accuracy": found})
    return found


def show(name: str, found: np.ndarray) -> None:
    """A line of validation and test accuracies, (2, n)."""
    texts = [
        f"{split} {values.mean():.2f} %"
        + (f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else "")
        for split, values in zip(("validation", "test"), found, strict=True)
    ]
    print(f"{name}: {', '.join(texts)}", flush=True)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau."""
    return float(kendalltau(one, other).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run whose supernet is trained")
    parser.add_argument("--random", type=int, default=30, help="random subnets that are judged")
    parser.add_argument("--alone", type=int, default=8, help="subnets that are trained alone")
    parser.add_argument("--epochs", type=int, default=20, help="of training alone")
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    net, space = hwnas.load_supernet(arguments.run), run.space
    judges = evaluators(run, net)
    print(f"{cpu_name()}; {arguments.run}, {space.id}")
    groups = {"largest": [space.largest()], "smallest": [space.smallest()]}
    if arguments.random:
        groups[f"{arguments.random} random"] = list(space.sample(arguments.random, 1))
    for name, archs in groups.items():
        show(name, np.array([judge(archs) for judge in judges]))
    if not arguments.alone:
        return
    candidates = space.sample(CANDIDATES, 2)
    archs = list(candidates[spread_over(space.macs(candidates), arguments.alone)])
    macs = space.macs(archs)
    inherited = np.array([judge(archs) for judge in judges])
    alone = np.zeros_like(inherited)
    for i, arch in enumerate(archs):
        alone[:, i] = trained_alone(run, arch, arguments.epochs)
        print(
            f"  {arch.id}, {macs[i] / 1e6:.2f} MMACs: inherited {inherited[1, i]:.2f} %, alone for "
            f"{arguments.epochs} epochs {alone[1, i]:.2f} % (test)",
            flush=True,
        )
    for split, one, other in zip(("validation", "test"), inherited, alone, strict=True):
        print(
            f"{split}: tau of inherited and alone {rank_correlation(one, other):.3f}, of MACs and alone "
            f"{rank_correlation(macs, other):.3f}; inherited less alone: mean {np.mean(one - other):+.2f} "
            f"points, least {np.min(one - other):+.2f}"
        )


if __name__ == "__main__":
    main()
