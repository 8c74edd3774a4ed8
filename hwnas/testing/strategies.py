"""Rules for search strategies: `hwnas.searching.strategies.Strategy`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from hwnas.searching.loop import SearchResult, search
from hwnas.searching.objectives import Constraint, Evaluation, Objective, Problem
from hwnas.searching.strategies import Strategy, StrategyLike, get_strategy
from hwnas.spaces import Architecture, Choice, NetworkSpace, SearchSpace, get_space
from hwnas.testing.problems import accuracy, at_most, cost, objectives, toy_space
from hwnas.testing.rules import Suite, check_rules, require


@dataclass(frozen=True)
class Subject:
    """A strategy under test, with its options."""

    plugin: StrategyLike
    options: dict[str, Any]

    def begin(self, problem: Problem, seed: int = 0) -> Strategy:
        """Return a new strategy that has begun with a problem."""
        return get_strategy(self.plugin, problem, seed, **self.options)

    def search(self, problem: Problem, evaluations: int) -> SearchResult:
        """Search a problem."""
        space, metrics, bounds = problem.space, problem.objectives, problem.constraints
        return search(space, metrics, bounds, self.plugin, evaluations, **self.options)


def check_strategy(strategy: StrategyLike, **options: Any) -> None:
    """Check that a search strategy keeps the rules that `hwnas.search` relies on.

    Args:
        strategy: As for `hwnas.search`: an object, a class or function that makes one, or a name.
        **options: Options of the strategy, as for `hwnas.search`.

    Raises:
        ConformanceError: If the strategy breaks a rule; the message names the rule and the values.
    """
    check_rules(STRATEGY_RULES, strategy, **options)


suite = Suite(lambda strategy, **options: Subject(strategy, options))

# ---- problems ------------------------------------------------------------------------------------


@cache
def mobilenet() -> NetworkSpace:
    """Return a space that is too large to be enumerated."""
    return get_space("mobilenetv3")


def large(bound: float = 3e8) -> Problem:
    """Return a problem on Once-for-All's space: an accuracy made up from parameters, and bounded MACs."""
    space = mobilenet()
    metrics = (
        Objective("accuracy", "max", lambda archs: space.params(archs) ** 0.1, expensive=True),
        Objective("macs", "min", space.macs),
    )
    return Problem(space, metrics, (Constraint("macs", upper=bound),))


def smallest_macs() -> float:
    """Return the MACs of the smallest network of the large space."""
    space = mobilenet()
    return float(space.macs(np.zeros((1, len(space.choices)), dtype=int))[0])


def small() -> Problem:
    """Return a problem of 9 units of cost on the toy space."""
    return Problem(toy_space(), tuple(objectives()), tuple(at_most(9)))


def three() -> Problem:
    """Return a problem of three objectives."""
    depth = Objective("depth", "max", lambda archs: [a.values["depth"] for a in archs])
    return Problem(toy_space(), (*objectives(), depth), tuple(at_most(9)))


def one() -> Problem:
    """Return a problem of one expensive objective."""
    return Problem(toy_space(), (objectives()[0],))


def cheap() -> Problem:
    """Return a problem of two cheap objectives."""
    return Problem(toy_space(), (Objective("accuracy", "max", accuracy), Objective("cost", "min", cost)))


def both() -> Problem:
    """Return a problem of two expensive objectives, one of them bounded."""
    metrics = (
        Objective("accuracy", "max", accuracy, expensive=True),
        Objective("cost", "min", cost, expensive=True),
    )
    return Problem(toy_space(), metrics, (Constraint("cost", upper=9.0),))


def on_and_off(choices: int, name: str, distance: Callable[[Any], Any]) -> Problem:
    """Return a problem on binary choices whose feasible architectures have distance 0.

    Args:
        choices: Number of choices.
        name: Name of the distance as a metric.
        distance: Function of genotypes (n, g) to distances (n,).
    """
    space = SearchSpace("bits", [Choice(f"c{i}", (0, 1)) for i in range(choices)])
    off = Constraint(name, upper=0, lower=0, evaluate=lambda archs: distance(space.genotypes(archs)))
    first = Objective("first", "min", lambda archs: space.genotypes(archs)[:, 0])
    flat = replace(objectives()[0], evaluate=lambda archs: [1.0] * len(archs))
    return Problem(space, (flat, first), (off,))


PROBLEMS = {"small": small, "three": three, "one": one, "cheap": cheap, "both": both, "large": large}
SMALL_AND_LARGE = {name: PROBLEMS[name] for name in ("small", "large")}
FAR_APART = {
    # Each feasible architecture differs from the next one in two choices.
    "one_of_forty": (lambda: on_and_off(40, "excess", lambda g: g.sum(axis=1) - 1), 40),
    # No change of two choices leads from one to another, and the violation does not lead to them.
    "scattered": (
        lambda: on_and_off(21, "remainder", lambda g: (g @ 2 ** np.arange(21)) % 161_319 - 5),
        13,
    ),
}


def evaluated(problem: Problem, archs: Sequence[Architecture], fail_every: int = 7) -> list[Evaluation]:
    """Return true evaluations; some fail, chosen by the genotype and the position."""
    exact = problem.exact_metrics(archs)
    evaluations = []
    for i, arch in enumerate(archs):
        metrics = {name: float(values[i]) for name, values in exact.items()}
        if arch.genotype[0] + i + 1 == fail_every:
            evaluations.append(Evaluation(arch, metrics, "failed", "boom"))
            continue
        for objective in problem.expensive:
            metrics[objective.name] = float(objective.evaluate(problem.space.architectures([arch]))[0])
        evaluations.append(Evaluation(arch, metrics))
    return evaluations


def run_strategy(strategy: Strategy, problem: Problem, n: int) -> list[Evaluation]:
    """Ask, evaluate and tell until n architectures are evaluated or no more are asked for."""
    evaluations: list[Evaluation] = []
    while len(evaluations) < n:
        batch = strategy.ask(n - len(evaluations))
        if not len(batch):
            break
        require(
            len(batch) <= n - len(evaluations),
            f"ask({n - len(evaluations)}) returned {len(batch)} architectures.",
        )
        batch_evaluations = evaluated(problem, batch)
        strategy.tell(batch_evaluations)
        evaluations += batch_evaluations
    return evaluations


def require_new_feasible(problem: Problem, evaluations: list[Evaluation], n: int) -> None:
    """Require n different, canonical architectures that satisfy the constraints on cheap metrics."""
    archs = [e.architecture for e in evaluations]
    require(len(archs) == n, f"{len(archs)} architectures were asked for until ask returned none, not {n}.")
    require(
        len(set(archs)) == n, f"{n - len(set(archs))} of {n} architectures were asked for more than once."
    )
    genotypes = problem.space.genotypes(archs)
    wrong = np.flatnonzero((problem.space.canonical(genotypes) != genotypes).any(axis=1))
    require(not len(wrong), f"the genotypes {genotypes[wrong[:3]].tolist()} are not in canonical form.")
    missed = np.flatnonzero(problem.violation(problem.exact_metrics(genotypes)) > 0)
    require(
        not len(missed),
        f"{len(missed)} of {n} architectures break {' and '.join(map(str, problem.constraints))}, the first "
        f"with {evaluations[missed[0]].metrics if len(missed) else None}.",
    )


# ---- rules ---------------------------------------------------------------------------------------


@suite.each(PROBLEMS)
def asks_new_feasible_architectures(subject: Subject, make: Callable[[], Problem]) -> None:
    """Asks for exactly as many architectures as it may; each is new, canonical and feasible."""
    problem = make()
    require_new_feasible(problem, run_strategy(subject.begin(problem), problem, 60), 60)


@suite.each(SMALL_AND_LARGE)
def follows_from_seed_and_evaluations(subject: Subject, make: Callable[[], Problem]) -> None:
    """The architectures follow from the seed and the evaluations, told in any portions, alone."""
    problem = make()
    first = subject.begin(problem, 5)
    evaluations = run_strategy(first, problem, 40)
    second = subject.begin(problem, 5)
    second.tell(evaluations[:13])
    second.tell(evaluations[13:])
    asked = list(first.ask(10))
    require(asked == list(first.ask(10)), "a second ask without a tell in between returned other ones.")
    require(asked == list(second.ask(10)), "a new object that was told the same asked for other ones.")
    first.begin(problem, 5)
    again = [e.architecture for e in run_strategy(first, problem, 13)]
    require(
        again == [e.architecture for e in run_strategy(subject.begin(problem, 5), problem, 13)],
        "an object that began again asked for other ones than a new one.",
    )


@suite.each({f"{name}-{number}": (name, number) for name in SMALL_AND_LARGE for number in (0, 25, 40)})
def does_not_ask_for_pending_again(subject: Subject, case: tuple[str, int]) -> None:
    """Pending architectures are not asked for again, and others are, by the seed."""
    problem = PROBLEMS[case[0]]()
    strategy = subject.begin(problem)
    known = {e.architecture for e in run_strategy(strategy, problem, case[1])}
    first = list(strategy.ask(10))
    second = list(strategy.ask(10, first))
    third = list(strategy.ask(10, [*first, *second]))
    different = len({*known, *first, *second, *third})
    total = len(known) + len(first) + len(second) + len(third)
    require(different == total, f"{total - different} architectures were asked for while they were pending.")
    for batch in (second, third):
        require(0 < len(batch) <= 10, f"ask(10) returned {len(batch)} architectures while 10 were pending.")
    require(second == list(strategy.ask(10, first)), "the same ask returned other architectures.")


@suite.rule
def ends_with_pending(subject: Subject) -> None:
    """Asks for the last feasible architecture, and for none when all others are pending."""
    problem = small()
    strategy = subject.begin(problem)
    space = problem.space
    feasible = [a for a, c in zip(space.enumerate(), cost(space.enumerate()), strict=True) if c <= 9]
    batch = list(strategy.ask(10, feasible))
    require(batch == [], f"all {len(feasible)} feasible ones were pending, and {batch} were asked for.")
    last = list(strategy.ask(10, feasible[1:]))
    require(last == feasible[:1], f"only {feasible[0]} was left, and {last} were asked for.")


@suite.rule
def predicts_its_batch(subject: Subject) -> None:
    """Its attribute `predicted`, if it has one, is of the last batch, in its order."""
    problem = small()
    strategy = subject.begin(problem)
    evaluations = run_strategy(strategy, problem, 70)
    batch = strategy.ask(10)
    for metric, predicted in getattr(strategy, "predicted", {}).items():
        require(metric == "accuracy", f"{metric!r} was predicted; only accuracy is expensive.")
        require(
            0 < len(predicted) <= len(batch), f"{len(predicted)} predictions of {len(batch)} architectures."
        )
        values = np.array([e.metrics["accuracy"] for e in evaluations if e.status == "ok"])
        error = float(np.abs(accuracy(batch)[: len(predicted)] - predicted).mean())
        require(
            error < 0.2 * values.std(),
            f"the mean error {error:.3g} is not below a fifth of the deviation {values.std():.3g}.",
        )


@suite.rule
def finds_all_of_a_small_space(subject: Subject) -> None:
    """Ends with every feasible architecture of a small space."""
    problem = Problem(toy_space(4), tuple(objectives()), tuple(at_most(5)))
    evaluations = run_strategy(subject.begin(problem), problem, 10_000)
    archs = problem.space.enumerate()
    feasible = {arch for arch, c in zip(archs, cost(archs), strict=True) if c <= 5}
    asked = {e.architecture for e in evaluations}
    require(asked == feasible, f"{len(feasible - asked)} of {len(feasible)} were not asked for.")


@suite.rule
def finds_the_only_one_of_a_large_space(subject: Subject) -> None:
    """Ends in a large space with the one architecture that is feasible."""
    problem = large(smallest_macs())
    evaluations = run_strategy(subject.begin(problem), problem, 20)
    require(len(evaluations) == 1, f"{len(evaluations)} architectures were asked for.")


@suite.each(FAR_APART)
def finds_architectures_that_are_far_apart(subject: Subject, case: tuple[Callable[[], Problem], int]) -> None:
    """Ends with every feasible architecture where none is a neighbour of another."""
    make, number = case
    asked = [e.architecture for e in subject.search(make(), number + 5).evaluations]
    require(len(set(asked)) == len(asked) == number, f"{len(set(asked))} of {number} were asked for.")


@suite.rule
def searches_one_choice(subject: Subject) -> None:
    """Searches a space of one choice."""
    space = SearchSpace("one", [Choice("x", (1, 2, 3))])
    objective = Objective("f", "max", lambda archs: [a.values["x"] for a in archs], expensive=True)
    problem = Problem(space, (objective,))
    asked = len(run_strategy(subject.begin(problem), problem, 20))
    require(asked == 3, f"{asked} of 3 architectures were asked for.")


@suite.rule
def goes_on_after_failures(subject: Subject) -> None:
    """Goes on when every evaluation failed."""
    strategy = subject.begin(small())
    for _ in range(5):
        strategy.tell([Evaluation(arch, {}, "failed", "boom") for arch in strategy.ask(10)])
    require(len(strategy.ask(10)) > 0, "after five failed batches ask(10) returned none.")


@suite.rule
def searches_one_architecture(subject: Subject) -> None:
    """Searches a space of one architecture, which is then the front."""
    space = SearchSpace("one", [Choice("depth", (2,)), Choice("kernel", (3,), (("depth", (2,)),))])
    metrics = (
        Objective("accuracy", "max", lambda archs: [90.0] * len(archs), expensive=True),
        Objective("cost", "min", lambda archs: [1.0] * len(archs)),
    )
    for some in (metrics, metrics[:1], metrics[1:]):
        result = subject.search(Problem(space, some), 5)
        front = [e.architecture.values for e in result.front]
        require(front == [{"depth": 2, "kernel": 3}], f"the front is {front}.")
        lengths = [len(result.evaluations), len(result.to_frame()), len(result.rounds_frame())]
        require(lengths == [1, 1, 1], f"evaluations, their rows and those of rounds are {lengths}, not 1.")


@suite.each({"small": "small", "large": "large", "hooks": "hooks"})
def calls_no_function_without_architectures(subject: Subject, kind: str) -> None:
    """Functions of the user are never called with an empty list of architectures."""
    counts: list[int] = []

    def counted(values: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def evaluate(archs: Any) -> Any:
            counts.append(len(archs))
            require(len(archs) > 0, "a function was called without architectures.")
            return values(archs)

        return evaluate

    space, bound = toy_space(3), 3.0

    def metric(archs: Any) -> Any:
        return mobilenet().macs(archs) if kind == "large" else space.genotypes(archs).sum(axis=1)

    if kind == "large":  # few architectures are feasible, and none of a drawn batch may be
        space, bound = mobilenet(), 1.001 * smallest_macs()
    elif kind == "hooks":
        choices = [Choice(name, (0, 1, 2)) for name in "ab"]
        ordered, valid = counted(lambda g: np.sort(g, axis=1)), counted(lambda g: g[:, 1] > 0)
        space = SearchSpace("hooks", choices, canonical=ordered, valid=valid)
    metrics = (
        Objective("accuracy", "max", counted(lambda archs: [sum(a.genotype) for a in archs]), expensive=True),
        Objective("cheap", "min", counted(metric)),
    )
    bounds = (
        Constraint("cheap", upper=bound),
        Constraint("own", upper=bound, evaluate=counted(metric)),
    )
    number = len(subject.search(Problem(space, metrics, bounds), 40).evaluations)
    require(0 < number < 40, f"{number} architectures were evaluated; fewer than 40 are feasible.")


STRATEGY_RULES = tuple(suite.rules)
