"""What a predictor is, and the standardisation that all of them share."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SearchError

Array = NDArray[np.float64]


class Predictor(Protocol):
    """Learns a metric from features. Deterministic for its seed; fitting again forgets what was before."""

    def fit(self, features: Array, targets: Array) -> None:
        """Learn from features (n, d) and targets (n,), n >= 2; SearchError for other shapes or a NaN."""
        ...

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, each (n,), in the targets' unit, of features (n, d)."""
        ...


class Scaler:
    """Columns and targets moved to mean 0 and deviation 1; constant ones to 0."""

    def __init__(self, features: Array, targets: Array) -> None:
        if features.ndim != 2 or targets.shape != features.shape[:1] or len(targets) < 2:
            raise SearchError(
                f"a predictor needs features (n, d) and targets (n,) with n >= 2, "
                f"got {features.shape} and {targets.shape}"
            )
        if not (np.isfinite(features).all() and np.isfinite(targets).all()):
            raise SearchError("a predictor cannot learn from values that are not finite numbers")
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


def held_out_deviation(targets: Array, predicted: Array) -> float:
    """Root mean square of held-out residuals, with a floor against a perfect fit."""
    return float(max(np.sqrt(np.mean((targets - predicted) ** 2)), 1e-9))
