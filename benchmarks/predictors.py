"""Rank correlation of each predictor on accuracies and latencies that somebody else measured.

    python benchmarks/predictors.py --data FOLDER
    python benchmarks/predictors.py --data FOLDER --problems ofa-top1 macro --train 200 --predictors gp auto

Mean ± standard deviation over seeds, each judged on 1000 unseen rows or the rest. A search knows MACs exactly
and learns from them beside the choices; so do the predictors of ofa-top1 and macro. The rest is learnt from
the columns of the files, as `hwnas bench predictor` does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from search import macro as macro_task
from search import ofa_rows

from hwnas.predictors import PREDICTORS
from hwnas.predictors.bench import compare, read_table, summarise

Rows = tuple[np.ndarray, np.ndarray]  # features (n, d), targets (n,)


def ofa_top1(data: Path) -> Rows:
    """ImageNet top-1, %, of once-for-all MobileNetV3 networks."""
    archs, top1 = ofa_rows(data)
    return np.column_stack([archs.origin.features(archs), archs.origin.macs(archs)]), top1


def ofa_top1_columns(data: Path) -> Rows:
    """The same, learnt from the columns of the file, which has parameters too."""
    table = read_table(
        data / "ofa_mbv3_w10_imagenet_acc_evo.csv.gz", "top1", exclude=["arch_id", "source", "order"]
    )
    return table.features, table.targets


def macro(data: Path) -> Rows:
    """CIFAR-10 accuracy, %, of the 3969 distinct networks of NAS-Bench-Macro."""
    problem = macro_task(data).problem
    archs = problem.space.enumerate()
    accuracy, mflops = (objective.evaluate(archs) for objective in problem.objectives)
    return np.column_stack([problem.space.features(archs), mflops]), accuracy


def hat(device: str) -> Callable[[Path], Rows]:
    """Latency of translation transformers, encoder and decoder, ms."""

    def rows(data: Path) -> Rows:
        table = pd.read_csv(data / "hat_latency_wmt14ende.csv.gz")
        table = table[table["device"] == device]
        total = table["latency_mean_encoder"] + table["latency_mean_decoder"]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "table.csv"
            table.assign(ms=total).to_csv(file, index=False)
            found = read_table(file, "ms", exclude=["latency_*"])
        return found.features, found.targets

    return rows


def ofa_latency(column: str) -> Callable[[Path], Rows]:
    """Latency of once-for-all MobileNetV3 networks at resolutions from 128 to 224, ms."""

    def rows(data: Path) -> Rows:
        table = read_table(data / "ofa_mbv3_latency.csv.gz", column, exclude=["arch_id", "lat_*"])
        return table.features, table.targets

    return rows


PROBLEMS: dict[str, Callable[[Path], Rows]] = {
    "ofa-top1": ofa_top1,
    "ofa-top1-columns": ofa_top1_columns,
    "macro": macro,
    "hat-raspberrypi": hat("cpu_raspberrypi"),
    "hat-xeon": hat("cpu_xeon"),
    "hat-titanxp": hat("gpu_titanxp"),
    "ofa-2080ti-32": ofa_latency("lat_2080ti_32"),
    "ofa-titanrtx-1": ofa_latency("lat_titan_rtx_1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the files")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--predictors", nargs="+", choices=PREDICTORS, default=list(PREDICTORS))
    parser.add_argument("--train", type=int, nargs="+", default=[100, 200])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    for problem in options.problems:
        features, targets = PROBLEMS[problem](options.data)
        for train in options.train:
            scores = compare(features, targets, options.predictors, train, options.seeds)
            for name in options.predictors:
                found = summarise(scores[name])
                tau, mape = found["kendall_tau"], found["mape"]
                print(
                    f"{problem:20} {train:4} rows  {name:10} tau {tau['mean']:.3f} ± {tau['std'] or 0:.3f}  "
                    f"MAPE {mape['mean']:6.2f} %  within 2 std {found['within_2_std']['mean']:3.0f} %  "
                    f"fit {found['fit_s']['mean']:.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
