"""From the sum of the parts to the whole network: the correction, and its error on unseen networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau

from hwnas.errors import TableError

INTERCEPT_FROM = 10  # networks; fewer do not carry a second parameter
REACH = 1.0  # doublings of shape over which operators are off alike
UNEXPLAINED = 0.1  # variance of a network that its operators do not explain, as a share of what they do


def least_squares(predicted: ArrayLike, measured: ArrayLike) -> tuple[float, float]:
    """Slope and intercept such that measured ≈ slope · predicted + intercept, both (n,).

    Of the relative error; below 10 networks a slope alone, intercept 0.
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    columns = [x / y, 1 / y] if len(y) >= INTERCEPT_FROM else [x / y]
    solution = np.linalg.lstsq(np.stack(columns, axis=1), np.ones(len(y)), rcond=None)[0]
    return float(solution[0]), float(solution[1]) if len(solution) > 1 else 0.0


def fit(predicted: ArrayLike, measured: ArrayLike) -> tuple[float, float]:
    """`least_squares`; TableError if what is predicted and measured do not rise together."""
    slope, intercept = least_squares(predicted, measured)
    if not slope > 0:
        raise TableError(
            f"measured latencies of whole networks do not rise with those predicted (slope {slope:.3g}); "
            "the machine was disturbed, or the space is too small to tell its networks apart: profile again"
        )
    return slope, intercept


def correction_gain(shares: ArrayLike, features: ArrayLike) -> NDArray[np.float64]:
    """How relative errors of m networks (m,) become corrections of n operators: a matrix (n, m).

    `shares` (m, n) says what part of a network's latency each operator is, `features` (n, d) are
    logarithms to base 2 of what makes operators alike. The error of an operator is a Gaussian process over
    these features with an exponential covariance: alike operators, also of another resolution, are corrected
    alike, and one that no network holds as its neighbours are. https://gaussianprocess.org/gpml/ (chapter 2)
    """
    a, x = np.asarray(shares, dtype=float), np.asarray(features, dtype=float)
    similarity = np.exp(-cdist(x, x) / REACH)
    across = similarity @ a.T
    covariance = a @ across
    covariance += UNEXPLAINED * np.mean(np.diag(covariance)) * np.eye(len(a))
    return np.asarray(np.linalg.solve(covariance, across.T).T)


def linear(predicted: ArrayLike, slope: float, intercept: float) -> NDArray[np.float64]:
    """slope · predicted + intercept, (n,)."""
    return slope * np.asarray(predicted, dtype=float) + intercept


def judge(predicted: ArrayLike, measured: ArrayLike) -> dict[str, Any]:
    """How well (n,) predictions fit: `mape` and `within_10pct` in percent, `kendall_tau` in -1 to 1."""
    p, y = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    error = np.abs(p - y) / y
    tau = float(kendalltau(p, y).statistic) if len(y) > 1 else float("nan")
    return {
        "networks": len(y),
        "mape": round(100 * float(error.mean()), 3),
        "kendall_tau": round(tau, 4) if np.isfinite(tau) else 0.0,
        "within_10pct": round(100 * float((error <= 0.1).mean()), 2),
    }


def repeatability_cv(halves: ArrayLike) -> float:
    """Coefficient of variation in percent between the two halves (n, 2) of the same networks' timings."""
    pairs = np.asarray(halves, dtype=float)
    spread = (pairs[:, 0] - pairs[:, 1]) / pairs.mean(axis=1)
    return round(100 * float(np.sqrt(np.mean(spread**2) / 2)), 3)


def spread_over(values: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Indices of n of the values (m,), m >= n, evenly placed from the smallest to the largest."""
    order = np.argsort(values, kind="stable")
    return np.asarray(order[np.linspace(0, len(values) - 1, n).round().astype(int)])
