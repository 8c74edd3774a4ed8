"""What every strategy and algorithm promises. A newcomer joins by its line in STRATEGIES or ALGORITHMS."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwnas import Choice, Constraint, Evaluation, Objective, SearchSpace, get_space
from hwnas.errors import MissingExtraError
from hwnas.searching.loop import search
from hwnas.searching.objectives import Problem
from hwnas.searching.strategies import STRATEGIES, Strategy, get_strategy, linas
from hwnas.searching.strategies.algorithms import ALGORITHMS, get_algorithm
from hwnas.store import Store
from tests.searching.problems import accuracy, at_most, cost, objectives, toy_space

LARGE = get_space("mobilenetv3")


def large(bound: float = 3e8) -> Problem:
    return Problem(
        LARGE,
        (
            Objective("accuracy", "max", lambda archs: LARGE.params(archs) ** 0.1, expensive=True),
            Objective("macs", "min", LARGE.macs),
        ),
        (Constraint("macs", upper=bound),),
    )


def evaluated(problem: Problem, archs: object, fail_every: int = 7) -> list[Evaluation]:
    """True evaluations, one of `fail_every` failed."""
    exact = problem.exact_metrics(archs)
    found = []
    for i, arch in enumerate(archs):
        metrics = {name: float(values[i]) for name, values in exact.items()}
        if arch.genotype[0] + i + 1 == fail_every:
            found.append(Evaluation(arch, metrics, "failed", "boom"))
            continue
        for objective in problem.expensive:
            single = problem.space.architectures(np.array([arch.genotype]))
            metrics[objective.name] = float(objective.evaluate(single)[0])
        found.append(Evaluation(arch, metrics))
    return found


def drive(strategy: Strategy, problem: Problem, n: int) -> list[Evaluation]:
    told: list[Evaluation] = []
    while len(told) < n:
        batch = strategy.ask(n - len(told))
        if not len(batch):
            break
        assert len(batch) <= n - len(told)
        round_ = evaluated(problem, batch)
        strategy.tell(round_)
        told += round_
    return told


small = Problem(toy_space(), tuple(objectives()), tuple(at_most(9)))
three = Problem(
    toy_space(),
    (
        *objectives(),
        Objective("depth", "max", lambda archs: [a.values["depth"] for a in archs]),
    ),
)
one = Problem(toy_space(), (Objective("accuracy", "max", accuracy, expensive=True),))
cheap = Problem(toy_space(), (Objective("accuracy", "max", accuracy), Objective("cost", "min", cost)))
both = Problem(
    toy_space(),
    (
        Objective("accuracy", "max", accuracy, expensive=True),
        Objective("cost", "min", cost, expensive=True),
    ),
    (Constraint("cost", upper=9.0),),
)
PROBLEMS = {"small": small, "three": three, "one": one, "cheap": cheap, "both": both, "large": large()}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_it_asks_new_feasible_canonical_architectures_exactly_as_many(name: str, problem: Problem) -> None:
    told = drive(get_strategy(name, problem, 0), problem, 60)
    archs = [e.architecture for e in told]
    assert len(archs) == len(set(archs)) == 60
    genotypes = problem.space.genotypes(archs)
    assert (problem.space.canonical(genotypes) == genotypes).all()
    assert (problem.violation(problem.exact_metrics(genotypes)) == 0).all()


@pytest.mark.parametrize("problem", [small, large()], ids=["small", "large"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_it_asks_follows_from_the_seed_and_what_it_was_told(name: str, problem: Problem) -> None:
    first = get_strategy(name, problem, 5)
    told = drive(first, problem, 40)
    second = get_strategy(name, problem, 5)
    second.tell(told[:13])
    second.tell(told[13:])
    asked = first.ask(10)
    assert asked == first.ask(10) == second.ask(10)
    assert asked != get_strategy(name, problem, 6).ask(10)


@pytest.mark.parametrize("problem", [small, large()], ids=["small", "large"])
@pytest.mark.parametrize("told", [0, 25, 40])
@pytest.mark.parametrize("name", STRATEGIES)
def test_what_is_pending_is_not_asked_for_again(name: str, told: int, problem: Problem) -> None:
    strategy = get_strategy(name, problem, 0)
    known = {e.architecture for e in drive(strategy, problem, told)}
    first = strategy.ask(10)
    second = strategy.ask(10, first)
    third = strategy.ask(10, [*first, *second])
    assert len({*known, *first, *second, *third}) == len(known) + len(first) + len(second) + len(third)
    assert 0 < len(second) <= 10
    assert 0 < len(third) <= 10
    assert second == strategy.ask(10, first)


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_ends_with_what_is_pending(name: str) -> None:
    strategy = get_strategy(name, small, 0)
    feasible = small.space.enumerate()
    feasible = feasible[cost(feasible) <= 9]
    assert len(strategy.ask(10, feasible)) == 0
    (last,) = strategy.ask(10, feasible[1:])
    assert last == feasible[0]


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_it_predicts_is_of_the_batch_in_its_order(name: str) -> None:
    strategy = get_strategy(name, small, 0)
    told = drive(strategy, small, 70)
    batch = strategy.ask(10)
    for metric, predicted in getattr(strategy, "predicted", {}).items():
        assert metric == "accuracy"
        values = np.array([e.metrics["accuracy"] for e in told if e.status == "ok"])
        mean_error = np.abs(accuracy(batch)[: len(predicted)] - predicted).mean()
        assert 0 < len(predicted) <= len(batch)
        assert mean_error < 0.2 * values.std()


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_ends_with_every_feasible_architecture_of_a_small_space(name: str) -> None:
    problem = Problem(toy_space(4), tuple(objectives()), tuple(at_most(5)))
    told = drive(get_strategy(name, problem, 0), problem, 10_000)
    archs = problem.space.enumerate()
    assert {e.architecture for e in told} == set(archs[cost(archs) <= 5])


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_ends_in_a_large_space_with_few_feasible_architectures(name: str) -> None:
    smallest = float(LARGE.macs(np.zeros((1, len(LARGE.choices)), dtype=int))[0])
    problem = large(smallest)
    assert len(drive(get_strategy(name, problem, 0), problem, 20)) == 1


def on_and_off(choices: int, rest: str, feasible: object) -> Problem:
    """Return a problem on binary choices, of which those are feasible for which the function is 0."""
    space = SearchSpace("bits", [Choice(f"c{i}", (0, 1)) for i in range(choices)])
    off = Constraint(rest, upper=0, lower=0, evaluate=lambda archs: feasible(space.genotypes(archs)))
    first = Objective("first", "min", lambda archs: space.genotypes(archs)[:, 0])
    return Problem(
        space, (replace(objectives()[0], evaluate=lambda archs: [1.0] * len(archs)), first), (off,)
    )


FAR_APART = {
    # Each differs from the next one in two choices.
    "one of forty": (on_and_off(40, "excess", lambda g: g.sum(axis=1) - 1), 40),
    # No change of two choices leads from one to another, and the violation does not lead to them.
    "scattered": (on_and_off(21, "remainder", lambda g: (g @ 2 ** np.arange(21)) % 161_319 - 5), 13),
}


@pytest.mark.parametrize("case", FAR_APART)
@pytest.mark.parametrize("name", STRATEGIES)
def test_it_ends_with_every_feasible_architecture_where_these_are_far_apart(name: str, case: str) -> None:
    problem, number = FAR_APART[case]
    options = {"predictor": "ridge"} if name == "linas" else {}
    result = search(problem.space, problem.objectives, problem.constraints, name, number + 5, **options)
    archs = {e.architecture for e in result.evaluations}
    assert len(archs) == len(result.evaluations) == number


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_space_of_one_choice_is_searched(name: str) -> None:
    space = SearchSpace("one", [Choice("x", (1, 2, 3))])
    objective = Objective("f", "max", lambda archs: [a.values["x"] for a in archs], expensive=True)
    problem = Problem(space, (objective,))
    assert len(drive(get_strategy(name, problem, 0), problem, 20)) == 3


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_goes_on_when_everything_failed(name: str) -> None:
    strategy = get_strategy(name, small, 0)
    for _ in range(5):
        strategy.tell([Evaluation(arch, {}, "failed", "boom") for arch in strategy.ask(10)])
    assert len(strategy.ask(10)) > 0


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
    told = drive(get_strategy("linas", problem, 0, predictor="ridge", start=20, algorithm=name), problem, 40)
    archs = [e.architecture for e in told]
    assert len(archs) == len(set(archs)) == 40
    genotypes = LARGE.genotypes(archs)
    assert (LARGE.canonical(genotypes) == genotypes).all()
    assert (problem.violation(problem.exact_metrics(genotypes)) == 0).all()


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
from tests.conformance.test_strategies import ONCE_EACH, drive, for_algorithm

linas.GENERATIONS = 15
for name, n in ONCE_EACH.items():
    try:
        problem = for_algorithm(name, n)
    except BaseException as skipped:
        assert "not installed" in str(skipped)
        continue
    strategy = get_strategy("linas", problem, 0, predictor="ridge", start=10, algorithm=name)
    print(name, *(e.architecture.id for e in drive(strategy, problem, 20)))
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


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_space_of_one_architecture_is_searched_and_it_is_returned(name: str) -> None:
    space = SearchSpace("one", [Choice("depth", (2,)), Choice("kernel", (3,), {"depth": 2})])
    wanted = [
        Objective("accuracy", "max", lambda archs: [90.0] * len(archs), expensive=True),
        Objective("cost", "min", lambda archs: [1.0] * len(archs)),
    ]
    for objectives_ in (wanted, wanted[:1], wanted[1:]):
        result = search(space, objectives_, strategy=name, evaluations=5)
        assert [e.architecture.values for e in result.front] == [{"depth": 2, "kernel": 3}]
        assert len(result.evaluations) == 1
        assert len(result.to_frame()) == len(result.rounds_frame()) == 1


# ---- functions of the user -----------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", ["small", "large", "hooks"])
def test_no_function_is_called_without_architectures(name: str, kind: str) -> None:
    """The space is exhausted; in the large one few architectures are feasible, and none of a batch may be."""
    counts: list[int] = []

    def counted(values: object) -> object:
        def evaluate(archs: object) -> object:
            counts.append(len(archs))
            assert len(archs) > 0
            return values(archs)

        return evaluate

    if kind == "large":
        space = LARGE
        smallest = float(LARGE.macs(np.zeros((1, len(LARGE.choices)), dtype=int))[0])
        cheap, bound = LARGE.macs, 1.001 * smallest
    else:
        hooks = {"canonical": counted(lambda g: np.sort(g, axis=1)), "valid": counted(lambda g: g[:, 1] > 0)}
        choices = [Choice(name, (0, 1, 2)) for name in "ab"]
        space = SearchSpace("hooks", choices, **hooks) if kind == "hooks" else toy_space(3)
        cheap, bound = (lambda archs: np.asarray(space.genotypes(archs)).sum(axis=1)), 3
    wanted = [
        Objective("accuracy", "max", counted(lambda archs: [sum(a.genotype) for a in archs]), expensive=True),
        Objective("cheap", "min", counted(cheap)),
    ]
    bounds = [Constraint("cheap", upper=bound), Constraint("own", upper=bound, evaluate=counted(cheap))]
    options = {"predictor": "ridge", "start": 3} if name == "linas" else {}
    result = search(space, wanted, bounds, name, evaluations=40, **options)
    assert 0 < len(result.evaluations) < 40
    assert min(counts) > 0
