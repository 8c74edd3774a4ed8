"""How well predictors learn a table of features, on rows that they have not seen."""

from __future__ import annotations

import csv
import math
import re
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from hwnas.errors import DataError
from hwnas.predictors import PREDICTORS, get_predictor
from hwnas.predictors.base import Array
from hwnas.progress import Progress, silent
from hwnas.store import read_bytes, unpacked
from hwnas.tabular import UNNAMED, TextTable, parse_csv

TEST_ROWS = 1000  # at most so many are predicted
FEWEST_TEST_ROWS = 10
LEVELS = 64  # distinct values of a categorical column at most
MOST_LISTED = 2000  # characters of column names in a message
MOST_ROWS = 5  # in a message

Columns = dict[str, list[str]]


# ---- a table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureTable:
    """Distinct rows: features (n, d), targets (n,), a name for each feature.

    `duplicates` is the number of rows that were joined with one of equal features, `dropped` that of rows
    left out for their target. `row_labels` are columns that only number the rows and are not learnt from.
    """

    features: Array
    targets: Array
    names: tuple[str, ...]
    duplicates: int
    dropped: int = 0
    row_labels: tuple[str, ...] = ()


def read_table(
    path: str | Path,
    target: str,
    features: Sequence[str] = (),
    exclude: Sequence[str] = (),
    categorical: Sequence[str] = (),
    split: Sequence[str] = (),
    drop_missing: bool = False,
) -> FeatureTable:
    """Read features and targets from a CSV file with a header and a row for each architecture.

    The file is separated by commas, semicolons or tabs, see `parse_csv`, and may be gzipped. Numbers stay
    numbers. Columns with a text, a blank or a number with a leading zero are one-hot encoded. So are those in
    `categorical`, and those in `split`, which are cut into characters first. Rows of equal features are
    joined and get the mean of their targets. A column that numbers the rows, such as the index that pandas
    writes, is not learnt from unless `features` has its name.

    Args:
        path: The file.
        target: Name of the column to predict.
        features: Names or patterns (``ks*``) of the columns to learn from; without any, all but the target.
        exclude: Names or patterns of columns to leave out.
        categorical: Names or patterns of columns whose numbers are only names.
        split: Names or patterns of columns whose texts have one value a character.
        drop_missing: Leave out rows whose target is not a finite number.

    Returns:
        The table of distinct rows.

    Raises:
        StoreError: If the file cannot be read.
        DataError: If the file is no such table, a column is missing or cannot be learnt from, or a target
            is not a finite number.
    """
    text = _read_text(path)
    columns = text.columns
    row_labels = {name for name in columns if name not in features and _numbers_rows(name, columns[name])}
    given = _matching(columns, features or ["*"], path)
    left_out = {*_matching(columns, exclude, path), *_matching(columns, [target], path), *row_labels}
    chosen = [name for name in given if name not in left_out]
    one_hot, cut = _matching(columns, categorical, path), _matching(columns, split, path)
    for name in (*one_hot, *cut):
        if name not in chosen:
            raise DataError(f"{path}: column {name!r} is not one of the features, it cannot be encoded")
    targets = np.array([_number(cell) for cell in columns[target]])
    kept = np.isfinite(targets)
    if not kept.all() and not drop_missing:
        raise DataError(_bad_targets(path, target, text, kept))
    if not kept.any():
        raise DataError(f"{path}: no row has a finite number as the target {target!r}; choose another column")
    rows = np.flatnonzero(kept).tolist()
    columns, targets = {name: [columns[name][i] for i in rows] for name in chosen}, targets[kept]
    encoded: dict[str, Array] = {}
    for name in chosen:
        parts = _characters(name, columns[name], path) if name in cut else {name: columns[name]}
        for part, texts in parts.items():
            encoded |= _encode(part, texts, name in one_hot or name in cut, path)
    encoded = {name: values for name, values in encoded.items() if np.ptp(values) > 0}
    if not encoded:
        raise DataError(
            f"{path}: no column beside {target!r} says anything; features need two values or more"
        )
    distinct, place, counts = np.unique(
        np.stack(list(encoded.values()), axis=1), axis=0, return_inverse=True, return_counts=True
    )
    means = np.bincount(place.ravel(), weights=targets) / counts
    return FeatureTable(
        distinct,
        means,
        tuple(encoded),
        len(targets) - len(distinct),
        int((~kept).sum()),
        tuple(name for name in given if name in row_labels and name != target),
    )


def _read_text(path: str | Path) -> TextTable:
    """The columns of a file as text; DataError if it is no table or has no rows."""
    data = read_bytes(path)
    try:
        text = parse_csv(unpacked(path, data))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8, plain or gzip: {error}") from None
    if not text.lines:
        raise DataError(f"{path} has no rows; give a header and a line for each architecture")
    return text


def _numbers_rows(name: str, cells: Sequence[str]) -> bool:
    """Whether a column is the index of a data frame: without a name, or `index` with distinct numbers."""
    if name == "index":
        return len(set(cells)) == len(cells) and all(cell.isdigit() for cell in cells)
    return re.fullmatch(rf"{UNNAMED}\d+(\.1)*", name) is not None


def _bad_targets(path: str | Path, target: str, text: TextTable, finite: NDArray[np.bool_]) -> str:
    """The message about targets that are no finite numbers: where the first ones are, and what to do."""
    wrong = np.flatnonzero(~finite).tolist()
    shown = ", ".join(f"line {text.lines[i]}: {text.columns[target][i]!r:.50}" for i in wrong[:MOST_ROWS])
    more = f", and {len(wrong) - MOST_ROWS} more" if len(wrong) > MOST_ROWS else ""
    return (
        f"{path}: the target {target!r} is not a finite number in {len(wrong)} of {len(finite)} rows "
        f"({shown}{more}); correct them, or leave them out: --drop-missing (in Python drop_missing=True)"
    )


def _listed(names: Iterable[str]) -> str:
    """Names in a message, if need be the first of them."""
    listed = ", ".join(names)
    return listed if len(listed) <= MOST_LISTED else f"{listed[:MOST_LISTED]}…"


def _matching(columns: Columns, patterns: Sequence[str], path: str | Path) -> list[str]:
    """Names of columns that match any pattern, in the file's order; DataError for a pattern without any."""
    for pattern in patterns:
        if not any(name == pattern or fnmatchcase(name, pattern) for name in columns):
            raise DataError(f"{path} has no column {pattern!r}; it has {_listed(columns)}")
    return [name for name in columns if any(name == p or fnmatchcase(name, p) for p in patterns)]


def _characters(name: str, texts: list[str], path: str | Path) -> Columns:
    lengths = sorted({len(text) for text in texts})
    if len(lengths) > 1:
        raise DataError(
            f"{path}: column {name!r} cannot be split, its texts are {lengths[0]} to {lengths[-1]} long"
        )
    return {f"{name}[{i}]": [text[i] for text in texts] for i in range(lengths[0])}


def _encode(name: str, texts: list[str], categorical: bool, path: str | Path) -> dict[str, Array]:
    """Features of a column by name."""
    levels = sorted(set(texts))
    numbers = None if categorical or any(map(_has_leading_zero, levels)) else _numbers(texts)
    if numbers is not None:
        return {name: numbers}
    if len(levels) > LEVELS:
        raise DataError(
            f"{path}: column {name!r} has {len(levels)} distinct values, such as {levels[0]!r}, and is no "
            f"number (limit {LEVELS}); leave it out (--exclude {name}) or cut it into characters "
            f"(--split {name})"
        )
    return {f"{name}={level}": np.array([text == level for text in texts], dtype=float) for level in levels}


def _numbers(texts: list[str]) -> Array | None:
    """Finite numbers, or None if any text is something else."""
    values = np.array([_number(text) for text in texts])
    return values if np.isfinite(values).all() else None


def _number(text: str) -> float:
    """The number that a text is, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _has_leading_zero(text: str) -> bool:
    return len(text) > 1 and text[0] == "0" and text.isdigit()


# ---- the comparison ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Of one predictor and seed. `mape` is in percent, and None where a target is 0."""

    kendall_tau: float
    spearman: float
    rmse: float
    mape: float | None
    within_2_std: float  # percent of targets within two predicted deviations
    fit_s: float
    predict_s: float


def compare(
    features: Array,
    targets: Array,
    predictors: Sequence[str] = tuple(PREDICTORS),
    train: int = 100,
    seeds: int = 10,
    progress: Progress = silent,
) -> dict[str, list[Score]]:
    """Scores by predictor, one a seed: fitted on `train` random rows, judged on 1000 others or the rest.

    All predictors see the same rows. DataError for too few rows, SearchError for an unknown predictor.
    """
    for name in predictors:
        get_predictor(name)
    if train < 2 or seeds < 1:
        raise DataError(f"{train} rows to learn from and {seeds} seeds do not do; give at least 2 and 1")
    if len(targets) < train + FEWEST_TEST_ROWS:
        raise DataError(
            f"{len(targets)} distinct rows are too few to learn from {train} and judge on {FEWEST_TEST_ROWS} "
            f"others; give more rows, or learn from fewer"
        )
    if np.ptp(targets) == 0:
        raise DataError(f"every target is {targets[0]:g}; there is nothing to learn")
    scores: dict[str, list[Score]] = {name: [] for name in predictors}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(targets))
        seen, unseen = order[:train], order[train : train + TEST_ROWS]
        for i, name in enumerate(predictors):
            progress(seed * len(predictors) + i, seeds * len(predictors), f"{name}, seed {seed}")
            data = (features[seen], targets[seen], features[unseen], targets[unseen])
            scores[name].append(_score(name, seed, *data))
    progress(seeds * len(predictors), seeds * len(predictors))
    return scores


def _score(name: str, seed: int, x: Array, y: Array, unseen: Array, truth: Array) -> Score:
    predictor = get_predictor(name, seed)
    begin = time.perf_counter()
    predictor.fit(x, y)
    fitted = time.perf_counter()
    mean, std = predictor.predict(unseen)
    end = time.perf_counter()
    error = np.abs(mean - truth)
    return Score(
        kendall_tau=_correlation(kendalltau, mean, truth),
        spearman=_correlation(spearmanr, mean, truth),
        rmse=float(np.sqrt(np.mean(error**2))),
        mape=None if (truth == 0).any() else float(100 * np.mean(error / np.abs(truth))),
        within_2_std=float(100 * np.mean(error <= 2 * std)),
        fit_s=fitted - begin,
        predict_s=end - fitted,
    )


def _correlation(measure: Any, mean: Array, truth: Array) -> float:
    """0 where either is constant: nothing is ranked."""
    return float(measure(mean, truth)[0]) if np.ptp(mean) > 0 and np.ptp(truth) > 0 else 0.0


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, by figure; None where there is none."""
    found: dict[str, Any] = {}
    for figure in Score.__dataclass_fields__:
        values = [getattr(score, figure) for score in scores]
        known = None if None in values else np.array(values, dtype=float)
        if known is None:
            found[figure] = None
        else:
            std = float(known.std(ddof=1)) if len(known) > 1 else None
            found[figure] = {"mean": float(known.mean()), "std": std}
    return found
