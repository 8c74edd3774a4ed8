import moocore
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2

from hwnas import Choice, SearchSpace, get_space
from hwnas.errors import MissingExtraError, SearchError
from hwnas.searching.feasible import row_keys
from hwnas.searching.objectives import Problem
from hwnas.searching.strategies import get_strategy
from hwnas.searching.strategies.algorithms import (
    ALGORITHMS,
    Algorithm,
    Pymoo,
    directions,
    get_algorithm,
)
from hwnas.searching.strategies.evolution import evolve
from tests.searching.problems import accuracy, at_most, cost, objectives, toy_space

LARGE = get_space("mobilenetv3")


def run(name, *args):
    """The named algorithm on evolve's arguments; skips where its package is missing."""
    algorithm = ALGORITHMS[name]
    if algorithm.package:
        pytest.importorskip(algorithm.package)
    return algorithm.evolve(*args)


def toy_score(space, bound=np.inf, n=2):
    """−accuracy and cost, or the first n of them, with a bound on the cost."""

    def score(genotypes):
        archs = space.architectures(genotypes)
        losses = np.stack([-accuracy(archs), cost(archs)], axis=1)[:, :n]
        return losses, np.maximum(cost(archs) - bound, 0) if np.isfinite(bound) else np.zeros(len(archs))

    return score


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_finds_the_front_of_a_known_problem(name):
    space, algorithm = toy_space(), ALGORITHMS[name]
    n = int(min(algorithm.most, 2))
    score = toy_score(space, 9 if algorithm.constraints else np.inf, n)
    start = space.sample(20, 0).genotypes
    found, losses, violation = run(name, space, score, start, 40, 15, np.random.default_rng(0))
    assert len(set(row_keys(found))) == len(found)
    assert (space.canonical(found) == found).all()
    again = score(found)
    assert np.array_equal(losses, again[0])
    assert np.array_equal(violation, again[1])
    every, forbidden = score(space.enumerate().genotypes)
    reference = [-40, 16][:n]
    best = moocore.hypervolume(every[forbidden == 0], ref=reference)
    assert moocore.hypervolume(losses[violation == 0], ref=reference) > 0.97 * best


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_it_does_follows_from_the_generator(name):
    space, n = toy_space(8), int(min(ALGORITHMS[name].most, 2))
    # Equal violations everywhere: ties are where an unseeded generator would show.
    tied = np.ones if ALGORITHMS[name].constraints else np.zeros

    def score(genotypes):
        return toy_score(space, n=n)(genotypes)[0], tied(len(genotypes))

    start = space.sample(20, 0).genotypes
    np.random.seed(1)  # noqa: NPY002 (what must not matter)
    first = run(name, space, score, start, 20, 10, np.random.default_rng(0))[0]
    np.random.seed(2)  # noqa: NPY002
    second = run(name, space, score, start, 20, 10, np.random.default_rng(0))[0]
    other = run(name, space, score, start, 20, 10, np.random.default_rng(1))[0]
    assert np.array_equal(first, second)
    assert not np.array_equal(first[:100], other[:100])


@pytest.mark.parametrize("start", [1, 3])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_bears_a_small_start_equal_losses_and_invalid_children(name, start):
    choices = [Choice(f"x{i}", (0, 1, 2)) for i in range(6)]
    space = SearchSpace("even", choices, valid=lambda genotypes: genotypes.sum(axis=1) % 2 == 0)
    n = int(min(ALGORITHMS[name].most, 3))

    def score(genotypes):
        return np.ones((len(genotypes), n)), np.zeros(len(genotypes))

    begin = space.sample(start, 0).genotypes
    found, *_ = run(name, space, score, begin, 12, 8, np.random.default_rng(0))
    assert len(found) > 12
    assert space.valid(found).all()


def test_nsga2_on_arrays_is_as_good_as_pymoos():
    def score(genotypes):
        archs = LARGE.architectures(genotypes)
        macs, params = LARGE.macs(archs), LARGE.params(archs)
        return np.stack([4e8 / (macs + 0.1 * params), macs], axis=1), np.maximum(macs / 4e8 - 1, 0)

    def hypervolumes(algorithm):
        found = []
        for seed in range(8):
            start = LARGE.sample(50, seed).genotypes
            _, losses, violation = algorithm(LARGE, score, start, 50, 20, np.random.default_rng(seed))
            found.append(moocore.hypervolume(losses[violation == 0], ref=[2, 4e8]))
        return np.array(found)

    ours, stock = hypervolumes(evolve), hypervolumes(Pymoo(lambda _, population: NSGA2(population)))
    assert abs(ours.mean() - stock.mean()) < 2 * max(ours.std(), stock.std())


@pytest.mark.parametrize(
    ("n", "population", "expected"), [(1, 100, 1), (2, 100, 100), (3, 100, 91), (4, 30, 20), (7, 7, 7)]
)
def test_reference_directions_fill_the_population(n, population, expected):
    found = directions(n, population)
    assert found.shape == (expected, n)
    assert found.sum(axis=1) == pytest.approx(1)


PROBLEMS = {
    "one": Problem(toy_space(), tuple(objectives())[:1]),
    "two": Problem(toy_space(), tuple(objectives())),
    "bounded": Problem(toy_space(), tuple(objectives()), tuple(at_most(9))),
}


@pytest.mark.parametrize(
    ("name", "problem", "message"),
    [
        ("ga", "two", "'ga' is for one objective, and this search has 2; .* fit: nsga2, unsga3, agemoea, c"),
        ("moead", "one", "'moead' is for 2 or more objectives, and this search has 1; .*: nsga2, ga$"),
        ("moead", "bounded", "'moead' knows no constraints, .* cost <= 9; .* fit: nsga2, unsga3, agemoea, c"),
        ("nsga3", "two", "unknown algorithm 'nsga3'; known: nsga2, unsga3, agemoea, ctaea, moead, ga \\(did"),
    ],
)  # fmt: skip
def test_a_mismatch_names_those_that_fit(name, problem, message):
    with pytest.raises(SearchError, match=message):
        get_strategy("linas", PROBLEMS[problem], algorithm=name)


def test_a_missing_package_is_said_before_the_search(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "other", Algorithm(evolve, package="no_such_package"))
    with pytest.raises(MissingExtraError, match=r"no_such_package is not installed; .*hwnas\[other\]"):
        get_algorithm("other", Problem(toy_space(), tuple(objectives())))
