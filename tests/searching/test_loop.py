import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hwnas
from hwnas import Constraint, Objective, SearchResult, search
from hwnas.errors import DataError, InfeasibleError, SearchError, StoreError
from hwnas.searching.strategies import STRATEGIES, check_strategy
from hwnas.store import Store
from tests.searching.problems import (
    CountingAccuracy,
    accuracy,
    at_most,
    cost,
    objectives,
    toy_space,
)


def genotypes(result: SearchResult) -> list[tuple[int, ...]]:
    return [e.architecture.genotype for e in result.evaluations]


def test_every_evaluation_is_true_and_the_front_is_one_of_them() -> None:
    result = search(toy_space(), objectives(), at_most(9), evaluations=40, seed=1)
    archs = [e.architecture for e in result.evaluations]
    assert len(set(archs)) == len(archs) == 40
    assert [e.metrics["accuracy"] for e in result.evaluations] == accuracy(archs).tolist()
    assert [e.metrics["cost"] for e in result.evaluations] == cost(archs).tolist()
    assert max(cost(archs)) <= 9
    assert all(evaluation in result.evaluations for evaluation in result.front)
    assert list(result.front.to_frame().columns) == ["accuracy", "cost", "architecture"]


def _archs(evaluations: object) -> list[hwnas.Architecture]:
    return [e.architecture for e in evaluations]


def test_the_trace_ends_with_the_hypervolume_of_the_front() -> None:
    result = search(toy_space(), objectives(), evaluations=30)
    trace = result.hypervolume_trace([40, 20])
    assert trace.shape == (30,)
    assert (np.diff(trace) >= 0).all()
    assert trace[-1] == pytest.approx(result.front.hypervolume([40, 20]))


def test_the_frame_holds_everything_and_failures_with_their_error() -> None:
    evaluate = CountingAccuracy(fails=("0", "1"))
    frame = search(toy_space(), objectives(evaluate), evaluations=60).to_frame()
    assert list(frame.columns) == ["accuracy", "cost", "status", "error", "architecture"]
    failed = frame[frame["status"] == "failed"]
    assert len(frame) == 60
    assert 0 < len(failed) < 30
    assert failed["accuracy"].isna().all()
    assert (failed["error"] == "accuracy: RuntimeError: out of memory").all()


def test_a_nan_is_a_failure_and_another_shape_an_error() -> None:
    def sometimes(archs: object) -> list[float]:
        return [float("nan") if archs[0].values["depth"] == 1 else 1.0]

    result = search(toy_space(), objectives(sometimes), evaluations=30)
    failed = [e for e in result.evaluations if e.status == "failed"]
    assert failed
    assert {e.error for e in failed} == {"accuracy: the value is nan"}
    assert all(e.status == "ok" for e in result.front)
    with pytest.raises(SearchError, match=r"accuracy.*shape \(1, 2\)"):
        search(toy_space(), objectives(lambda archs: [[1.0, 2.0]]), evaluations=5)
    with pytest.raises(SearchError, match=r"cost.*nan"):
        search(toy_space(), [Objective("cost", "min", lambda archs: [float("nan")] * len(archs))])


def test_a_search_stops_when_most_evaluations_fail() -> None:
    evaluate = CountingAccuracy(fails=tuple("0123456789abcdef"))
    with pytest.raises(SearchError, match=r"10 of 10 .* out of memory"):
        search(toy_space(), objectives(evaluate), evaluations=100)
    assert len(evaluate.asked) == 10


def test_infeasible_bounds_end_it_before_anything_is_evaluated() -> None:
    evaluate = CountingAccuracy()
    with pytest.raises(InfeasibleError, match="smallest reachable cost is 1"):
        search(toy_space(), objectives(evaluate), at_most(0))
    assert not evaluate.asked


def test_a_bound_on_an_expensive_metric_holds_on_the_front() -> None:
    result = search(toy_space(), objectives(), [Constraint("accuracy", upper=70.0)], evaluations=60)
    assert len(result.evaluations) == 60
    assert 65 < max(e.metrics["accuracy"] for e in result.front) <= 70


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(SearchError, match=r"'lians'.*random, nsga2, linas"):
        search(toy_space(), objectives(), strategy="lians")
    with pytest.raises(SearchError, match="predicter"):
        search(toy_space(), objectives(), predicter="gp")
    with pytest.raises(SearchError, match=r"'gpp'.*ridge"):
        search(toy_space(), objectives(), predictor="gpp")
    with pytest.raises(SearchError, match="got 0"):
        search(toy_space(), objectives(), evaluations=0)


def test_progress_counts_every_evaluation() -> None:
    seen: list[tuple[int, int, str]] = []
    search(toy_space(), objectives(), evaluations=25, progress=lambda *report: seen.append(report))
    assert [done for done, _, _ in seen] == list(range(1, 26))
    assert {total for _, total, _ in seen} == {25}
    assert "best accuracy" in seen[-1][2]


# ---- the store ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(die_at=st.integers(0, 44), seed=st.integers(0, 3))
def test_a_killed_search_ends_as_one_that_was_not(strategy: str, die_at: int, seed: int) -> None:
    def run(evaluate: CountingAccuracy, store: Store) -> SearchResult:
        return search(
            toy_space(), objectives(evaluate), at_most(9), strategy, evaluations=45, seed=seed, store=store
        )

    fails = ("3",)
    whole = run(CountingAccuracy(fails=fails), Store())
    store, killed, resumed = Store(), CountingAccuracy(die_at, fails), CountingAccuracy(fails=fails)
    with pytest.raises(KeyboardInterrupt):
        run(killed, store)
    result = run(resumed, store)
    assert [(e.metrics, e.status, e.error) for e in result.evaluations] == [
        (e.metrics, e.status, e.error) for e in whole.evaluations
    ]
    assert genotypes(result) == genotypes(whole)
    assert result.front.to_frame().equals(whole.front.to_frame())
    assert killed.asked + resumed.asked == _archs(whole.evaluations)
    again = CountingAccuracy(fails=fails)
    assert genotypes(run(again, store)) == genotypes(whole)
    assert not again.asked


def test_a_finished_search_goes_on_with_more_evaluations(tmp_path: Path) -> None:
    def run(evaluations: int, evaluate: CountingAccuracy) -> SearchResult:
        store = Store(tmp_path / "run.db")
        return search(toy_space(), objectives(evaluate), evaluations=evaluations, store=store)

    first, second = CountingAccuracy(), CountingAccuracy()
    short, long = run(30, first), run(50, second)
    assert genotypes(long)[:30] == genotypes(short)
    assert len(second.asked) == 20
    assert genotypes(run(10, CountingAccuracy())) == genotypes(short)[:10]


def test_values_are_shared_by_source_and_not_without_one() -> None:
    store = Store()
    counts = []
    for name, source in [("a", "weights-1"), ("b", "weights-1"), ("c", "weights-2"), ("d", ""), ("e", "")]:
        evaluate = CountingAccuracy()
        search(toy_space(), objectives(evaluate, source), evaluations=20, store=store, name=name)
        counts.append(len(evaluate.asked))
    assert counts == [20, 0, 20, 20, 20]


def test_another_search_tries_again_what_failed() -> None:
    store = Store()
    search(toy_space(), objectives(CountingAccuracy(fails=("0", "1")), "w"), evaluations=40, store=store)
    evaluate = CountingAccuracy()
    result = search(toy_space(), objectives(evaluate, "w"), evaluations=40, store=store, name="again")
    assert all(arch.id[0] in "01" for arch in evaluate.asked[:1])
    assert all(e.status == "ok" for e in result.evaluations)


def test_a_stored_search_with_other_settings_is_refused() -> None:
    store = Store()
    search(toy_space(), objectives(), evaluations=5, store=store)
    with pytest.raises(StoreError, match="seed 0, now it is 1"):
        search(toy_space(), objectives(), evaluations=5, store=store, seed=1)
    with pytest.raises(StoreError, match="strategy"):
        search(toy_space(), objectives(), evaluations=5, store=store, strategy="random")
    store.forget_search("search")
    search(toy_space(), objectives(), evaluations=5, store=store, seed=1)


def test_an_error_of_hwnas_ends_the_search_and_is_not_stored() -> None:
    store, whole = Store(), search(toy_space(), objectives(), evaluations=20)

    def lost(archs: object) -> list[float]:
        raise DataError("the images are gone")

    for _ in range(2):
        with pytest.raises(DataError, match="images are gone"):
            search(toy_space(), objectives(lost), evaluations=20, store=store)
    result = search(toy_space(), objectives(), evaluations=20, store=store)
    assert result.evaluations == whole.evaluations


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("die_at", [None, 3, 12])
def test_a_search_that_was_stopped_tries_its_failures_again(strategy: str, die_at: int | None) -> None:
    def run(evaluate: CountingAccuracy, store: Store) -> SearchResult:
        return search(toy_space(), objectives(evaluate), (), strategy, evaluations=30, store=store)

    whole, store = run(CountingAccuracy(), Store()), Store()
    broken = CountingAccuracy(fails=tuple("0123456789ab"))
    with pytest.raises(SearchError, match=r"evaluations failed.*tries them again"):
        run(broken, store)
    with pytest.raises(SearchError, match="evaluations failed"):
        run(broken, store)
    if die_at is not None:
        with pytest.raises(KeyboardInterrupt):
            run(CountingAccuracy(die_at), store)
    assert run(CountingAccuracy(), store).evaluations == whole.evaluations


def test_a_second_process_on_the_same_search_is_refused(tmp_path: Path) -> None:
    def meddle(archs: object) -> np.ndarray:
        if archs[0].values["depth"] == 1:
            other = Store(tmp_path / "run.db")
            rounds = other.rounds("search")
            other.add_round("search", len(rounds), toy_space().id, {"x": {"depth": 1}})
        return accuracy(archs)

    with pytest.raises(StoreError, match="another process is searching here"):
        search(toy_space(), objectives(meddle), evaluations=60, store=Store(tmp_path / "run.db"))


def test_numbers_of_numpy_are_stored_as_numbers() -> None:
    store = Store()
    bound = [Constraint("cost", upper=np.float32(9))]
    for seed, batch, limit in [(np.int64(3), np.int64(4), bound), (3, 4, at_most(9))]:
        result = search(
            toy_space(), objectives(), limit, evaluations=np.int64(8), seed=seed, batch=batch, store=store
        )
        assert len(result.evaluations) == 8


@pytest.mark.parametrize("returned", [["high"], {"accuracy": 1}, [1j], np.array([1j]), ["80"], None])
def test_what_is_no_number_is_named(returned: object) -> None:
    with pytest.raises(SearchError, match="accuracy: evaluate returned"):
        search(toy_space(), objectives(lambda archs: returned), evaluations=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is a whole number of at least 0, got -1"),
        ({"evaluations": 5.5}, "evaluations is a whole number of at least 1, got 5.5"),
        ({"strategy": "random", "batch": 0}, "batch is a whole number of at least 1, got 0"),
        ({"strategy": "nsga2", "population": 0}, "population .* at least 1, got 0"),
        ({"strategy": "nsga2", "population": -3}, "population .* at least 1, got -3"),
        ({"start": 1}, "start .* at least 2, got 1"),
        ({"batch": "10"}, "batch .* at least 1, got '10'"),
    ],
)
def test_numbers_out_of_range_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        search(toy_space(), objectives(), **arguments)


@pytest.mark.parametrize("bound", [16.5, 17])
def test_a_bound_on_an_expensive_metric_that_nothing_meets_ends_with_an_empty_front(bound: float) -> None:
    problem = [Objective("size", "max", cost, expensive=True), Objective("depth", "min", _depth)]
    result = search(toy_space(), problem, [Constraint("size", lower=bound)], evaluations=60)
    assert len(result.evaluations) == 60
    assert len(result.front) == 0
    assert max(e.metrics["size"] for e in result.evaluations) == 15  # the nearest to the bound was found


def _depth(archs: object) -> list[int]:
    return [arch.values["depth"] for arch in archs]


def test_a_strategy_is_checked_without_a_problem() -> None:
    for name in STRATEGIES:
        check_strategy(name)
    check_strategy("linas", predictor="ridge", start=5)
    for name, options, message in [
        ("lians", {}, "'lians'"),
        ("linas", {"predictor": "gpp"}, "'gpp'"),
        ("linas", {"start": 0}, "got 0"),
        ("random", {"predictor": "gp"}, "predictor"),
    ]:
        with pytest.raises(SearchError, match=message):
            check_strategy(name, **options)


# ---- determinism --------------------------------------------------------------------------------

PROGRAM = """
import sys
from hwnas import search
from tests.searching.problems import at_most, objectives, toy_space
for strategy in ("random", "nsga2", "linas"):
    result = search(
        toy_space(), objectives(), at_most(12), strategy, evaluations=40, seed=3, executor=sys.argv[1], lag=1
    )
    print([e.architecture.genotype for e in result.evaluations], result.front.points.tolist())
assert "torch" not in sys.modules
"""


def test_the_result_depends_on_the_seed_alone_and_needs_no_torch() -> None:
    outputs = []
    for hash_seed, executor in (("0", "serial"), ("1", "process")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, executor],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0]
    one, other = (search(toy_space(), objectives(), evaluations=20, seed=s) for s in (0, 1))
    assert genotypes(one) != genotypes(other)
