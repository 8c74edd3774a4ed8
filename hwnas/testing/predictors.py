"""Rules for predictors: `hwnas.predictors.PredictorLike`, and the base class `hwnas.predictors.Predictor`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from hwnas.errors import SearchError
from hwnas.predictors import PREDICTORS, Predictor, PredictorLike, get_predictor, load_predictor
from hwnas.testing.problems import accuracy, toy_space
from hwnas.testing.rules import NotApplicable, Suite, check_rules, require, require_error

Make = Callable[..., PredictorLike]  # a function of an optional seed
Array = NDArray[np.float64]


def check_predictor(predictor: str | PredictorLike | Callable[..., PredictorLike]) -> None:
    """Check that a predictor keeps the rules that `hwnas.search` relies on.

    Subclasses of `hwnas.predictors.Predictor` are also checked for what that class promises.

    Args:
        predictor: As for `hwnas.search`: an unfitted object, a class or function that makes one, or a name.

    Raises:
        ConformanceError: If the predictor breaks a rule; the message names the rule and the values.
    """
    check_rules(PREDICTOR_RULES, predictor)


suite = Suite(lambda predictor: partial(get_predictor, predictor))


def rows(n: int, seed: int = 0) -> tuple[Array, Array]:
    """Return features (n, d) and targets (n,) of n architectures of the toy space."""
    space = toy_space()
    order = np.random.default_rng(seed).permutation(space.size)[:n]
    archs = space.architectures(space.enumerate().genotypes[order])
    return space.features(archs), accuracy(archs)


def subclass(predictor: PredictorLike) -> Predictor:
    """Return a predictor of hwnas's base class; NotApplicable for others."""
    if not isinstance(predictor, Predictor):
        raise NotApplicable(f"{type(predictor).__name__} is no subclass of hwnas.predictors.Predictor")
    return predictor


def require_equal(one: tuple[Array, Array], other: tuple[Array, Array], what: str) -> None:
    """Require that two predictions are equal to the last bit."""
    for name, a, b in zip(("means", "standard deviations"), one, other, strict=True):
        difference = float(np.abs(np.asarray(a) - np.asarray(b)).max())
        require(difference == 0, f"{what}: the {name} differ by up to {difference:.3g}.")


# ---- rules ---------------------------------------------------------------------------------------


@suite.rule
def ranks_unseen_architectures(make: Make) -> None:
    """Ranks architectures that it has not seen, and gives finite deviations of 0 or more."""
    features, targets = rows(180)
    predictor = make()
    predictor.fit(features[:100], targets[:100])
    mean, std = (np.asarray(values) for values in predictor.predict(features[100:]))
    require(mean.shape == std.shape == (80,), f"shapes for 80 rows are {mean.shape} and {std.shape}.")
    require(np.isfinite(mean).all() and np.isfinite(std).all(), "a prediction is not finite.")
    require((std >= 0).all(), f"a standard deviation is {std.min():.3g}.")
    tau = float(kendalltau(mean, targets[100:])[0])
    require(tau > 0.8, f"Kendall's tau of 80 unseen rows is {tau:.3f}; it must exceed 0.8.")
    error, limit = float(np.abs(mean - targets[100:]).mean()), 0.3 * float(targets.std())
    require(
        error < limit, f"the mean error {error:.3g} is not below 0.3 deviations of the targets, {limit:.3g}."
    )


@suite.rule
def is_deterministic_and_forgets(make: Make) -> None:
    """Follows from its seed and the last fit alone."""
    features, targets = rows(60)
    one, other = make(3), make(3)
    one.fit(features[:30], -targets[:30])
    for predictor in (one, other):
        predictor.fit(features, targets)
    require_equal(one.predict(features), other.predict(features), "after an earlier fit on other rows")


@suite.each({"large": (1e9, 0.0), "small-and-turned": (-1e-6, 5.0)})
def does_not_depend_on_units(make: Make, unit: tuple[float, float]) -> None:
    """The units of features and targets do not change the order of predictions."""
    scale, shift = unit
    features, targets = rows(60)
    plain, scaled = make(), make()
    plain.fit(features, targets)
    scaled.fit(features * 1000.0, targets * scale + shift)
    tau = kendalltau(plain.predict(features)[0] * np.sign(scale), scaled.predict(features * 1000.0)[0])[0]
    require(tau > 0.9, f"Kendall's tau between targets y and {scale:g} y + {shift:g} is {tau:.3f}.")


@suite.rule
def copes_with_few_and_constant_rows(make: Make) -> None:
    """Learns from two rows, from constant targets and from constant features."""
    features, targets = rows(20)
    predictor = make()
    predictor.fit(features[:2], targets[:2])
    require(np.isfinite(predictor.predict(features)).all(), "after two rows a prediction is not finite.")
    predictor.fit(features, np.full(20, 3.0))
    mean, std = predictor.predict(features)
    far = float(np.abs(np.asarray(mean) - 3.0).max())
    require(far < 1e-3, f"all targets were 3, and a mean differs from it by {far:.3g}.")
    require(np.isfinite(std).all(), "after constant targets a standard deviation is not finite.")
    predictor.fit(np.ones((5, 3)), np.arange(5.0))
    mean = np.asarray(predictor.predict(np.ones((2, 3)))[0])
    require((np.abs(mean - 2) <= 0.5).all(), f"of equal rows with targets 0 to 4 the means are {mean}.")


@suite.rule
def predicts_no_rows(make: Make) -> None:
    """Predicts empty arrays for no rows."""
    features, targets = rows(20)
    predictor = make()
    predictor.fit(features, targets)
    lengths = [len(values) for values in predictor.predict(features[:0])]
    require(lengths == [0, 0], f"for no rows the lengths of mean and deviation are {lengths}.")


@suite.rule
def refuses_unusable_rows(make: Make) -> None:
    """A subclass refuses rows that it cannot learn from, with a SearchError that says why."""
    features, targets = rows(10)
    predictor = subclass(make())

    def refuses(pattern: str, call: Callable[[], Any], what: str) -> None:
        require_error(SearchError, pattern, call, what)

    shapes = r"features \(n, d\) and targets \(n,\)"
    for x, y in [(features, targets[:5]), (features[:1], targets[:1]), (features[0], targets)]:
        refuses(shapes, partial(predictor.fit, x, y), f"a fit on shapes {x.shape} and {y.shape}")
    holes = np.where(targets > targets.mean(), np.nan, targets)
    refuses("finite", partial(predictor.fit, features, holes), "a fit on targets with NaN")
    huge = partial(predictor.fit, features, targets * 1e150)  # their squares overflow
    refuses(r"beyond ±1e\+100: use a larger unit", huge, "a fit on targets of 1e150")
    predictor.fit(features, targets)
    refuses("fitted on", partial(predictor.predict, features[:, 1:]), "features with a column less")
    ragged: Any = [[1.0, 2.0], [3.0]]
    refuses("rows of equal length", partial(predictor.fit, ragged, targets[:2]), "a fit on ragged rows")
    refuses("d >= 1", partial(predictor.fit, features[:, :0], targets), "a fit on no columns")
    unfitted = partial(make().predict, features)
    refuses(r"call fit\(features, targets\) first", unfitted, "a prediction before any fit")


@suite.rule
def does_not_depend_on_memory_layout(make: Make) -> None:
    """A subclass predicts the same, to the last bit, for rows in any memory layout."""
    features, targets = rows(60)
    one, other = subclass(make()), make()
    one.fit(features, targets)
    columns, listed = np.asfortranarray(features), targets.tolist()
    other.fit(columns, listed)
    require_equal(one.predict(features), other.predict(columns), "features by rows and by columns")


LOAD = (
    "import sys, numpy; from hwnas.predictors import load_predictor; folder = sys.argv[1];"
    "values = load_predictor(f'{folder}/predictor.json').predict(numpy.load(f'{folder}/features.npy'));"
    "numpy.save(f'{folder}/values.npy', values); sys.exit('torch' in sys.modules)"
)


@suite.rule
def predicts_the_same_when_loaded(make: Make) -> None:
    """A named predictor predicts the same, to the last bit, when it is loaded, also in another process."""
    features, targets = rows(120)
    predictor = subclass(make(2))
    kinds: list[object] = list(PREDICTORS.values())
    if type(predictor) not in kinds:
        raise NotApplicable("only predictors with a name are loaded from files")
    predictor.fit(features[:60], targets[:60])
    expected = predictor.predict(features)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictor.save(folder / "predictor.json")
        loaded = load_predictor(folder / "predictor.json")
        same = (type(loaded), loaded.seed) == (type(predictor), 2)
        require(same, f"{type(loaded).__name__} of seed {loaded.seed} was loaded.")
        require_equal(loaded.predict(features), expected, "saved and loaded")
        np.save(folder / "features.npy", features)
        code = subprocess.run([sys.executable, "-c", LOAD, name], check=False).returncode
        require(code == 0, f"loaded in another process, which then holds torch or failed: exit code {code}.")
        mean, std = np.load(folder / "values.npy")
        require_equal((mean, std), expected, "loaded in another process")


PREDICTOR_RULES = tuple(suite.rules)
