"""Searches on tables that somebody else measured; skipped where they are not at hand."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from hwnas import Choice, Objective, SearchSpace, search
from hwnas.predictors import get_predictor
from hwnas.searching.feasible import row_keys
from hwnas.searching.pareto import hypervolume

DATA = Path(os.environ.get("HWNAS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "benchmarks"
TABLE = DATA / "nasbench_macro_cifar10.csv.gz"
REFERENCE, BEST = (80.0, 110.0), 1076.281475  # accuracy %, MFLOPs; the exact hypervolume of all networks

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason=f"{TABLE} is not here; set HWNAS_TEST_DATA")


def canonical(genotypes: Any) -> Any:
    """Identities move behind the other layers of a stage, but for its first layer, which has the stride."""
    moved = genotypes.copy()
    for begin, end in ((1, 2), (3, 5), (6, 8)):
        part = moved[:, begin:end]
        moved[:, begin:end] = np.take_along_axis(part, np.argsort(part == 0, axis=1, kind="stable"), axis=1)
    return moved


@pytest.fixture(scope="module")
def macro() -> tuple[SearchSpace, dict[bytes, np.ndarray], pd.DataFrame]:
    stages = "11222333"
    choices = [Choice(f"layer{i}", ("skip", "k3e3", "k5e6"), group=f"stage{s}") for i, s in enumerate(stages)]
    space = SearchSpace("macro", choices, canonical=canonical)
    table = pd.read_csv(TABLE, dtype={"arch": str})
    genotypes = space.canonical(np.array([[int(c) for c in arch] for arch in table["arch"]]))
    columns = table[["mean_acc", "flops"]].to_numpy() / (1.0, 1e6)
    return space, dict(zip(row_keys(genotypes), columns, strict=True)), table.assign(key=row_keys(genotypes))


def test_the_canonical_form_joins_exactly_the_equal_networks(macro: Any) -> None:
    space, rows, table = macro
    assert space.size == len(rows) == 3969
    assert (table.groupby("key")[["mean_acc", "params", "flops"]].nunique() == 1).all().all()
    assert hypervolume(list(rows.values()), REFERENCE, ["max", "min"]) == pytest.approx(BEST)


@pytest.mark.parametrize("seed", range(3))
def test_linas_reaches_99_percent_of_the_hypervolume_in_150_evaluations(macro: Any, seed: int) -> None:
    space, rows, _ = macro

    def column(index: int) -> Any:
        return lambda archs: np.array([rows[key][index] for key in row_keys(space.genotypes(archs))])

    objectives = [
        Objective("accuracy", "max", column(0), expensive=True),
        Objective("mflops", "min", column(1)),
    ]
    result = search(space, objectives, evaluations=150, seed=seed)
    random = search(space, objectives, evaluations=150, seed=seed, strategy="random")
    assert result.front.hypervolume(REFERENCE) >= 0.99 * BEST > random.front.hypervolume(REFERENCE)


def test_the_gaussian_process_ranks_real_networks(macro: Any) -> None:
    space, rows, _ = macro
    archs = space.enumerate()
    accuracy, mflops = np.array([rows[key] for key in row_keys(archs.genotypes)]).T
    features = np.column_stack([space.features(archs), mflops])
    taus = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(archs))
        predictor = get_predictor("gp")
        predictor.fit(features[order[:100]], accuracy[order[:100]])
        mean, std = predictor.predict(features[order[100:]])
        taus.append(kendalltau(mean, accuracy[order[100:]])[0])
        assert np.mean(np.abs(mean - accuracy[order[100:]]) < 2 * std) > 0.8
    assert np.mean(taus) > 0.87
