"""Speed of the search's inner loop over the once-for-all MobileNetV3 space, on one core.

OMP_NUM_THREADS=1 python benchmarks/inner_loop.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

import hwnas
from hwnas.predictors import get_predictor
from hwnas.searching.objectives import Evaluation, Problem
from hwnas.searching.strategies import get_strategy

CANDIDATES, TOLD = 15_000, 300


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock seconds."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    space = hwnas.get_space("mobilenetv3")

    def accuracy(archs: object) -> np.ndarray:
        return 80 - 4e8 / (space.macs(archs) + 0.1 * space.params(archs))

    told, candidates = space.sample(TOLD, 0), space.sample(CANDIDATES, 1)
    for name in ("ridge", "gp"):
        predictor = get_predictor(name)
        fit = seconds(lambda p=predictor: p.fit(space.features(told), accuracy(told)))  # type: ignore[misc]
        predict = seconds(lambda p=predictor: p.predict(space.features(candidates)))  # type: ignore[misc]
        print(
            f"{name:6} fit of {TOLD}: {fit:.3f} s; "
            f"features and prediction: {CANDIDATES / predict:,.0f} candidates/s"
        )
    objectives = (
        hwnas.Objective("accuracy", "max", accuracy, expensive=True),
        hwnas.Objective("macs", "min", space.macs),
    )
    strategy = get_strategy("linas", Problem(space, objectives))
    values = zip(told, accuracy(told), space.macs(told), strict=True)
    strategy.tell([Evaluation(arch, {"accuracy": a, "macs": m}) for arch, a, m in values])
    print(f"one round of linas after {TOLD} evaluations: {seconds(lambda: strategy.ask(10)):.2f} s")


if __name__ == "__main__":
    main()
