"""Searching without a table of operators: latency that is learnt, and latency that is measured."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import hwnas
from hwnas.cli import main
from hwnas.config import parse_config
from hwnas.errors import ConfigError, DeviceError, TableError
from hwnas.latency.predictor import LatencyPredictor
from hwnas.pipeline import Run, load_run
from hwnas.store import file_digest, read_json, write_json
from tests.conftest import TINY


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def run_with(copy: Path, source: str, **latency: object) -> Run:
    overrides = {"latency.source": source, "latency.predictor_networks": 16, "search.evaluations": 8}
    overrides |= {f"latency.{name}": value for name, value in latency.items()}
    return hwnas.run(copy / "config.yaml", run_dir=copy, overrides=overrides, restart="profile")


def test_latency_from_a_predictor(copy: Path) -> None:
    run = run_with(copy, "predictor")
    predictor = LatencyPredictor.load(copy / "latency_predictor.json")
    assert len(predictor.networks) == 16
    archs = [e.architecture for e in run.searched.evaluations]
    np.testing.assert_array_equal(
        predictor.latency_ms(archs), [e.metrics["latency_ms"] for e in run.searched.evaluations]
    )
    assert {m for (m,) in rows(run)} == {"accuracy"}
    assert "Learnt from 16 whole networks" in (copy / "report.html").read_text()
    before = (copy / "latency_predictor.json").read_bytes()
    hwnas.run(copy / "config.yaml", run_dir=copy)
    assert (copy / "latency_predictor.json").read_bytes() == before


def test_latency_that_is_measured(copy: Path) -> None:
    run = run_with(copy, "measured", budgets_ms=[1000.0])
    stored = run.store.measurements("latency_ms", run.latency.source)
    for evaluation in run.searched.evaluations:
        assert stored[evaluation.architecture.id].value == evaluation.metrics["latency_ms"] > 0
    assert len(run.searched.evaluations) == 8
    assert "Each evaluated network was built and timed" in (copy / "report.html").read_text()
    assert run.summary()["budgets"][0]["model"] is not None
    # What is measured stays: the same search asks the device for nothing.
    again = load_run(copy)
    again.make(["search"], restart="search")
    assert again.store.measurements("latency_ms", again.latency.source) == stored


@pytest.mark.parametrize("source", ["table", "predictor", "measured"])
def test_a_latency_of_batches(copy: Path, source: str) -> None:
    run = run_with(copy, source, batch_size=3)
    assert run.latency.runtime["batch_size"] == 3
    model = next((copy / "models").glob(f"{run.front.evaluations[0].architecture.id}/model.onnx"))
    assert onnx.load(model).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert "batch 3" in (model.parent / "README.md").read_text()


def test_a_table_of_other_batches_is_refused(copy: Path) -> None:
    table = copy / "latency_table.json"
    with pytest.raises(TableError, match=r"of batch_size 1, latency.batch_size is 3. Set that to the table"):
        run_with(copy, "table", table=str(table), batch_size=3)


def test_measuring_on_another_device_is_refused_before_anything_is_asked(copy: Path) -> None:
    run = load_run(copy, {"latency.source": "measured"})
    run.make(["profile"], restart="profile")
    path = copy / "latency_device.json"
    data = read_json(path)
    write_json(path, {**data, "device": {**data["device"], "name": "Far Board"}})
    stage = run.store.stage("profile")
    assert stage is not None
    digest = file_digest(path)
    outputs = {**stage["outputs"], "table": digest, "files": {path.name: digest}}
    run.store.finish_stage("profile", stage["inputs"], outputs)
    run = load_run(copy)
    known = rows(run)
    with pytest.raises(DeviceError, match="the latency is of Far Board"):
        run.make(["search"])
    assert rows(run) == known


def test_a_table_and_another_source_exclude_each_other() -> None:
    latency = {**TINY["latency"], "table": "table.json", "source": "measured"}
    with pytest.raises(ConfigError, match="table and source: measured exclude each other"):
        parse_config({**TINY, "latency": latency})


def test_the_profile_command(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["profile", str(copy / "config.yaml"), "--run-dir", str(copy)]
    for source, shown in (
        ("predictor", "predictor from 12 networks"),
        ("measured", "each network is measured"),
    ):
        settings = ["--set", f"latency.source={source}", "--set", "latency.predictor_networks=12"]
        monkeypatch.setattr(sys, "argv", ["hwnas", *arguments, *settings, "--restart", "profile"])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert shown in capsys.readouterr().out
        monkeypatch.setattr(sys, "argv", ["hwnas", *arguments, *settings, "--json"])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert json.loads(capsys.readouterr().out)["schema"] == 1


def rows(run: Run) -> list[tuple[str]]:
    """The metric of each measurement."""
    return run.store._db.execute("SELECT metric FROM measurements ORDER BY 1").fetchall()
