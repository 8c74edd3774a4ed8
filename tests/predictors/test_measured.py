"""Predictors on accuracies and latencies that somebody else measured; skipped where they are not at hand."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from hwnas.predictors.bench import FeatureTable, compare, read_table

DATA = Path(os.environ.get("HWNAS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "benchmarks"
TOP1 = DATA / "ofa_mbv3_w10_imagenet_acc_evo.csv.gz"
LATENCY = DATA / "ofa_mbv3_latency.csv.gz"
TRANSFORMERS = DATA / "hat_latency_wmt14ende.csv.gz"

pytestmark = pytest.mark.skipif(not TOP1.exists(), reason=f"{TOP1} is not here; set HWNAS_TEST_DATA")


def tau(table: FeatureTable, name: str = "gp") -> float:
    """Mean Kendall's tau of two draws of 100 rows."""
    scores = compare(table.features, table.targets, [name], train=100, seeds=2)[name]
    return float(np.mean([score.kendall_tau for score in scores]))


def test_accuracy_of_once_for_all_networks() -> None:
    """Support vectors have .898 on these columns."""
    table = read_table(TOP1, "top1", exclude=["arch_id", "source", "order"])
    assert len(table.targets) == 1336
    assert tau(table) > 0.91


@pytest.mark.parametrize(("column", "best_known"), [("lat_2080ti_32", 0.552), ("lat_titan_rtx_1", 0.657)])
def test_latency_of_once_for_all_networks(column: str, best_known: float) -> None:
    table = read_table(LATENCY, column, exclude=["arch_id", "lat_*"])
    assert tau(table) > best_known + 0.03


@pytest.mark.parametrize(
    ("device", "lowest"), [("cpu_raspberrypi", 0.87), ("cpu_xeon", 0.87), ("gpu_titanxp", 0.815)]
)
def test_latency_of_transformers(device: str, lowest: float, tmp_path: Path) -> None:
    """Ridge has .845, .880 and .819."""
    with gzip.open(TRANSFORMERS, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == device]
    with (tmp_path / "table.csv").open("w") as file:
        writer = csv.DictWriter(file, [*rows[0], "ms"])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {**row, "ms": float(row["latency_mean_encoder"]) + float(row["latency_mean_decoder"])}
            )
    assert tau(read_table(tmp_path / "table.csv", "ms", exclude=["latency_*"])) > lowest
