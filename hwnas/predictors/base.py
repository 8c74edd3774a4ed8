"""What a predictor is: what all of them check, scale and save in the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SearchError
from hwnas.predictors.normal import YeoJohnson
from hwnas.store import sealed_json, write_output

Array = NDArray[np.float64]
SCHEMA = 1  # of a saved predictor


class PredictorLike(Protocol):
    """Protocol of a predictor. `Predictor` is a base class that implements it.

    A predictor may have an attribute `parameters`, a dict of plain data, the options that it was made with: a
    stored search is not resumed with others.
    """

    def fit(self, features: Array, targets: Array) -> None:
        """Learn from features (n, d) and targets (n,), n >= 2, and forget earlier ones."""
        ...

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation, (n,) each, in the unit of the targets, for features (n, d)."""
        ...


class Predictor(ABC):
    """Learns a metric from features. Deterministic for its seed; fitting again forgets what was before.

    A subclass says how scaled rows are learnt from and predicted. Its targets are made normal first, unless
    it declines; a deviation is carried back as half the way from one below the mean to one above.
    """

    name: ClassVar[str]  # in PREDICTORS
    normal_targets: ClassVar[bool] = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._rows: tuple[Array, Array] | None = None

    def fit(self, features: Array, targets: Array) -> None:
        """Learn from features (n, d) and targets (n,), n >= 2; SearchError for other shapes or a NaN."""
        rows = _numbers(features), _numbers(targets)
        self._scaler = Scaler(*rows)
        y = self._scaler.targets(rows[1])
        self._warp = YeoJohnson(y) if self.normal_targets else None
        self._learn(self._scaler.features(rows[0]), self._warp.forward(y) if self._warp else y)
        self._rows = rows

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, each (n,), in the targets' unit, of features (n, d)."""
        self._learnt()
        x = self._scaler.features(_numbers(features))
        if len(x) == 0:
            return np.zeros(0), np.zeros(0)
        mean, std = self._predict(x)
        if self._warp:
            above, below = self._warp.inverse(mean + std), self._warp.inverse(mean - std)
            mean, std = self._warp.inverse(mean), (above - below) / 2
        return self._scaler.restore(mean, std)

    def save(self, path: str | Path) -> None:
        """Write name, seed, training rows and their predictions as sealed JSON.

        `load_predictor` fits the predictor again and compares its predictions with the stored ones.

        Args:
            path: Where the predictor goes. A regular file is replaced as a whole, also behind a symbolic
                link; devices and pipes are written to.

        Raises:
            SearchError: If the predictor was not fitted.
            StoreError: If the path cannot be written.
        """
        features, targets = self._learnt()
        mean, _ = self.predict(features)
        data = {"schema": SCHEMA, "predictor": self.name, "seed": self.seed}
        rows = {"features": features.tolist(), "targets": targets.tolist(), "predicted": mean.tolist()}
        write_output(path, sealed_json({**data, **rows}))

    def _learnt(self) -> tuple[Array, Array]:
        if self._rows is None:
            raise SearchError("this predictor has learnt nothing yet; call fit(features, targets) first")
        return self._rows

    @abstractmethod
    def _learn(self, x: Array, y: Array) -> None:
        """Learn from features (n, d) and targets (n,), scaled and normal."""

    @abstractmethod
    def _predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of such targets, each (n,)."""


def _numbers(values: Array) -> Array:
    """A copy in rows: sums depend on the layout in their last bits, and the same rows shall fit the same."""
    try:
        return np.array(values, dtype=np.float64, order="C")
    except (TypeError, ValueError, OverflowError):
        raise SearchError("a predictor learns from numbers in rows of equal length") from None


LARGEST = 1e100  # sums of squares of more numbers than there will ever be stay finite


class Scaler:
    """Columns and targets moved to mean 0 and deviation 1; constant ones to 0."""

    def __init__(self, features: Array, targets: Array) -> None:
        if features.ndim != 2 or targets.shape != features.shape[:1] or len(targets) < 2 or not features.size:
            raise SearchError(
                f"a predictor needs features (n, d) and targets (n,) with n >= 2 and d >= 1, "
                f"got {features.shape} and {targets.shape}"
            )
        if not (np.isfinite(features).all() and np.isfinite(targets).all()):
            raise SearchError("a predictor cannot learn from values that are not finite numbers")
        if max(np.abs(features).max(), np.abs(targets).max()) > LARGEST:
            raise SearchError(f"a predictor cannot learn from values beyond ±{LARGEST:g}: use a larger unit")
        self._mean, self._scale = features.mean(axis=0), _deviation(features)
        self._target_mean, self.target_scale = float(targets.mean()), float(_deviation(targets))

    def features(self, features: Array) -> Array:
        """(n, d) scaled; SearchError for another number of columns than was learnt from."""
        if features.ndim != 2 or features.shape[1] != len(self._mean):
            raise SearchError(
                f"this predictor was fitted on {len(self._mean)} features, got shape {features.shape}"
            )
        return np.asarray((features - self._mean) / self._scale)

    def targets(self, targets: Array) -> Array:
        return np.asarray((targets - self._target_mean) / self.target_scale)

    def restore(self, mean: Array, std: Array) -> tuple[Array, Array]:
        """Mean and deviation of scaled targets, back in the targets' unit."""
        return mean * self.target_scale + self._target_mean, std * self.target_scale


def _deviation(values: Array) -> Array:
    deviation = np.asarray(values.std(axis=0))
    return np.where(deviation > 1e-12 * np.abs(values).max(axis=0, initial=1.0), deviation, 1.0)


def rms(residuals: Array) -> float:
    """Root mean square, with a floor against a perfect fit."""
    return float(max(np.sqrt(np.mean(residuals**2)), 1e-9))


def folds_of(n: int, folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) the fold of each of n rows, at random and of equal sizes."""
    return np.random.default_rng(seed).permutation(n) % folds


def held_out(kind: type[Predictor], seed: int, x: Array, y: Array, fold: NDArray[np.int64]) -> Array:
    """(n,) what a predictor of this kind says of each row when it has not seen its fold."""
    predicted = np.empty(len(y))
    for part in range(int(fold.max()) + 1):
        predictor = kind(seed)
        predictor.fit(x[fold != part], y[fold != part])
        predicted[fold == part] = predictor.predict(x[fold == part])[0]
    return predicted
