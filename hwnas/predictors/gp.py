"""Gaussian process in numpy, with a length scale for each column, that outliers do not mislead.

Source: Rasmussen and Williams 2006, chapters 2, 4 and 5, https://gaussianprocess.org/gpml/. Noise is
Student's, since latencies have outliers (Jylänki, Vanhatalo and Vehtari 2011,
https://www.jmlr.org/papers/v12/jylanki11a.html), by expectation maximisation over leave-one-out residuals.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from hwnas.predictors.base import Array, Predictor

LEARNING_ROWS = 256  # hyperparameters are learnt from at most so many rows, spread evenly
STEPS = (20, 6, 6, 6)  # of L-BFGS on the marginal likelihood; after each of them outliers are weighed anew
FREEDOM = 3.0  # degrees of it of the noise
# Logarithms of variance, length scale and noise, for scaled features and targets, and of the factor of a
# column in the squared distance: where learning starts and how far it strays (deviation of a normal prior).
VARIANCE, LENGTH, NOISE, SHARE = (-1.0, 2.0), (0.5, 1.0), (-3.5, 1.5), (0.0, 1.0)
CHUNK = 2048


class GaussianProcess(Predictor):
    """Matérn-5/2 kernel; hyperparameters maximise the marginal likelihood times their prior.

    The std is that of the posterior, noise left out.
    """

    name = "gp"

    def _learn(self, x: Array, y: Array) -> None:
        rows = np.unique(np.linspace(0, len(y) - 1, LEARNING_ROWS).astype(int))
        prior = np.array([VARIANCE, LENGTH, NOISE] + [SHARE] * x.shape[1])
        bounds = [(mean - 4 * deviation, mean + 4 * deviation) for mean, deviation in prior]
        theta, spread = prior[:, 0], np.ones(len(y))  # the noise of each row, in units of all
        for steps in STEPS:
            data = (x[rows], y[rows], spread[rows], prior)
            options = {"maxiter": steps}
            theta = minimize(loss, theta, data, "L-BFGS-B", jac=True, bounds=bounds, options=options).x
            self._variance, noise = np.exp(theta[0]), np.exp(theta[2])
            self._columns = np.exp((theta[3:] - np.log(x.shape[1])) / 2 - theta[1])
            self._x = x * self._columns
            root = cholesky(self._kernel(self._x) + noise * np.diag(spread), lower=True)
            self._inverse = solve_triangular(root, np.eye(len(y)), lower=True)
            self._weights = self._inverse.T @ (self._inverse @ y)
            precision = np.einsum("ij,ij->j", self._inverse, self._inverse)
            residuals = self._weights / precision  # leave-one-out
            surprise = residuals**2 / (1 / precision + noise * (1 - spread))
            spread = (FREEDOM + surprise) / (FREEDOM + 1)

    def _predict(self, x: Array) -> tuple[Array, Array]:
        mean, std = np.empty(len(x)), np.empty(len(x))
        for begin in range(0, len(x), CHUNK):
            part = slice(begin, begin + CHUNK)
            cross = self._kernel(x[part] * self._columns)
            explained = cross @ self._inverse.T
            variance = self._variance - np.einsum("ij,ij->i", explained, explained)
            mean[part] = cross @ self._weights
            std[part] = np.sqrt(np.maximum(variance, 1e-12))
        return mean, std

    def _kernel(self, x: Array) -> Array:
        """(n, rows) of columns that are divided by their length scales."""
        scaled = np.sqrt(5 * _squares(x, self._x))
        return np.asarray(self._variance * (1 + scaled + scaled**2 / 3) * np.exp(-scaled))


def loss(theta: Array, x: Array, y: Array, spread: Array, prior: Array) -> tuple[float, Array]:
    """Minus the logarithm of likelihood times prior, and its gradient.

    `theta` (3 + d,) is of the kind of the constants above, `prior` (3 + d, 2) its means and deviations.
    """
    variance, noise = np.exp(theta[0]), np.exp(theta[2])
    moved = x * np.exp((theta[3:] - np.log(x.shape[1])) / 2 - theta[1])
    scaled = np.sqrt(5 * _squares(moved, moved))
    decay = variance * np.exp(-scaled)
    kernel = decay * (1 + scaled + scaled**2 / 3)
    root = cholesky(kernel + noise * np.diag(spread), lower=True)
    inverse = cho_solve((root, True), np.eye(len(y)))
    weights = inverse @ y
    pull = inverse - np.outer(weights, weights)
    slope = pull * decay * (1 + scaled) * (-5 / 6)  # by squared distance
    shares = slope.sum(axis=1) @ moved**2 - np.einsum("ij,ij->j", moved, slope @ moved)
    gradient = np.concatenate(
        [[np.vdot(pull, kernel) / 2, -2 * shares.sum(), noise * (np.diag(pull) @ spread) / 2], shares]
    )
    strayed = (theta - prior[:, 0]) / prior[:, 1]
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(root)).sum())
    return value + 0.5 * float(strayed @ strayed), gradient + strayed / prior[:, 1]


def _squares(a: Array, b: Array) -> Array:
    """(n, m) squared distances of rows."""
    total = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2 * (a @ b.T)
    return np.asarray(np.maximum(total, 0))
