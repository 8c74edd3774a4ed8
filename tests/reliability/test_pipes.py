"""A named pipe in place of a file is refused by name: nobody waits for what nobody writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import hwnas
from hwnas.errors import DataError, HwnasError, StoreError
from hwnas.export.predict import Predictor
from hwnas.images import fitted
from hwnas.latency import campaign
from hwnas.latency.benchmark import read_model
from hwnas.latency.bundle import build_table
from hwnas.latency.table import LatencyTable
from hwnas.predictors import load_predictor
from hwnas.store import Store, read_json
from hwnas.training import checkpoint
from tests.conftest import Command
from tests.reliability.make_fixtures import FIXTURES
from tests.reliability.test_hostile import one_tensor_elsewhere
from tests.reliability.test_rubbish import bounded

FIXTURE = FIXTURES / "schema-3"


def in_place_of(file: Path) -> Path:
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(file)
    return file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("pareto.json", "front"),
        ("latency_table.json", "search --evaluations +2"),
        ("config.yaml", "front"),
        ("run.db", "front"),
        ("run.db-wal", "front"),
        ("hwnas.log", "report --restart"),
        (".lock", "report --restart"),
        ("supernet/checkpoint.safetensors", "search --evaluations +2"),
        ("latency_table.unfinished/pass-0000.safetensors", "search --evaluations +2"),
    ],
)
def test_a_pipe_in_a_runs_folder(name: str, command: str, run: Path, hwnas_command: Command) -> None:
    in_place_of(run / name)
    command, *options = command.split()
    with bounded():
        code, out, err = hwnas_command(command, run, *options)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert str(run / name) in err or "has no config.yaml" in err


READERS: dict[str, Callable[[Path], object]] = {
    "table": LatencyTable.load,
    "predictor": load_predictor,
    "results": build_table,
    "artefact": read_json,
    "store": Store,
    "image": lambda file: fitted(file, 8, 8),
    "benchmark": lambda file: read_model(file, {}),
    "predict": Predictor,
    "checkpoint": checkpoint.note_divergence,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_pipe_in_place_of_any_file(read: Callable[[Path], object], tmp_path: Path) -> None:
    file = in_place_of(tmp_path / "file")
    with (
        bounded(),
        pytest.raises(HwnasError, match=r"a pipe, a socket or a device|there is no model") as said,
    ):
        read(file)
    assert str(file) in str(said.value)


def test_a_pipe_in_place_of_a_pass_is_measured_again(tmp_path: Path) -> None:
    file = in_place_of(tmp_path / "pass-0000.safetensors")
    with bounded():
        assert campaign._Checkpoint(tmp_path, "key").load(1) == []
    assert not file.exists()


def test_a_pipe_in_place_of_a_models_weights(tmp_path: Path) -> None:
    file = one_tensor_elsewhere(tmp_path / "model.onnx", "own.bin")
    in_place_of(tmp_path / "own.bin")
    for read in (lambda: read_model(file, {}), lambda: Predictor(file)):
        with bounded(), pytest.raises(StoreError, match=r"own\.bin.* which is not a file in the model's own"):
            read()


def test_pipes_among_the_files_of_a_dataset_are_passed_over(tmp_path: Path) -> None:
    in_place_of(tmp_path / "train-0.parquet")
    with bounded(), pytest.raises(DataError, match="has no train images"):
        hwnas.load_dataset("cifar10", path=tmp_path)
    for name in ("cat", "dog"):
        in_place_of(tmp_path / "train" / name / "0.png")
    with bounded(), pytest.raises(DataError, match="cat is empty"):
        hwnas.load_dataset("imagefolder", path=tmp_path, size=8)
