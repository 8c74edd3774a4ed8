"""How well predictors learn a table of features, on rows that they have not seen."""

from __future__ import annotations

import csv
import io
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from hwnas.errors import DataError
from hwnas.predictors import PREDICTORS, get_predictor
from hwnas.predictors.base import Array
from hwnas.progress import Progress, silent
from hwnas.store import read_bytes, unpacked

TEST_ROWS = 1000  # at most so many are predicted
FEWEST_TEST_ROWS = 10
LEVELS = 64  # distinct values of a categorical column at most
MOST_LISTED = 2000  # characters of column names in a message

Columns = dict[str, list[str]]


# ---- a table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureTable:
    """Distinct rows: features (n, d), targets (n,), a name for each feature, how many rows were joined."""

    features: Array
    targets: Array
    names: tuple[str, ...]
    duplicates: int


def read_table(
    path: str | Path,
    target: str,
    features: Sequence[str] = (),
    exclude: Sequence[str] = (),
    categorical: Sequence[str] = (),
    split: Sequence[str] = (),
) -> FeatureTable:
    """The table in a CSV file (or .gz) with a header, a row for each architecture.

    `features` are names or patterns (`ks*`) of the columns that are learnt from, all but the target if there
    are none; `exclude` takes some away. Numbers stay what they are. One-hot are columns that hold a text, a
    blank or a number with a leading zero, those in `categorical`, and those in `split`, which are cut into
    characters first. Rows of equal features become one with the mean target.

    StoreError for a file that cannot be read, DataError for one that is no such table and for columns that
    are missing or cannot be learnt from.
    """
    columns = _read_columns(path)
    chosen = _matching(columns, features or ["*"], path)
    left_out = {*_matching(columns, exclude, path), *_matching(columns, [target], path)}
    chosen = [name for name in chosen if name not in left_out]
    one_hot, cut = _matching(columns, categorical, path), _matching(columns, split, path)
    for name in (*one_hot, *cut):
        if name not in chosen:
            raise DataError(f"{path}: column {name!r} is not one of the features, it cannot be encoded")
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
    targets = _numbers(columns[target])
    if targets is None:
        raise DataError(f"{path}: the target {target!r} is not a finite number in every row")
    rows, place, counts = np.unique(
        np.stack(list(encoded.values()), axis=1), axis=0, return_inverse=True, return_counts=True
    )
    means = np.bincount(place.ravel(), weights=targets) / counts
    return FeatureTable(rows, means, tuple(encoded), len(targets) - len(rows))


def _read_columns(path: str | Path) -> Columns:
    data = read_bytes(path)
    try:
        text = unpacked(path, data).decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8, plain or gzip: {error}") from None
    if len(lines) < 2:
        raise DataError(f"{path} has no rows; give a header and a line for each architecture")
    header, *rows = lines
    header = [" ".join(name.split()) for name in header]  # spreadsheets break the lines of long names
    if len(set(header)) != len(header):
        raise DataError(f"{path}: a column name occurs twice: {_listed(header)}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} fields, the header has {len(header)}")
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}


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
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


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
