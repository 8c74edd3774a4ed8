"""Strategies and predictors of a user: objects, classes and functions in place of names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas.errors import SearchError, StoreError
from hwnas.predictors import get_predictor
from hwnas.predictors.ridge import Ridge
from hwnas.searching.strategies import Candidates, History
from hwnas.searching.strategies.linas import LINAS
from hwnas.searching.strategies.random import Random
from tests.searching.problems import accuracy, at_most, objectives, toy_space


class Shuffled:
    """Feasible architectures at random; what a user would write."""

    def __init__(self, batch: int = 5) -> None:
        self.batch = batch
        self.parameters = {"batch": batch}

    def begin(self, problem: Any, seed: int) -> None:
        self.space, self.seed = problem.space, seed
        self.history, self.candidates = History(problem), Candidates(problem)

    def ask(self, n: int, pending: Sequence[hwnas.Architecture] = ()) -> list[hwnas.Architecture]:
        rng = np.random.default_rng([self.seed, len(self.history) + len(pending)])
        drawn = self.candidates.draw(min(n, self.batch), rng, self.history.seen(pending))
        return list(self.space.architectures(drawn))

    def tell(self, evaluations: Sequence[hwnas.Evaluation]) -> None:
        self.history.add(evaluations)


class Guided(Shuffled):
    """A strategy whose `begin` takes a predictor."""

    def begin(self, problem: Any, seed: int, predictor: Any = "ridge") -> None:
        super().begin(problem, seed)
        self.predictor = get_predictor(predictor, seed)


class Nearest:
    """The mean of the three nearest rows, and their spread; what a user would write."""

    fitted = 0  # number of fits of all objects

    def fit(self, features: np.ndarray, targets: np.ndarray) -> None:
        type(self).fitted += 1
        self.features, self.targets = features, targets

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distance = ((features[:, None] - self.features[None]) ** 2).sum(2)  # (n, rows)
        near = self.targets[np.argsort(distance, axis=1, kind="stable")[:, :3]]
        return near.mean(1), near.std(1)


def ids(strategy: Any = "linas", evaluations: int = 30, **options: Any) -> list[str]:
    """Run a search; return the ids of its architectures in order."""
    result = hwnas.search(toy_space(), objectives(), at_most(9), strategy, evaluations, 3, **options)
    return [e.architecture.id for e in result.evaluations]


# ---- strategies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plugin", "name", "options"),
    [
        (Random(), "random", {}),
        (Random, "random", {}),
        (lambda: Random(batch=4), "random", {"batch": 4}),
        (partial(Random, batch=4), "random", {"batch": 4}),
        (LINAS(predictor="ridge", start=8), "linas", {"predictor": "ridge", "start": 8}),
    ],
    ids=["object", "class", "function", "partial", "with options"],
)
def test_an_object_a_class_and_a_function_search_as_the_name_does(
    plugin: Any, name: str, options: dict[str, Any]
) -> None:
    assert ids(plugin) == ids(name, **options)


def test_options_are_those_of_the_class_or_of_the_begin_of_an_object() -> None:
    assert ids(Shuffled, batch=3) == ids(Shuffled(3)) != ids(Shuffled(4))
    assert ids(Guided(), predictor="gp") == ids(Shuffled())
    with pytest.raises(SearchError, match=r"strategy Shuffled has no option 'btach'; it has: batch"):
        ids(Shuffled, btach=3)
    with pytest.raises(SearchError, match=r"begin takes no option 'batch'; .* Shuffled\(batch=…\)"):
        ids(Shuffled(), batch=3)


def test_an_object_is_a_template_that_searches_do_not_change() -> None:
    plugin = Shuffled()
    assert ids(plugin) == ids(plugin) == ids(Shuffled())
    assert vars(plugin) == {"batch": 5, "parameters": {"batch": 5}}


def test_a_lag_and_workers_change_nothing() -> None:
    asked = [ids(Shuffled(), 15, executor=executor, lag=2) for executor in ("serial", "process")]
    assert asked[0] == asked[1]


@pytest.mark.parametrize("method", ["begin", "ask", "tell"])
def test_a_missing_method_is_named_with_the_protocol(method: str) -> None:
    own = {name: getattr(Shuffled, name) for name in ("begin", "ask", "tell") if name != method}
    plugin = type("Incomplete", (), own)
    for strategy in (plugin, plugin()):
        with pytest.raises(
            SearchError,
            match=rf"strategy Incomplete has no method '{method}'; the protocol "
            r"hwnas\.searching\.strategies\.base\.Strategy has the methods begin, ask, tell",
        ):
            ids(strategy)
    with pytest.raises(SearchError, match="strategy 3 has no method 'begin'"):
        ids(3)


def test_an_object_that_cannot_be_copied_is_refused() -> None:
    plugin = Shuffled()
    plugin.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(SearchError, match=r"Shuffled cannot be copied \(TypeError: .*give its class"):
        ids(plugin)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda archs, n: archs[:1] * 2, r"ask\(30\) returned architecture \S+ again"),
        (lambda archs, n: archs[: n + 1], r"ask\(30\) returned 31 architectures; it must return at most 30"),
        (lambda archs, n: None, r"ask returned None; it must return architectures of the space"),
        (lambda archs, n: toy_space(4).sample(2, 0), r"ask returned .*; it must return architectures of"),
    ],
)
def test_an_ask_against_the_protocol_is_refused(asked: Any, message: str) -> None:
    class Wrong(Shuffled):
        def ask(self, n: int, pending: Any = ()) -> Any:
            return asked(list(self.space.enumerate()), n)

    with pytest.raises(SearchError, match=message):
        ids(Wrong())


def test_an_architecture_of_an_earlier_batch_is_refused() -> None:
    class Stubborn(Shuffled):
        def ask(self, n: int, pending: Any = ()) -> Any:
            return self.space.sample(1, 0)

    with pytest.raises(SearchError, match=r"strategy .*Stubborn: ask\(29\) returned architecture \S+ again"):
        ids(Stubborn())


# ---- stored searches -----------------------------------------------------------------------------


def test_a_search_resumes_with_the_same_strategy_alone() -> None:
    store = hwnas.Store()
    begun = ids(Shuffled(), 10, store=store)
    for same in (Shuffled(), Shuffled):
        assert ids(same, 20, store=store, **({"batch": 5} if same is Shuffled else {}))[:10] == begun
    assert ids(Shuffled(), 20, store=store) == ids(Shuffled(), 20)
    for other, differs in (
        (Guided(), "has strategy Shuffled, now it is Guided"),
        (Random(5), "has strategy Shuffled, now it is Random"),
        (Shuffled(6), r"has options \{'batch': 5\}, now it is \{'batch': 6\}"),
    ):
        with pytest.raises(StoreError, match=differs):
            ids(other, 20, store=store)


def test_a_search_resumes_with_the_same_predictor_alone() -> None:
    store = hwnas.Store()
    begun = ids("linas", 15, store=store, predictor=Nearest())
    assert ids("linas", 20, store=store, predictor=Nearest)[:15] == begun
    for other in ("ridge", Ridge(), Shuffled):
        with pytest.raises((StoreError, SearchError), match=r"has options|has no method 'fit'"):
            ids("linas", 20, store=store, predictor=other)


# ---- predictors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", [Ridge, Ridge(3), partial(Ridge, seed=3)])
def test_an_object_predicts_as_the_name_does(plugin: Any) -> None:
    assert ids(predictor=plugin) == ids(predictor="ridge")


def test_each_metric_and_round_has_a_new_predictor() -> None:
    two = [hwnas.Objective(name, "max", accuracy, expensive=True) for name in ("first", "second")]
    plugin, Nearest.fitted = Nearest(), 0
    hwnas.search(toy_space(), two, predictor=plugin, evaluations=32, start=12, batch=10)
    assert Nearest.fitted == 4
    assert vars(plugin) == {}


def test_a_predictor_without_a_method_is_refused() -> None:
    with pytest.raises(
        SearchError, match=r"predictor 3 has no method 'fit'; .*PredictorLike has the methods fit, predict"
    ):
        ids(predictor=3)
    with pytest.raises(SearchError, match=r"predictor Half has no method 'predict'"):
        ids(predictor=type("Half", (), {"fit": Nearest.fit})())


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (lambda n: np.zeros(n), r"it must return mean and standard deviation, each of shape \(\d+,\)"),
        (lambda n: (np.zeros(n), np.zeros((n, 1))), r"each of shape"),
        (lambda n: (np.full(n, np.nan), np.zeros(n)), r"returned a value that is not finite"),
        (lambda n: (np.zeros(n), np.full(n, -1.0)), r"or a negative standard deviation"),
    ],
)
def test_predictions_against_the_protocol_are_refused(predicted: Any, message: str) -> None:
    class Wrong(Nearest):
        def predict(self, features: np.ndarray) -> Any:
            return predicted(len(features))

    with pytest.raises(SearchError, match=message):
        ids(predictor=Wrong())
