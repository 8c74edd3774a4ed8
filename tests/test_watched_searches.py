"""Searches of a run: in processes, watched, and gone on with."""

from __future__ import annotations

import json
import shutil
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hwnas.cli import app
from hwnas.cli.display import StageDisplay
from hwnas.config import load_config
from hwnas.errors import ConfigError, MissingExtraError, SearchError, StoreError
from hwnas.pipeline import load_run, open_run
from tests.conftest import write_config

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def rows(run: Path, query: str) -> list[Any]:
    db = sqlite3.connect(run / "run.db", isolation_level=None)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


ACCURACIES = (
    "SELECT number, position, value FROM rounds r JOIN measurements m ON m.architecture = r.architecture "
    "WHERE search = 'search' ORDER BY 1, 2"
)
ROUNDS = "SELECT number, position, architecture FROM rounds WHERE search = 'search' ORDER BY 1, 2"


def test_processes_evaluate_a_run_as_it_does(tiny_run: Path, copy: Path) -> None:
    rows(copy, "DELETE FROM measurements")
    seen: list[dict[str, str]] = []
    fields = {"search.executor": "process", "search.workers": 2, "search.random_baseline": False}
    run = load_run(copy, fields)
    run.watch = lambda facts: seen.append(dict(facts))
    run.make(["search"], restart="search")
    assert rows(copy, ROUNDS) == rows(tiny_run, ROUNDS)
    assert rows(copy, ACCURACIES) == rows(tiny_run, ACCURACIES)
    assert len(seen) == 24
    assert seen[23]["evaluations"] == "24 of 24"
    best = run.searched.front[0].metrics["accuracy"]
    assert seen[23]["best within 1000 ms"] == f"{best:.2f} %"
    assert seen[0]["evaluations"] == "1 of 24"
    load_run(copy).make(["search"])  # what evaluated it makes no difference


def test_a_wrong_executor_is_named_before_the_training(tmp_path: Path) -> None:
    config = write_config(tmp_path, search={"workers": 4})
    with pytest.raises(SearchError, match="executor 'serial' has one worker, not 4"):
        open_run(config, run_dir=tmp_path / "run").make(["profile", "train", "search"])
    assert open_run(config, run_dir=tmp_path / "run").store.stage("profile") is None


def test_a_run_writes_for_tensorboard(copy: Path) -> None:
    run = load_run(copy, {"search.tensorboard": True})
    if find_spec("tensorboard") is None:
        with pytest.raises(MissingExtraError, match=r"hwnas\[tensorboard\]"):
            run.make(["search"], restart="search")
        assert load_run(copy).config.search.tensorboard is False
        assert load_run(copy).store.stage("search") is not None
        return
    run.make(["search"], restart="search")
    for name in ("search", "random-baseline"):
        assert list((copy / "tensorboard" / name).glob("events.*"))


def test_measured_latencies_are_not_timed_side_by_side(copy: Path) -> None:
    run = load_run(copy, {"search.executor": "process", "latency.source": "measured"})
    run.__dict__["latency"] = object.__new__(type("Measured", (_measured(),), {}))
    with pytest.raises(ConfigError, match=r"one network at a time.*search\.executor: process.*serial"):
        run._executor  # noqa: B018


def _measured() -> type:
    from hwnas.latency.predictor import MeasuredLatency

    return MeasuredLatency


def search(*arguments: object) -> str:
    """Standard output of a search that succeeds; the error it raises otherwise."""
    done = CliRunner().invoke(app, ["search", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_finished_search_goes_on(tiny_run: Path, copy: Path) -> None:
    before = rows(tiny_run, ROUNDS)
    assert "next: hwnas export" in search(copy, "--evaluations", "+6")
    assert rows(copy, ROUNDS)[:24] == before
    assert len(rows(copy, ROUNDS)) == 30
    assert load_config(copy / "config.yaml").search.evaluations == 30
    assert rows(copy, "SELECT count(*) FROM rounds WHERE search = 'random-baseline'") == [(30,)]
    run = load_run(copy)
    assert [run.store.stage(name) is not None for name in ("train", "search", "export", "report")] == [
        True,
        True,
        False,
        False,
    ]
    search(copy, "--evaluations", "30")  # as many as there are
    assert len(rows(copy, ROUNDS)) == 30
    run.make(["export", "verify", "report"])
    models = json.loads((copy / "pareto.json").read_text())["models"]
    front = {e.architecture.id for e in run.searched.front}
    assert {model["id"] for model in models} <= front
    assert len((copy / "evaluations.csv").read_text().splitlines()) == 31


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluations", "20"], "the search has 24 evaluations, 20 would be fewer"),
        (["--evaluations", "many"], r"--evaluations takes a number, or \+100 for so many more, got 'many'"),
        (["--evaluations", "9" * 21], "--evaluations is a number of at most 9 digits"),
        (["--evaluations", "9" * 5000], "--evaluations is a number of at most 9 digits"),
        (["--evaluations", "999999999"], r"search\.evaluations: .*less than or equal to 10000000"),
        (["--evaluations", "0"], r"search\.evaluations: .*greater than or equal to 1"),
        (["--evaluations", "+5", "--table", "t.json", "--run-dir", "x"], r"\+5 goes on .* no --table"),
        (["--executor", "slurm"], r"search\.executor: .*'serial', 'process' or 'ray' \(got 'slurm'\)"),
        (["--workers", "0"], r"search\.workers: .*\(got 0\)"),
    ],
)
def test_wrong_options_are_named(copy: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(copy, *arguments)
    assert load_run(copy).store.stage("search") is not None


def test_an_interrupted_search_is_not_shortened(copy: Path) -> None:
    load_run(copy).store.reopen_stages(["search", "export", "verify", "report"])
    with pytest.raises(ConfigError, match="the search has 24 evaluations, 10 would be fewer"):
        search(copy, "--evaluations", "10")
    assert load_config(copy / "config.yaml").search.evaluations == 24
    assert "next: hwnas export" in search(copy)


def test_a_search_goes_on_as_it_was_only(copy: Path) -> None:
    with pytest.raises(StoreError, match=r"search was made with other inputs: seed was 0, is 1|seed was 0"):
        search(copy, "--evaluations", "+6", "--seed", "1")
    with pytest.raises(StoreError, match=r"continue the search: hwnas search .*copy --evaluations 30$"):
        load_run(copy, {"search.evaluations": 30}).make(["search"])
    with pytest.raises(StoreError, match=r"search\.predictor was None, is 'ridge'"):
        search(copy, "--evaluations", "+6", "--set", "search.predictor=ridge")
    assert len(rows(copy, ROUNDS)) == 24


def test_more_is_more_than_what_is_finished(copy: Path) -> None:
    """An interrupted +6 that is typed again does not become +12."""

    class Stop(Exception):
        pass

    def stop(facts: object) -> None:
        raise Stop

    run = load_run(copy, {"search.evaluations": 30})
    run.watch = stop
    with pytest.raises(Stop):
        run.make(["search"], extend=True)
    run.close()
    with pytest.raises(ConfigError, match=r"\+6 evaluations go on from a finished search.*hwnas search"):
        search(copy, "--evaluations", "+6")
    search(copy)
    assert len(rows(copy, ROUNDS)) == 30


def test_what_there_is_to_know_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hwnas.cli.display.LINE_S", 0)
    with StageDisplay() as display:
        display("search")(3, 24, "")
        display.watch({"evaluations": "3 of 24", "best within 1 ms": "81.50 %"})
    shown = capsys.readouterr().err
    assert "search: evaluations 3 of 24, best within 1 ms 81.50 %\n" in shown
