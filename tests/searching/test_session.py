"""Ask and tell: the search without its evaluations."""

import io
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hwnas import Architecture, Objective, SearchSession, get_space, search
from hwnas.errors import SearchError
from hwnas.searching.strategies import STRATEGIES
from hwnas.store import Store
from tests.searching.problems import CountingAccuracy, accuracy, at_most, cost, objectives, toy_space


def told(**arguments: object) -> SearchSession:
    """A session whose accuracies are evaluated elsewhere."""
    wanted = [Objective("accuracy", "max", expensive=True), Objective("cost", "min", cost)]
    return SearchSession(toy_space(), wanted, at_most(9), **arguments)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("lag", [0, 1])
def test_ask_and_tell_is_search(strategy: str, lag: int) -> None:
    session, out = told(strategy=strategy, lag=lag), []
    while session.asked < 45:
        out.append(session.ask(45 - session.asked))
        if len(out) > lag:
            batch = out.pop(0)
            session.tell(batch, {"accuracy": accuracy(batch)})
    for batch in out:
        session.tell(batch, {"accuracy": accuracy(batch)})
    whole = search(toy_space(), objectives(), at_most(9), strategy, evaluations=45, lag=lag)
    assert [e.metrics for e in session.result.evaluations] == [e.metrics for e in whole.evaluations]
    assert session.result.front.to_frame().equals(whole.front.to_frame())
    assert session.result.rounds_frame().equals(whole.rounds_frame())
    assert session.done == session.asked == 45
    assert not session.pending


def test_values_come_in_any_portions_and_order() -> None:
    wanted = [Objective("accuracy", "max", expensive=True), Objective("cost", "min", expensive=True)]
    session = SearchSession(toy_space(), wanted, strategy="random")
    batch = session.ask(10)
    session.tell(batch[6:], {"accuracy": accuracy(batch[6:]), "cost": cost(batch[6:])})
    assert session.done == 4
    assert session.result.evaluations == ()  # they come in the order asked
    session.tell(batch[:6], {"cost": cost(batch[:6])})
    assert session.pending == list(batch[:6])
    with pytest.raises(SearchError, match=r"6 architectures were asked for and lack a value.*lag=1"):
        session.ask(10)
    session.tell(list(batch[:6]), {"accuracy": accuracy(batch[:6])})
    assert [e.metrics for e in session.result.evaluations] == [
        {"accuracy": a, "cost": c} for a, c in zip(accuracy(batch), cost(batch), strict=True)
    ]
    assert len(session.ask(10)) == 10


def test_a_session_goes_on_from_its_store(tmp_path: Path) -> None:
    whole = search(toy_space(), objectives(), at_most(9), evaluations=50, start=30)
    session = told(store=Store(tmp_path / "search.db"), start=30)
    start = session.ask(30)
    session.tell(start[:20], {"accuracy": accuracy(start[:20])})
    session = told(store=Store(tmp_path / "search.db"), start=30)
    assert (session.asked, session.done) == (30, 20)
    assert list(session.ask(4)) == list(start[20:24])
    assert list(session.ask(30)) == list(start[24:])
    session.tell(start[20:], {"accuracy": accuracy(start[20:])})
    while session.asked < 50:
        batch = session.ask(10)
        session.tell(batch, {"accuracy": accuracy(batch)})
    assert [e.metrics for e in session.result.evaluations] == [e.metrics for e in whole.evaluations]
    again = told(store=Store(tmp_path / "search.db"), start=30)
    assert again.result.rounds_frame().equals(whole.rounds_frame())  # predictions are kept


def test_failures_are_told() -> None:
    session = told(strategy="random")
    batch = session.ask(10)
    session.fail(batch[:1], "out of memory")
    session.tell(batch[1:], {"accuracy": [float("nan"), *accuracy(batch[2:])]})
    errors = [e.error for e in session.result.evaluations]
    assert errors == ["accuracy: out of memory", "accuracy: the value is nan", *[None] * 8]
    assert session.status(50).failed == 2
    with pytest.raises(SearchError, match="10 of 18 evaluations failed"):
        session.fail(session.ask(10), "out of memory")


def test_what_is_told_beside_too_many_failures_is_stored() -> None:
    store = Store()
    session = told(strategy="random", store=store)
    session.tell(session.ask(10), {"accuracy": [float("nan")] * 9 + [69.0]})
    batch = session.ask(10)
    with pytest.raises(SearchError, match="10 of 11 evaluations failed"):
        session.tell(batch, {"accuracy": [float("nan"), *range(70, 79)]})
    known = store.measurements("accuracy", "search search")
    assert [known[arch.id].value for arch in batch] == [None, *range(70, 79)]


def test_nothing_is_told_twice_at_once() -> None:
    session = told(strategy="random")
    (arch,) = session.ask(1)
    with pytest.raises(SearchError, match="told twice at once"):
        session.tell([arch, arch], {"accuracy": [1.0, 2.0]})
    assert session.pending == [arch]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": Objective("a", "max", expensive=True)},
            r"objectives is a list of hwnas\.Objective, got",
        ),
        ({"objectives": ["accuracy"]}, r"objectives is a list of hwnas\.Objective, got \['accuracy'\]"),
        ({"constraints": {"cost": 80}}, r"constraints is a list of hwnas\.Constraint, got \{'cost': 80\}"),
        (
            {"store": "search.db"},
            r"store is a hwnas\.Store, as hwnas\.Store\('search\.db'\), got 'search\.db'",
        ),
    ],
)
def test_arguments_of_another_kind(changes: dict[str, Any], message: str) -> None:
    known = {"objectives": [Objective("a", "max", evaluate=lambda archs: [1.0] * len(archs), expensive=True)]}
    with pytest.raises(SearchError, match=message):
        SearchSession(toy_space(), **{**known, **changes})
    with pytest.raises(SearchError, match=message):
        search(toy_space(), **{**known, **changes})
    with pytest.raises(SearchError, match=r"space is a hwnas\.SearchSpace, got \['depth'\]"):
        search(["depth"], known["objectives"])  # type: ignore[arg-type]
    with pytest.raises(
        SearchError, match="watch is a function of a Status, got True; to see lines: progress"
    ):
        search(toy_space(), known["objectives"], watch=True)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="executor is a name or an Executor, got None"):
        search(toy_space(), known["objectives"], executor=None)  # type: ignore[arg-type]


def test_a_cheap_function_that_raises_is_named() -> None:
    def cost(archs: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(SearchError, match="cost: evaluate raised ZeroDivisionError: by nothing"):
        search(toy_space(), [Objective("cost", "min", evaluate=cost)])


def test_metrics_may_have_the_names_of_columns() -> None:
    def values(archs: Any) -> list[float]:
        return [float(hash(arch.genotype) % 97) for arch in archs]

    names = ("error", "status", "architecture")
    wanted = [Objective(name, "min", evaluate=values, expensive=name == "error") for name in names]
    result = search(toy_space(), wanted, strategy="random", evaluations=12)
    frame = result.to_frame()
    assert frame["error"].tolist() == values([e.architecture for e in result.evaluations])
    assert set(frame["status_"]) == {"ok"}
    assert list(frame["architecture_"]) == [e.architecture.values for e in result.evaluations]
    assert list(result.front.to_frame().columns) == [*names, "architecture_"]
    for name in ("", " ", 5):
        with pytest.raises(SearchError, match="a metric's name is a text, got"):
            Objective(name, "min", evaluate=values)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="max_error is a number, got 'a'"):
        result.front.best(max_error="a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"accuracy": [1.0]}, r"accuracy.*shape \(1,\) for 10"),
        ({"accuracy": ["high"] * 10}, "expected numbers"),
        ({"cost": [1.0] * 10}, "'cost' is not told; what is: accuracy"),
    ],
)
def test_what_is_told_is_checked(metrics: dict[str, list[float]], message: str) -> None:
    session = told(strategy="random")
    batch = session.ask(10)
    with pytest.raises(SearchError, match=message):
        session.tell(batch, metrics)
    assert session.done == 0
    session.tell(batch, {"accuracy": accuracy(batch)})
    for archs in (batch[:1], [toy_space().architecture({"depth": 1, "width0": 3})]):
        with pytest.raises(SearchError, match="was not asked for, or is told already"):
            session.tell(archs, {"accuracy": [1.0]})


def test_an_objective_without_a_function_is_for_sessions() -> None:
    with pytest.raises(SearchError, match="'cost': give it an evaluate function, or expensive=True"):
        Objective("cost", "min")
    wanted = [Objective("accuracy", "max", expensive=True), Objective("cost", "min", cost)]
    with pytest.raises(SearchError, match=r"hwnas\.search needs the function"):
        search(toy_space(), wanted, evaluations=5)


def test_a_search_of_cheap_objectives_has_nothing_to_tell() -> None:
    wanted = [Objective("accuracy", "max", accuracy), Objective("cost", "min", cost)]
    session = SearchSession(toy_space(), wanted, strategy="random")
    assert len(session.ask(10)) == session.done == 10
    with pytest.raises(SearchError, match="not asked for"):
        session.tell(session.ask(10), {"accuracy": [0.0] * 10})


# ---- watching -----------------------------------------------------------------------------------


def test_the_status_is_that_of_the_result_so_far() -> None:
    seen = []
    failing = objectives(CountingAccuracy(fails=("3",)))
    result = search(toy_space(), failing, at_most(9), evaluations=60, watch=seen.append, start=30)
    assert [status.done for status in seen] == list(range(1, 61))
    assert {status.total for status in seen} == {60}
    trace = result.hypervolume_trace()
    assert np.isnan([status.hypervolume for status in seen[:29]]).all()
    assert np.allclose([status.hypervolume for status in seen[29:]], trace[29:])
    assert (np.diff(trace) >= 0).all()
    assert seen[-1].front.to_frame().equals(result.front.to_frame())
    assert seen[-1].failed == sum(e.status == "failed" for e in result.evaluations) > 0
    assert seen[29].kendall_tau == {}  # the start is not predicted
    frame = result.rounds_frame()
    assert list(frame.columns) == ["evaluations", "failed", "hypervolume", "kendall_tau_accuracy"]
    assert list(frame["evaluations"]) == [30, 40, 50, 60]
    assert seen[-1].kendall_tau.get("accuracy") == pytest.approx(frame["kendall_tau_accuracy"].iloc[-1])
    assert frame["kendall_tau_accuracy"].iloc[1:].min() > 0.5


def test_the_reference_is_the_worst_of_the_first_round() -> None:
    result = search(toy_space(), objectives(), at_most(9), evaluations=40, start=30)
    frame = result.to_frame().iloc[:30]
    assert result.reference.tolist() == [frame["accuracy"].min(), frame["cost"].max()]


def test_the_figure_shows_evaluations_and_the_front(tmp_path: Path) -> None:
    result = search(toy_space(), objectives(), evaluations=40)
    figure = result.plot()
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("cost (min)", "accuracy (max)")
    assert len(axes.collections[0].get_offsets()) == 40
    assert axes.lines[0].get_xydata().tolist() == sorted(result.front.points[:, ::-1].tolist())
    assert result.plot(x="accuracy").axes[0].get_ylabel() == "cost (min)"
    figure.savefig(tmp_path / "front.png")
    with pytest.raises(SearchError, match="'size' is no objective of this search; there are accuracy, cost"):
        result.plot(y="size")
    alone = search(toy_space(), objectives()[:1], evaluations=5)
    with pytest.raises(SearchError, match="takes two objectives, the search has one: accuracy"):
        alone.plot()


def test_the_figure_is_a_picture_for_notebooks() -> None:
    """A program that knows only the protocol of IPython, without pyplot, gets a PNG file."""
    figure = search(toy_space(), objectives(), evaluations=12).plot()
    png = figure._repr_png_()  # type: ignore[attr-defined]
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.size == (600, 400)


def test_ipython_shows_the_figure_as_a_picture() -> None:
    formatters = pytest.importorskip("IPython.core.formatters", reason="pip install ipython")
    figure = search(toy_space(), objectives(), evaluations=12).plot()
    data, _ = formatters.DisplayFormatter().format(figure)
    assert data["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_round_keeps_no_more_than_its_architectures(strategy: str) -> None:
    """10,000 evaluations would otherwise keep the millions that they were chosen from."""
    space = get_space("mobilenetv3")
    wanted = [Objective("params", "max", space.params, expensive=True), Objective("macs", "min", space.macs)]
    for round_ in search(space, wanted, strategy=strategy, evaluations=20).rounds:
        kept = round_.architectures.genotypes
        while kept.base is not None:
            kept = kept.base
        assert kept.shape == round_.architectures.genotypes.shape


# ---- threads ------------------------------------------------------------------------------------


def values_of(arch: Architecture) -> float:
    return float(accuracy([arch])[0])


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("on_disk", [False, True])
def test_callbacks_of_an_executor_tell(lag: int, on_disk: bool, tmp_path: Path) -> None:
    session = told(lag=lag, store=Store(tmp_path / "search.db") if on_disk else None, start=10)
    changed, errors = threading.Condition(), []

    def tell(arch: Architecture, future: Future[float]) -> None:
        try:
            session.tell([arch], {"accuracy": [future.result()]})
        except Exception as error:  # the executor would log it and go on
            errors.append(error)
        with changed:
            changed.notify()

    with ThreadPoolExecutor(8) as pool:
        while session.asked < 40 and not errors:
            with changed:
                assert changed.wait_for(lambda: session.ready or errors, timeout=60)
            for arch in session.ask(min(10, 40 - session.asked)):
                pool.submit(values_of, arch).add_done_callback(partial(tell, arch))
                assert len(session.result.evaluations) <= session.status(40).done <= session.asked
    assert errors == []
    assert session.done == 40
    whole = search(toy_space(), objectives(), at_most(9), evaluations=40, lag=lag, start=10)
    assert [e.metrics for e in session.result.evaluations] == [e.metrics for e in whole.evaluations]
    if on_disk:
        again = told(lag=lag, store=Store(tmp_path / "search.db"), start=10)
        assert again.result.to_frame().equals(session.result.to_frame())


def test_each_architecture_is_told_by_one_thread_only() -> None:
    session = told(strategy="random")
    batch = session.ask(10)
    start = threading.Barrier(4)

    def tell_all(_: int) -> list[str]:
        start.wait()
        refused = []
        for arch in batch:
            try:
                session.tell([arch], {"accuracy": [values_of(arch)]})
            except SearchError as error:
                refused.append(str(error))
        return refused

    with ThreadPoolExecutor(4) as pool:
        refused = [text for texts in pool.map(tell_all, range(4)) for text in texts]
    assert len(refused) == 30
    assert all("was not asked for, or is told already" in text for text in refused)
    assert session.done == 10


def test_nothing_fails_twice_at_once() -> None:
    session = told(strategy="random")
    (arch,) = session.ask(1)
    with pytest.raises(SearchError, match="told twice at once"):
        session.fail([arch, arch], "out of memory")
    assert session.pending == [arch]
