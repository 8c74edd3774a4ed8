"""Predictors: features of architectures in, mean and standard deviation of a metric out. No torch."""

from __future__ import annotations

from collections.abc import Callable

from hwnas.errors import SearchError
from hwnas.predictors.base import Predictor
from hwnas.predictors.gp import GaussianProcess
from hwnas.predictors.ridge import Ridge
from hwnas.predictors.svr import SVR
from hwnas.predictors.xgboost import XGBoost

PREDICTORS: dict[str, Callable[[int], Predictor]] = {
    "ridge": Ridge,
    "gp": GaussianProcess,
    "svr": SVR,
    "xgboost": XGBoost,
}


def get_predictor(name: str, seed: int = 0) -> Predictor:
    """An unfitted predictor of this name; SearchError for an unknown one."""
    if name not in PREDICTORS:
        raise SearchError(f"unknown predictor {name!r}; known: {', '.join(PREDICTORS)}")
    return PREDICTORS[name](seed)


__all__ = ["PREDICTORS", "Predictor", "get_predictor"]
