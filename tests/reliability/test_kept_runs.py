"""Commands continue from the run folders and the results of a bundle that earlier versions of hwnas wrote."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import hwnas
from hwnas.latency.devices import DEVICES
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import load_run
from tests.conftest import Command
from tests.latency.fakes import ComputedRuntime
from tests.reliability.make_runs import RUNS

VERSIONS = sorted(path.name for path in RUNS.iterdir())


@pytest.fixture(params=VERSIONS)
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders of one version; models are timed by a device whose latencies are computed."""
    monkeypatch.setitem(DEVICES, "onnxruntime", ComputedRuntime)
    return Path(shutil.copytree(RUNS / request.param, tmp_path / "kept"))


def evaluated(run: Path) -> list[tuple[Any, ...]]:
    """Evaluated architectures and their metrics, in the order in which the search asked for them."""
    with closing(load_run(run)) as opened:
        return [
            (e.architecture.id, e.status, e.metrics["accuracy"], e.metrics["latency_ms"])
            for e in opened.searched_so_far.evaluations
        ]


@pytest.mark.parametrize("name", ["precisions", "learnt"])
def test_a_kept_run_is_shown_reported_verified_and_extended(
    kept: Path, name: str, hwnas_command: Command
) -> None:
    run = kept / name
    models = json.loads((run / "pareto.json").read_text())["models"]
    before = evaluated(run)
    code, out, _ = hwnas_command("front", run, "--json")
    assert code == 0
    assert {row["id"] for row in json.loads(out)["models"]} == {model["id"] for model in models}
    code, _, _ = hwnas_command("report", run, "--restart")  # the report itself was not kept
    assert code == 0
    assert (run / "report.html").is_file()
    code, out, _ = hwnas_command("verify", run, "--restart", "--json")
    assert code == 0
    assert {model["status"] for model in json.loads(out)["models"]} == {"verified"}
    code, out, _ = hwnas_command("search", run, "--evaluations", "+10", "--json")
    assert (code, json.loads(out)["evaluations"]) == (0, 22)
    assert evaluated(run)[:12] == before
    code, _, _ = hwnas_command("export", run)
    assert code == 0


def test_a_kept_search_for_a_second_device_is_extended(kept: Path, hwnas_command: Command) -> None:
    before = evaluated(kept / "board")
    code, out, _ = hwnas_command("search", kept / "board", "--evaluations", "+10", "--json")
    assert (code, json.loads(out)["evaluations"]) == (0, 22)
    assert evaluated(kept / "board")[:12] == before


def test_kept_models_and_supernets_are_loaded(kept: Path) -> None:
    for name in ("precisions", "learnt"):
        with closing(sqlite3.connect(kept / name / "run.db")) as db:
            outputs = json.loads(db.execute("SELECT outputs FROM stages WHERE name = 'train'").fetchone()[0])
        assert hwnas.load_supernet(kept / name).checksum == outputs["checksum"]
        for entry in json.loads((kept / name / "pareto.json").read_text())["models"]:
            hwnas.load_model(kept / name / "models" / entry["id"])


def test_kept_results_of_a_bundle_make_a_table(kept: Path, tmp_path: Path, hwnas_command: Command) -> None:
    table = tmp_path / "table.json"
    code, _, _ = hwnas_command("table", "build", kept / "results.json", "--allow-noisy", "-o", table)
    assert code == 0
    space = hwnas.load_supernet(kept / "learnt").space
    archs = space.sample(5, rng=0)
    assert (LatencyTable.load(table).latency_ms(archs) > 0).all()
    assert (LatencyTable.load(kept / "table.json").latency_ms(archs) > 0).all()
