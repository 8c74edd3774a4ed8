"""What workers gain, what a lag costs, and what a long search holds.

    python benchmarks/executors.py speed
    python benchmarks/executors.py lag --data FOLDER --seeds 10
    python benchmarks/executors.py memory

speed: seconds of a search whose evaluations only wait, 2 s in the mean, log-normal, by executor, workers
and lag. lag: hypervolume of LINAS on NAS-Bench-Macro (nasbench_macro_cifar10.csv.gz) by lag. memory: of a
search of 10,000 evaluations that is stored. Prints a line each.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from search import MACRO_BEST, macro

import hwnas

MARKS = (50, 100, 200)  # evaluations


class Waits:
    """The number of parameters; takes as long as a log-normal number that follows from the architecture."""

    def __init__(self, space: hwnas.SearchSpace, mean_s: float, sigma: float) -> None:
        self.space, self.mean_s, self.sigma = space, mean_s, sigma

    def seconds(self, arch: hwnas.Architecture) -> float:
        digest = hashlib.sha256(str(arch.genotype).encode()).digest()
        drawn = np.random.default_rng(list(digest)).normal()
        return float(self.mean_s * np.exp(self.sigma * drawn - self.sigma**2 / 2))

    def __call__(self, archs: Any) -> Any:
        time.sleep(self.seconds(archs[0]))
        return self.space.params(archs)


def speed() -> None:
    space = hwnas.get_space("mobilenetv3")
    evaluate = Waits(space, 2.0, 0.5)
    objectives = [
        hwnas.Objective("params", "max", evaluate, expensive=True),
        hwnas.Objective("macs", "min", space.macs),
    ]
    for executor, workers, lag in (
        ("serial", 1, 0), ("process", 4, 0), ("process", 4, 1), ("process", 8, 0), ("process", 8, 1),
    ):  # fmt: skip
        begin = time.perf_counter()
        result = hwnas.search(
            space, objectives, strategy="random", evaluations=100, executor=executor, workers=workers, lag=lag
        )
        seconds = time.perf_counter() - begin
        work = sum(evaluate.seconds(e.architecture) for e in result.evaluations)
        print(
            f"{executor:8} {workers} workers, lag {lag}: {seconds:5.1f} s for {work:.1f} s of evaluations, "
            f"{100 * work / seconds / workers:.0f} % of the workers' time",
            flush=True,
        )


def lag(data: Path, seeds: int, lags: list[int]) -> None:
    task = macro(data)
    for value in lags:
        traces = np.array(
            [
                hwnas.search(
                    task.problem.space, task.problem.objectives, evaluations=max(MARKS), seed=seed, lag=value
                ).hypervolume_trace(task.reference)
                for seed in range(seeds)
            ]
        )
        share = 100 * traces / MACRO_BEST
        texts = [f"{k}: {share[:, k - 1].mean():.2f} ± {share[:, k - 1].std(ddof=1):.2f}" for k in MARKS]
        print(f"lag {value}: % of the hypervolume after {', '.join(texts)}; {seeds} seeds", flush=True)


def memory() -> None:
    space = hwnas.get_space("mobilenetv3")
    objectives = [
        hwnas.Objective("params", "max", space.params, expensive=True),
        hwnas.Objective("macs", "min", space.macs),
    ]
    process = psutil.Process()

    def progress(done: int, total: int, text: str) -> None:
        if done % 1000 == 0:
            mib = process.memory_info().rss / 2**20
            print(f"{done} evaluations: {mib:.0f} MiB, {time.process_time():.1f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        store = hwnas.Store(Path(folder) / "search.db")
        hwnas.search(space, objectives, strategy="random", evaluations=10_000, store=store, progress=progress)
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["speed", "lag", "memory"])
    parser.add_argument("--data", type=Path, help="folder of the file")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--lags", type=int, nargs="+", default=[0, 1, 2, 4])
    options = parser.parse_args()
    if options.what == "speed":
        speed()
    elif options.what == "memory":
        memory()
    else:
        lag(options.data, options.seeds, options.lags)


if __name__ == "__main__":
    main()
