"""What does not belong together is refused with what differs; what an older hwnas wrote is still read."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import hwnas
from hwnas.errors import HwnasError, SpaceError, TableError
from hwnas.latency.devices import get_device
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import load_run, run_for_device
from hwnas.predictors import load_predictor
from hwnas.store import Store, parse_json, read_bytes, sealed, write_json
from tests.conftest import Command, write_config
from tests.reliability.make_fixtures import FIXTURES, SMALL, said

KEPT = sorted(path.name for path in FIXTURES.iterdir())
FIXTURE = FIXTURES / KEPT[-1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the newest fixture."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "run"))


@pytest.mark.parametrize("name", KEPT)
def test_what_was_written_once_is_read_for_ever(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(FIXTURES / name, tmp_path / "run"))
    expected = json.loads((copy / "said.json").read_text())
    for _ in range(2):  # the second time, a store of an older schema is of today's
        found = said(copy)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if key == "predictor":  # fitted again, perhaps on another kind of processor
                assert found[key] == pytest.approx(value, abs=0.02), key
            elif key == "table":
                assert found[key] == pytest.approx(value, rel=1e-9), key
            else:
                assert found[key] == value, key
        with closing(Store(copy / "run.db")) as store:
            store.forget_failures("accuracy", "none", [])  # the first write brings the store up to date
    told = [r.getMessage() for r in caplog.records if "was of schema" in r.getMessage()]
    assert len(told) == (name == "schema-2")
    assert all("its rows are taken as they are, and checked from now on" in line for line in told)


def test_an_older_run_goes_on(tmp_path: Path, hwnas_command: Command) -> None:
    copy = Path(shutil.copytree(FIXTURES / "schema-2", tmp_path / "run"))
    code, out, _ = hwnas_command("search", copy, "--evaluations", "+2", "--json")
    assert code == 0
    assert json.loads(out)["evaluations"] == 14


# ---- newer schemas --------------------------------------------------------------------------------


def of_schema(file: Path, schema: int) -> None:
    """A JSON artefact as a newer hwnas might have sealed it."""
    file.write_text(json.dumps(sealed({**parse_json(file, read_bytes(file)), "schema": schema})))


NEWER: dict[str, Callable[[Path], Any]] = {
    "latency_table.json": lambda run: LatencyTable.load(run / "latency_table.json"),
    "predictor.json": lambda run: load_predictor(run / "predictor.json"),
    "supernet/supernet.json": hwnas.load_supernet,
    "models/ID/model.json": lambda run: hwnas.load_model(min((run / "models").iterdir())),
    "pareto.json": lambda run: load_run(run).models,
}


@pytest.mark.parametrize("name", NEWER)
def test_a_newer_schema_is_refused_with_both(name: str, copy: Path) -> None:
    file = copy / name.replace("ID", min((copy / "models").iterdir()).name)
    of_schema(file, 99)
    with pytest.raises(HwnasError, match=rf"{file.name} has schema 99, this hwnas reads \d") as refused:
        NEWER[name](copy)
    assert "\n" not in str(refused.value)


def test_a_run_of_a_newer_hwnas_is_refused(copy: Path, hwnas_command: Command) -> None:
    with closing(sqlite3.connect(copy / "run.db")) as db:
        db.execute("PRAGMA user_version=99")
    code, _, err = hwnas_command("report", copy)
    assert code == 1
    assert err == f"error: {copy}/run.db has schema 99, this hwnas reads up to 3; use a newer hwnas\n"
    with (copy / "config.yaml").open("a") as file:
        file.write("quantum: true\n")
    code, _, err = hwnas_command("report", copy)
    assert code == 1
    assert "config.yaml: quantum: unknown key" in err


# ---- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "device",
            {"name": "Pi 5", "cpu": "A76"},
            r"device name is 'Pi 5', asked for .*; device cpu is 'A76'",
        ),
        ("runtime", {"name": "openvino"}, r"runtime name is 'openvino', asked for 'onnxruntime'"),
        ("runtime", {"version": "1.0"}, r"runtime version is '1\.0', asked for"),
        ("runtime", {"threads": 4}, r"runtime threads is 4, asked for 1"),
        ("runtime", {"precisions": ["int8"]}, r"precisions are \['int8'\], asked for 'fp32'"),
    ],
)
def test_a_table_of_something_else_says_what(
    part: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    identity = get_device("onnxruntime", 1).identity
    whole = LatencyTable.load(FIXTURE / "latency_table.json")
    runtime = {**identity.runtime, "precisions": ["fp32"], "batch_size": 1}
    fitting = dataclasses.replace(whole, device=identity.device, runtime=runtime)
    fitting.save(tmp_path / "table.json")
    LatencyTable.load(tmp_path / "table.json", identity, "fp32")
    other = dataclasses.replace(fitting, **{part: {**getattr(fitting, part), **changes}})
    other.save(tmp_path / "table.json")
    with pytest.raises(TableError, match=message):
        LatencyTable.load(tmp_path / "table.json", identity, "fp32")
    assert LatencyTable.load(tmp_path / "table.json", identity, "fp32", force=True) == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, "it is of batch_size 4, latency.batch_size is 1"),
        ({"threads": 3}, "it is of threads 3, latency.threads is 1"),
        ({"name": "openvino"}, "it is of device openvino, latency.device is onnxruntime"),
        ({"precisions": ["int8"]}, "it is of precision int8, models are of fp32"),
    ],
)
def test_an_experiment_refuses_a_table_of_something_else(
    changes: dict[str, Any], message: str, tmp_path: Path, hwnas_command: Command
) -> None:
    table = LatencyTable.load(FIXTURE / "latency_table.json")
    file = tmp_path / "table.json"
    dataclasses.replace(table, runtime={**table.runtime, **changes}).save(file)
    config = write_config(tmp_path, **{**SMALL, "latency": {"table": str(file)}})
    code, _, err = hwnas_command("profile", config, "--run-dir", tmp_path / "run", "--json")
    assert code == 1
    assert err.splitlines()[-1] == (
        f"error: {file} does not fit the experiment: {message}. Set that to the table's, or profile"
    )


def test_a_table_of_another_space_names_what_it_lacks(tmp_path: Path, hwnas_command: Command) -> None:
    table = {"latency": {"table": str(FIXTURE / "latency_table.json")}}
    config = write_config(tmp_path, **{**SMALL, **table, "space": {**SMALL["space"], "resolutions": [16]}})
    code, _, err = hwnas_command("run", config, "--run-dir", tmp_path / "run")
    assert code == 1
    assert "the table has no operator conv-in:16x16x1-out:8x8x8" in err
    assert "profile their space on this device" in err


def test_another_device_goes_on_when_it_gets_the_right_table(
    copy: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    whole = LatencyTable.load(copy / "latency_table.json")
    part = dict(list(whole.operators.items())[:3])
    dataclasses.replace(whole, operators=part).save(tmp_path / "wrong.json")
    arguments = ["search", copy, "--run-dir", tmp_path / "board", "--table"]
    code, _, err = hwnas_command(*arguments, tmp_path / "wrong.json")
    assert code == 1
    assert "the table has no operator" in err
    code, _, err = hwnas_command(*arguments, copy / "latency_table.json")
    assert code == 0, err


def test_another_device_takes_threads_and_runtime_from_its_table(copy: Path, tmp_path: Path) -> None:
    table = LatencyTable.load(copy / "latency_table.json")
    runtime = {**table.runtime, "name": "openvino", "threads": 4}
    dataclasses.replace(table, runtime=runtime).save(tmp_path / "board.json")
    with closing(load_run(copy)) as run:
        board = run_for_device(run, tmp_path / "board.json", tmp_path / "board")
    with closing(board):
        board.make(["profile"])
        assert (board.config.latency.device, board.config.latency.threads) == ("openvino", 4)


# ---- spaces ---------------------------------------------------------------------------------------


def test_a_supernet_of_another_space_is_refused(copy: Path, tmp_path: Path, hwnas_command: Command) -> None:
    net = hwnas.load_supernet(copy)
    other = hwnas.get_space("mobilenetv3", resolutions=(32,)).sample(1, rng=0)[0]
    net.has_statistics = True
    with pytest.raises(SpaceError, match="space mobilenetv3-"):
        net(torch.zeros(1, 1, 12, 12), other)
    code, _, err = hwnas_command("search", copy, "--set", "space.resolutions=[16]")
    assert code == 1
    assert "was made with other inputs: space." in err
    definition = parse_json(copy, read_bytes(copy / "supernet" / "supernet.json"))
    definition["space"]["resolutions"] = [16]
    write_json(copy / "supernet" / "supernet.json", definition)
    code, _, err = hwnas_command("search", copy, "--restart")
    assert code == 1
    assert "supernet.json was changed since train made it" in err
