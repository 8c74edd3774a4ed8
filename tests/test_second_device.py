"""A second device: another table, the same supernet and accuracies, a run folder of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

import hwnas
from hwnas.cli import main
from hwnas.errors import ChecksumError, ConfigError, DeviceError, StoreError
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import Run, load_run, run_for_device


@pytest.fixture
def first(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "first"))


def scaled_table(run: Path, path: Path, device: str | None = None) -> Path:
    """The table of a run, with MBConv dearer beside the rest, which changes what is best."""
    table = LatencyTable.load(run / "latency_table.json")
    operators = {
        key: dataclasses.replace(entry, ms=entry.ms * (9 if key.startswith("mbconv") else 3))
        for key, entry in table.operators.items()
    }
    named = table.device if device is None else {"name": device, "cpu": device, "cores": 4}
    dataclasses.replace(table, operators=operators, device=named).save(path)
    return path


def searched(first: Path, tmp_path: Path, device: str | None = None) -> Run:
    table = scaled_table(first, tmp_path / "other.json", device)
    job = run_for_device(load_run(first), table, tmp_path / "second")
    job.make(["profile", "search"])
    return load_run(tmp_path / "second")


def test_it_searches_its_own_table_with_the_accuracies_that_are_known(first: Path, tmp_path: Path) -> None:
    before = load_run(first)
    known = before.store.measurements("accuracy", before.accuracy_source)
    job = searched(first, tmp_path)
    found = {e.architecture.id: e.metrics["accuracy"] for e in job.searched.evaluations}
    again = found.keys() & known.keys()
    assert again
    assert all(found[name] == known[name].value for name in again)
    asked = found.keys() | {e.architecture.id for e in job.search("random-baseline", "random").evaluations}
    assert job.accuracies == (len(known), len(asked - known.keys()))
    archs = [e.architecture for e in job.searched.evaluations]
    expected = LatencyTable.load(tmp_path / "other.json").latency_ms(archs)
    assert [e.metrics["latency_ms"] for e in job.searched.evaluations] == expected.tolist()
    assert not (job.directory / "supernet" / "model.safetensors").exists()
    net, original = hwnas.load_supernet(job.directory), hwnas.load_supernet(first)
    assert net.checksum == original.checksum == job.outputs("train")["checksum"]


def test_the_whole_job_then_works_in_its_folder(first: Path, tmp_path: Path) -> None:
    job = searched(first, tmp_path)
    run = hwnas.run(job.directory / "config.yaml", run_dir=job.directory)
    assert (run.directory / "report.html").is_file()
    assert {model["status"] for model in run.models} <= {"verified", "unstable", "missed"}
    # What is done before is not done again, and not evaluated again.
    again = run_for_device(load_run(first), tmp_path / "other.json", job.directory)
    counts = again.accuracies
    again.make(["search"])
    assert again.accuracies == counts


def test_the_cores_chosen_on_one_device_are_not_those_of_another(first: Path, tmp_path: Path) -> None:
    run = load_run(first, {"latency.cores": "0"})
    job = run_for_device(run, scaled_table(first, tmp_path / "other.json"), tmp_path / "second")
    assert job.config.latency.cores is None


def test_another_device_s_table_is_not_verified_here(first: Path, tmp_path: Path) -> None:
    job = searched(first, tmp_path, device="Far Board")
    job.make(["export"])
    here = load_run(first).table.device["name"]
    with pytest.raises(DeviceError) as caught:
        job.make(["verify"])
    assert "the latency is of Far Board" in str(caught.value)
    assert here in str(caught.value)


def test_a_supernet_that_is_gone_or_changed_is_said(first: Path, tmp_path: Path) -> None:
    job = searched(first, tmp_path)
    reference = job.directory / "supernet" / "supernet.json"
    shutil.move(first, tmp_path / "moved")
    with pytest.raises(StoreError, match=rf"is that of {first}/supernet, which is gone; put it back"):
        hwnas.load_supernet(job.directory)
    shutil.move(tmp_path / "moved", first)
    net = hwnas.load_supernet(first)
    next(net.parameters()).data.add_(1.0)
    net.save(first / "supernet")
    with pytest.raises(ChecksumError, match=r"no longer the one that .* refers to"):
        hwnas.load_supernet(job.directory)
    text = reference.read_text()
    reference.write_text(text.replace("first", "tampered"))
    with pytest.raises(ChecksumError, match="was changed after it was written"):
        hwnas.load_supernet(job.directory)


def test_folders_that_cannot_be_are_refused(first: Path, tmp_path: Path) -> None:
    table = scaled_table(first, tmp_path / "other.json")
    with pytest.raises(ConfigError, match="is the run itself"):
        run_for_device(load_run(first), table, first)
    job = run_for_device(load_run(first), table, tmp_path / "second")
    stage = job.store.stage("train")
    assert stage is not None
    job.store.finish_stage("train", stage["inputs"], {**stage["outputs"], "checksum": "another"})
    with pytest.raises(StoreError, match="refers to another supernet than that of"):
        run_for_device(load_run(first), table, tmp_path / "second")
    load_run(first).store.reopen_stages(["train"])
    with pytest.raises(StoreError, match="has no supernet yet; run: hwnas train"):
        run_for_device(load_run(first), table, tmp_path / "third")


def test_the_command(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = scaled_table(first, tmp_path / "other.json")
    arguments = ["search", str(first), "--table", str(table), "--run-dir", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", ["hwnas", *arguments, "--json"])
    main_exits(0)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["run"] == str(tmp_path / "new")
    assert "evaluated anew" in captured.err
    monkeypatch.setattr(sys, "argv", ["hwnas", *arguments[:4]])
    main_exits(1)
    assert "--table and --run-dir go together" in capsys.readouterr().err


def main_exits(code: int) -> None:
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code
