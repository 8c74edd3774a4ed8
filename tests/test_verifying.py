"""Verification on another device, and on the run's own by its address."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hwnas.cli import main
from hwnas.errors import StoreError
from hwnas.latency.devices import DEVICES
from hwnas.pipeline import load_run, own_device
from hwnas.pipeline.stages import STAGES
from hwnas.store import read_json
from hwnas.verifying import device_of, verify_elsewhere
from tests.latency.devices.board import running_board
from tests.latency.fakes import FakeDevice

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["hwnas", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_what_another_device_measures_is_added_under_its_name(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DEVICES, "fake", lambda threads: FakeDevice())
    before = {model["id"]: model for model in load_run(copy).models}
    assert command(monkeypatch, "verify", copy, "--device", "fake", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["measured_on"]["device"]["name"] == "fake"
    run = load_run(copy)
    assert [model["id"] for model in run.models] == list(before)
    for model in run.models:
        own = before[model["id"]]
        found = next(row for row in said["models"] if row["id"] == model["id"])
        assert model["measured"].pop("latency_ms@fake") == found["latency_ms"]
        assert model["measured"].pop("latency_ci_ms@fake") == found["latency_ci_ms"]
        assert model["verifications"].pop()["device"]["name"] == "fake"
        assert model == own
    # The run stands, but for its report, which is to be made anew.
    assert command(monkeypatch, "verify", copy) == 0
    assert "to measure again: hwnas verify" in capsys.readouterr().err
    assert run.store.stage("report") is None
    assert command(monkeypatch, "report", copy) == 0
    card = (copy / "models" / run.models[0]["id"] / "README.md").read_text()
    assert "| Measured latency, fake |" in card
    # Measured there again, slower by a half: the device has changed, the run's own latency has not.
    monkeypatch.setitem(DEVICES, "fake", lambda threads: FakeDevice(disturb=lambda times: times * 3 // 2))
    assert command(monkeypatch, "verify", copy, "--device", "fake") == 0
    assert "+50.0 %" in capsys.readouterr().out


def test_a_run_that_is_not_verified_yet_may_be_measured_elsewhere(copy: Path) -> None:
    run = load_run(copy)
    run.store.reopen_stages(["verify", "report"])
    found = verify_elsewhere(run, "fake", FakeDevice())
    assert [row["id"] for row in found["models"]] == run.outputs("search")["front"]
    for row in found["models"]:
        entry = read_json(copy / "models" / row["id"] / "architecture.json")
        assert entry["measured"]["latency_ms@fake"] == row["latency_ms"]
    run.make(["verify"])
    assert all("latency_ms@fake" in model["measured"] for model in run.models)
    run.store.reopen_stages(["export"])
    with pytest.raises(StoreError, match="has no exported models yet; run: hwnas export"):
        verify_elsewhere(run, "fake", FakeDevice())


def test_a_board_is_named_as_it_names_itself(copy: Path) -> None:
    board = FakeDevice(name="Small Board")
    found = verify_elsewhere(load_run(copy), "ssh://pi@10.0.0.7", board)
    assert found["measured_on"]["name"] == "Small Board"
    entry: dict[str, Any] = load_run(copy).models[0]
    assert "latency_ms@Small Board" in entry["measured"]
    assert "10.0.0.7" not in json.dumps(entry)


def test_the_runs_own_device_is_measured_as_such(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(copy)
    assert device_of(run, "onnxruntime")[1]
    assert not device_of(run, "torch")[1]
    assert command(monkeypatch, "verify", copy, "--device", "onnxruntime", "--restart") == 0
    models = load_run(copy).models
    assert all("@" not in key for model in models for key in model["measured"])
    assert all(len(model["verifications"]) == 2 for model in models)


def test_the_runs_own_device_by_its_address(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board is this machine, so what is measured over ssh is the run's own latency."""
    (tmp_path / "board").mkdir()
    with running_board(tmp_path / "board", monkeypatch) as board:
        address = f"ssh://{board.address()}"
        assert command(monkeypatch, "verify", copy, "--device", address, "--restart") == 0
        assert list((board.cache / "pieces").iterdir())
    for model in load_run(copy).models:
        assert model["measured"].keys() == {"latency_ms", "latency_ci_ms"}
        own, there = model["verifications"]
        assert (there["device"], there["runtime"]) == (own["device"], own["runtime"])
        assert there["passes"] >= 6
        assert there["latency_ms"] == model["measured"]["latency_ms"]


def test_what_is_added_in_part_is_verified_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hwnas.pipeline.verify._write_front", killed)
    run = load_run(copy)
    with pytest.raises(KeyboardInterrupt):
        verify_elsewhere(run, "fake", FakeDevice())
    assert run.store.stage("verify") is None
    monkeypatch.undo()
    run.make(["verify", "report"])
    run.close()


def test_models_are_verified_on_the_chosen_cores(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The profile, and the configuration of the run, stay as they are."""
    core = max(os.sched_getaffinity(0))
    assert command(monkeypatch, "verify", copy, "--cores", core, "--restart") in (0, 3)
    run = load_run(copy)
    assert {tuple(model["verifications"][-1]["cores"]) for model in run.models} == {(core,)}
    assert run.config.latency.cores is None
    capsys.readouterr()
    assert command(monkeypatch, "verify", copy) in (0, 3)
    assert "Verified before" in capsys.readouterr().err
    assert command(monkeypatch, "verify", copy, "--cores", 4000, "--device", "onnxruntime") == 1
    assert "cores are 4000, but this process may use" in capsys.readouterr().err


def test_the_cores_of_the_experiment_are_those_of_its_own_device(copy: Path) -> None:
    core = max(os.sched_getaffinity(0))
    run = load_run(copy, {"latency.cores": str(core)})
    assert own_device(run).cores == (core,)
    assert STAGES["profile"].inputs(run)["cores"] == STAGES["verify"].inputs(run)["cores"] == [core]
    assert STAGES["profile"].inputs(load_run(copy))["cores"] is None
