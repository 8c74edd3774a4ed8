"""Predictors: features of architectures in, mean and standard deviation of a metric out. No torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwnas.errors import SearchError, StoreError, known_names
from hwnas.plugins import is_factory, new_object, option_names
from hwnas.predictors.auto import Auto
from hwnas.predictors.base import SCHEMA, Array, Predictor, PredictorLike
from hwnas.predictors.ensemble import Ensemble
from hwnas.predictors.gp import GaussianProcess
from hwnas.predictors.mlp import MLP
from hwnas.predictors.quadratic import Quadratic
from hwnas.predictors.ridge import Ridge
from hwnas.predictors.svr import SVR
from hwnas.predictors.xgboost import XGBoost
from hwnas.store import read_json

PREDICTORS: dict[str, Callable[[int], Predictor]] = {
    "ridge": Ridge,
    "quadratic": Quadratic,
    "svr": SVR,
    "gp": GaussianProcess,
    "xgboost": XGBoost,
    "mlp": MLP,
    "ensemble": Ensemble,
    "auto": Auto,
}

TOLERANCE = 0.01  # deviations of the targets by which a predictor that is fitted again may differ


def get_predictor(
    predictor: str | PredictorLike | Callable[..., PredictorLike], seed: int = 0
) -> PredictorLike:
    """Return a new, unfitted predictor.

    Args:
        predictor: A name of `PREDICTORS`; or an unfitted object with the methods `fit` and `predict`, which
            is copied; or a class or function that makes one.
        seed: Argument `seed` of the class or function, if it takes one.

    Raises:
        SearchError: If the name is unknown, or the object lacks a method.
    """
    if isinstance(predictor, str):
        return _named(predictor, seed)
    options = option_names(predictor) if is_factory(predictor, PredictorLike) else []
    arguments = {"seed": seed} if options is None or "seed" in options else {}
    made: PredictorLike = new_object(predictor, PredictorLike, "predictor", SearchError, **arguments)
    return made


def _named(name: str, seed: int) -> Predictor:
    """Return an unfitted predictor by its name; SearchError for an unknown one."""
    if name not in PREDICTORS:
        raise SearchError(f"unknown predictor {name!r}; {known_names(name, PREDICTORS)}")
    return PREDICTORS[name](seed)


def predictions(predictor: PredictorLike, features: Array) -> tuple[Array, Array]:
    """Predict, and check what an object of the user returns.

    Args:
        predictor: A fitted predictor.
        features: Features (n, d).

    Returns:
        Mean and standard deviation, (n,) each.

    Raises:
        SearchError: If these are no two arrays of n finite numbers, or a deviation is negative.
    """
    predicted = predictor.predict(features)
    if isinstance(predictor, Predictor):
        return predicted
    try:
        mean, std = (np.asarray(values, dtype=np.float64) for values in predicted)
    except (TypeError, ValueError):
        mean = std = np.zeros(())
    if not mean.shape == std.shape == (len(features),):
        raise SearchError(
            f"predictor {type(predictor).__name__}: predict returned {predicted!r:.80} for {len(features)} "
            f"rows of features; it must return mean and standard deviation, each of shape ({len(features)},)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise SearchError(
            f"predictor {type(predictor).__name__}: predict returned a value that is not finite, or a "
            "negative standard deviation"
        )
    return mean, std


def load_predictor(path: str | Path) -> Predictor:
    """The predictor in a file that `Predictor.save` wrote, fitted again.

    It says the same to the last bit with the libraries, processor and threads that it was saved with, and
    within 1 % of the targets' deviation with others. StoreError where it does not, for an unreadable file,
    and for one that holds no predictor or another schema; ChecksumError for a changed one.
    """
    data = read_json(path, "save the predictor again, or restore the file from a copy")
    if "predictor" not in data:
        raise StoreError(f"{path} is not a predictor: it does not say which one")
    if data.get("schema") != SCHEMA:
        raise StoreError(
            f"{path} has schema {data.get('schema')!r}, this hwnas reads {SCHEMA}; use the hwnas that "
            "wrote it"
        )
    try:
        predictor = _named(data["predictor"], data["seed"])
        predictor.fit(data["features"], data["targets"])
        said = np.array(data["predicted"], dtype=np.float64)
        difference = np.abs(predictor.predict(data["features"])[0] - said).max()
        apart = difference / (np.std(data["targets"]) or 1.0)
    except (KeyError, TypeError, ValueError, OverflowError, SearchError) as error:
        raise StoreError(f"{path} is not a predictor: {error}") from None
    if not apart <= TOLERANCE:
        raise StoreError(
            f"{path}: fitted again, the predictor differs from the saved one by {apart:.2g} deviations of "
            f"its targets (limit {TOLERANCE}); use the versions of the libraries that it was saved with, or "
            f"fit it anew"
        )
    return predictor


__all__ = [
    "PREDICTORS",
    "Predictor",
    "PredictorLike",
    "get_predictor",
    "load_predictor",
    "predictions",
]
