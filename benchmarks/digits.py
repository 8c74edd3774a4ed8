"""What the whole job is worth, on a finished run of configs/digits.yaml.

    hwnas run configs/digits.yaml && python benchmarks/digits.py runs/digits

1. The search against random search with the same number of evaluations: hypervolume over five seeds, same
   supernet, same table. Reference: accuracy 0 %, the slowest latency that either evaluated.
2. The stated latencies: every verified model timed again, in this process, in fresh sessions.
3. The predictions: table against measurement, and the accuracy predictor against the truth.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from hwnas.config import Experiment
from hwnas.export.verify import measure_models
from hwnas.latency.devices import get_device
from hwnas.pipeline import Run, load_run
from hwnas.store import read_bytes

console = Console(width=100)


def searches(run: Run, seeds: int) -> None:
    """Hypervolume of the run's strategy and of random search."""
    strategy, n = run.config.search.strategy, run.config.search.evaluations
    table = Table(title=f"Hypervolume after {n} evaluations, reference accuracy 0 %")
    for column in ("seed", strategy, "random", "ratio", f"evaluations of {strategy} for random's"):
        table.add_column(column, justify="right")
    won = 0
    for seed in range(seeds):
        config = Experiment.model_validate({**run.config.model_dump(), "seed": seed})
        # The same supernet, data and store; only what the search draws differs.
        seeded = Run(run.directory, config)
        seeded.objectives = run.objectives
        found = {name: seeded.search(f"benchmark {name} {seed}", name) for name in (strategy, "random")}
        slowest = max(e.metrics["latency_ms"] for result in found.values() for e in result.evaluations)
        guided, random = (result.hypervolume_trace([0.0, slowest]) for result in found.values())
        won += bool(guided[-1] > random[-1])
        reached = int(np.argmax(guided >= random[-1])) + 1 if guided[-1] >= random[-1] else None
        table.add_row(
            str(seed),
            f"{guided[-1]:.4f}",
            f"{random[-1]:.4f}",
            f"{guided[-1] / random[-1]:.4f}",
            "never" if reached is None else str(reached),
        )
    console.print(table)
    console.print(f"{strategy} has more in {won} of {seeds} seeds")


def latencies(run: Run) -> None:
    """Verified models measured again, and the table's predictions of them."""
    models = [model for model in run.models if model["status"] == "verified"]
    files = {m["id"]: read_bytes(run.directory / "models" / m["id"] / "model.onnx") for m in models}
    runtime = run.table.runtime
    again = measure_models(
        files, get_device(runtime["name"], runtime["threads"]), run.config.latency.verify_rounds, seed=1
    )
    stated = np.array([m["measured"]["latency_ms"] for m in models])
    predicted = np.array([m["predicted"]["latency_ms"] for m in models])
    measured = np.array([again[m["id"]]["latency_ms"] for m in models])
    change = 100 * np.abs(measured / stated - 1)
    error = 100 * np.abs(predicted / stated - 1)
    console.print(
        f"{len(run.models)} models on the front, {len(models)} verified. Measured again: median change "
        f"{np.median(change):.1f} %, largest {change.max():.1f} %, {int((change <= 10).sum())} within 10 %"
    )
    console.print(
        f"Table against measurement: median error {np.median(error):.1f} %, largest {error.max():.1f} %, "
        f"Kendall tau {kendalltau(predicted, stated).statistic:.3f}"
    )


def accuracies(run: Run) -> None:
    """The front's ends, and the accuracy predictor on evaluations that it had not seen."""
    models = run.models
    first, last = models[0], models[-1]
    console.print(
        f"Front from {first['validation_accuracy']:.1f} % at {first['measured']['latency_ms']:.4f} ms to "
        f"{last['validation_accuracy']:.1f} % at {last['measured']['latency_ms']:.4f} ms; best test accuracy "
        f"{max(m['test_accuracy'] for m in models):.2f} %"
    )
    frame = run.evaluations()
    good = frame[(frame["status"] == "ok") & frame["predicted_accuracy"].notna()]
    error = (good["predicted_accuracy"] - good["accuracy"]).abs()
    tau = kendalltau(good["predicted_accuracy"], good["accuracy"]).statistic
    console.print(
        f"Accuracy predictor, 5-fold: median error {error.median():.2f} points, Kendall tau {tau:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    run = load_run(arguments.run)
    console.print(f"{run.table.device['cpu']}, {run.table.device['cores']} cores")
    accuracies(run)
    latencies(run)
    searches(run, arguments.seeds)


if __name__ == "__main__":
    main()
