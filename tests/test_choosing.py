"""Choosing from a run's front, at each stage of the run."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from hwnas.choosing import SORTS, choose
from hwnas.errors import ConfigError, InfeasibleError, StoreError
from hwnas.pipeline import load_run
from hwnas.store import read_json, write_json
from tests.conftest import Command


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_a_verified_run_is_chosen_from_by_measured_latency(tiny_run: Path) -> None:
    run = load_run(tiny_run)
    found = choose(run, {})
    models = {model["id"]: model for model in run.models}
    assert found["latency"] == "measured"
    assert len(found["models"]) == len(run.front)
    for row in found["models"]:
        assert row["latency_ms"] == models[row["id"]]["measured"]["latency_ms"]
        assert row["accuracy"] == models[row["id"]]["validation_accuracy"]
        assert Path(row["model"]).is_file()
    for sort, sign in SORTS.items():
        values = [sign * row[sort] for row in choose(run, {}, sort)["models"]]
        assert values == sorted(values)
    with pytest.raises(ConfigError, match="cannot sort by 'beauty'; known: accuracy, latency_ms"):
        choose(run, {}, "beauty")


def test_what_missed_every_budget_is_left_out_and_named(copy: Path) -> None:
    pareto = read_json(copy / "pareto.json")
    run = load_run(copy)
    kept, missed = (arch.id for arch in run.space.sample(2, 0))
    entry = pareto["models"][0]
    values = {arch.id: arch.values for arch in run.space.sample(2, 0)}
    two = [{**entry, "id": name, "architecture": values[name]} for name in (kept, missed)]
    two[1]["status"] = "missed"
    write_json(copy / "pareto.json", {**pareto, "models": two})
    found = choose(run, {})
    assert found["missed"] == [missed]
    assert [row["id"] for row in found["models"]] == [kept]
    write_json(copy / "pareto.json", {**pareto, "models": two[1:]})
    with pytest.raises(InfeasibleError, match=r"too slow for every budget, the fastest takes 0\.\d+ ms"):
        choose(run, {})


def test_before_it_is_verified_the_latency_is_that_of_the_table(copy: Path) -> None:
    run = load_run(copy)
    archs = {e.architecture.id: e.architecture for e in run.searched.front}
    for stage, exported in (("verify", True), ("export", False)):
        run.store.reopen_stages([stage])
        found = choose(run, {})
        assert found["latency"] == "predicted by the latency table"
        assert [row["id"] for row in found["models"]] == list(archs)
        for row in found["models"]:
            arch = archs[row["id"]]
            assert row["latency_ms"] == run.table.latency_ms([arch])[0]
            assert (row["macs"], row["params"]) == (run.space.macs([arch])[0], run.space.params([arch])[0])
            assert (row["test_accuracy"] is not None) == (row["model"] is not None) == exported
    run.store.reopen_stages(["search"])
    run.store.forget_search("search")
    with pytest.raises(StoreError, match=r"search is not finished; run: hwnas run \S*config\.yaml"):
        choose(load_run(copy), {})


def test_beside_a_running_search_it_is_the_front_so_far(copy: Path, hwnas_command: Command) -> None:
    with contextlib.closing(sqlite3.connect(copy / "run.db")) as db, db:
        # The accuracies that only the random baseline evaluated: the search would be given them at once.
        db.execute(
            "DELETE FROM measurements WHERE architecture NOT IN "
            "(SELECT architecture FROM rounds WHERE search = 'search')"
        )
    run, seen = load_run(copy, {"search.evaluations": 27}), []

    def look(facts: object) -> None:
        code, out, err = hwnas_command("front", copy, "--json")
        assert (code, err) == (0, "")
        seen.append(json.loads(out))

    run.watch = look
    run.make(["search"], extend=True)
    assert [found["unfinished"] for found in seen] == [[24, 27], [25, 27], [26, 27], [27, 27]]
    assert {found["latency"] for found in seen} == {"predicted by the latency table"}
    front = [evaluation.architecture.id for evaluation in run.searched.front]
    assert [row["id"] for row in seen[-1]["models"]] == front
    run.store.reopen_stages(["search"])
    code, out, err = hwnas_command("front", copy)
    assert "The front so far, of 27 evaluations of 27\nLatency: predicted by the latency table\n" in out
    assert (code, err) == (0, "")


def test_a_search_that_has_found_nothing_yet_says_so(copy: Path, hwnas_command: Command) -> None:
    run = load_run(copy, {"search.calibration_images": 64})  # other accuracies: none of them is known
    run.store.reopen_stages(["search", "export", "verify", "report"])
    run.store.forget_search("search")

    def stopped(archs: object) -> None:
        raise KeyboardInterrupt

    run.__dict__["judge"] = stopped
    with pytest.raises(KeyboardInterrupt):
        run.make(["search"])
    code, _, err = hwnas_command("front", copy)
    assert code == 1
    assert err == f"error: {copy}: the search has found nothing yet that keeps all bounds\n"


def test_one_model_is_the_knee_whatever_the_bounds(copy: Path) -> None:
    """Three models, the middle one far beyond the chord."""
    pareto = read_json(copy / "pareto.json")
    run = load_run(copy)
    three = []
    for arch, accuracy, ms in zip(run.space.sample(3, 0), (10.0, 90.0, 99.0), (1.0, 2.0, 9.0), strict=True):
        entry = {**pareto["models"][0], "id": arch.id, "architecture": arch.values}
        measured = {"latency_ms": ms, "latency_ci_ms": [ms, ms]}
        three.append({**entry, "validation_accuracy": accuracy, "measured": measured})
    write_json(copy / "pareto.json", {**pareto, "models": three})
    rows = choose(run, {})["models"]
    assert [(row["accuracy"], row["knee"]) for row in rows] == [(99.0, False), (90.0, True), (10.0, False)]
    assert [row["knee"] for row in choose(run, {"min_accuracy": 95})["models"]] == [False]
    assert [row["knee"] for row in choose(run, {"max_latency_ms": 5})["models"]] == [True, False]
