"""Every named strategy keeps the published rules, and LINAS keeps them with every algorithm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas import Constraint, Objective
from hwnas.errors import MissingExtraError
from hwnas.searching.loop import search
from hwnas.searching.objectives import Problem
from hwnas.searching.strategies import STRATEGIES, get_strategy, linas
from hwnas.searching.strategies.algorithms import ALGORITHMS, get_algorithm
from hwnas.store import Store
from hwnas.testing import STRATEGY_RULES, Rule
from hwnas.testing.strategies import SMALL_AND_LARGE, large, mobilenet, require_new_feasible, run_strategy

LARGE = mobilenet()
# Rules that search until nothing is left, where another predictor is as good and faster.
FASTER = {"predictor": "ridge", "start": 3}
EXHAUSTIVE = ("finds_architectures_that_are_far_apart", "calls_no_function_without_architectures")


@pytest.mark.parametrize("rule", STRATEGY_RULES, ids=str)
@pytest.mark.parametrize("name", STRATEGIES)
def test_rule(name: str, rule: Rule) -> None:
    options = FASTER if name == "linas" and rule.name.startswith(EXHAUSTIVE) else {}
    rule(name, **options)


@pytest.mark.parametrize("make", SMALL_AND_LARGE.values(), ids=SMALL_AND_LARGE)
@pytest.mark.parametrize("name", STRATEGIES)
def test_another_seed_asks_for_others(name: str, make: object) -> None:
    problem = make()
    asked = [list(get_strategy(name, problem, seed).ask(10)) for seed in (5, 6)]
    assert asked[0] != asked[1]


# ---- the algorithms of the inner search, in a space that is too large to be enumerated ------------


def for_algorithm(name: str, n: int) -> Problem:
    """A problem of n objectives for an algorithm, bounded if it can be; skips without its package."""
    few = (*large().objectives, Objective("params", "min", LARGE.params))[:n]
    bound = Constraint("macs", upper=3e8, evaluate=LARGE.macs if n == 1 else None)
    problem = Problem(LARGE, few, (bound,) if ALGORITHMS[name].constraints else ())
    try:
        get_algorithm(name, problem)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return problem


FITTING = [(name, n) for name, a in ALGORITHMS.items() for n in (1, 2, 3) if a.fewest <= n <= a.most]
ONCE_EACH = {name: 1 if algorithm.most == 1 else 2 for name, algorithm in ALGORITHMS.items()}


@pytest.fixture
def few_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linas, "GENERATIONS", 15)


@pytest.mark.usefixtures("few_generations")
@pytest.mark.parametrize(("name", "n"), FITTING)
def test_with_each_algorithm_linas_asks_new_feasible_canonical_architectures(name: str, n: int) -> None:
    problem = for_algorithm(name, n)
    told = run_strategy(
        get_strategy("linas", problem, 0, predictor="ridge", start=20, algorithm=name), problem, 40
    )
    require_new_feasible(problem, told, 40)


@pytest.mark.usefixtures("few_generations")
@pytest.mark.parametrize(("name", "n"), ONCE_EACH.items())
def test_with_each_algorithm_a_search_that_was_stopped_ends_as_one_that_was_not(name: str, n: int) -> None:
    problem = for_algorithm(name, n)

    def run(evaluations: int, store: Store) -> list[str]:
        result = search(
            LARGE, problem.objectives, problem.constraints, evaluations=evaluations, store=store,
            predictor="ridge", start=10, algorithm=name,
        )  # fmt: skip
        return [e.architecture.id for e in result.evaluations]

    stopped = Store()
    begun = run(20, stopped)
    ended = run(30, stopped)
    assert ended == run(30, Store())
    assert ended[:20] == begun


ASKED = """
from hwnas.searching.strategies import get_strategy, linas
from hwnas.testing.strategies import run_strategy
from tests.conformance.test_strategies import ONCE_EACH, for_algorithm

linas.GENERATIONS = 15
for name, n in ONCE_EACH.items():
    try:
        problem = for_algorithm(name, n)
    except BaseException as skipped:
        assert "not installed" in str(skipped)
        continue
    strategy = get_strategy("linas", problem, 0, predictor="ridge", start=10, algorithm=name)
    print(name, *(e.architecture.id for e in run_strategy(strategy, problem, 20)))
"""


def test_what_an_algorithm_finds_does_not_depend_on_the_hash_seed() -> None:
    answers = [
        subprocess.run(
            [sys.executable, "-c", ASKED],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    ]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) >= len(ALGORITHMS) - 1
