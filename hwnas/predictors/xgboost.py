"""Gradient-boosted trees, over xgboost (https://arxiv.org/abs/1603.02754)."""

from __future__ import annotations

import numpy as np

from hwnas.predictors.base import Array, Scaler

MEMBERS = 4


class XGBoost:
    """Mean of an ensemble that differs by seed and by the rows drawn; the std is the members' spread."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def fit(self, features: Array, targets: Array) -> None:
        from xgboost import XGBRegressor

        self._scaler = Scaler(features, targets)
        x, y = self._scaler.features(features), self._scaler.targets(targets)
        self._members = [
            XGBRegressor(
                n_estimators=200,
                learning_rate=0.08,
                max_depth=4,
                min_child_weight=1,
                subsample=0.7,
                colsample_bytree=0.5,
                n_jobs=1,
                random_state=MEMBERS * self._seed + member,
            ).fit(x, y)
            for member in range(MEMBERS)
        ]

    def predict(self, features: Array) -> tuple[Array, Array]:
        x = self._scaler.features(features)
        predicted = np.array([member.predict(x) for member in self._members], dtype=float)
        return self._scaler.restore(predicted.mean(axis=0), predicted.std(axis=0))
