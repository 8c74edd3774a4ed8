"""Paths: home folders, and what is no regular file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hwnas
from hwnas.config import load_config
from hwnas.errors import StoreError
from hwnas.export.folder import load_model
from hwnas.export.predict import Predictor
from hwnas.files import expanded
from hwnas.latency.benchmark import read_model
from hwnas.latency.formats import read_ofa, write_ofa
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import load_run, open_run, run_folder
from hwnas.predictors import get_predictor, load_predictor
from hwnas.predictors.bench import read_table
from hwnas.store import Store
from tests.conftest import TINY, write_config
from tests.latency.fakes import small_space
from tests.reliability.make_fixtures import FIXTURES

FIXTURE = FIXTURES / "schema-3"
MODEL = "3589f3ee23ad"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder, with a finished run in it; the working folder is another one."""
    home, here = tmp_path / "home", tmp_path / "here"
    shutil.copytree(FIXTURE, home / "run")
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~", "HOME"),
        ("~/a/b", "HOME/a/b"),
        (Path("~/a"), "HOME/a"),
        ("./~/a", "./~/a"),
        ("a/~/b", "a/~/b"),
        ("~lut.csv", "~lut.csv"),  # an editor's copy, not a user
        ("/a", "/a"),
    ],
)
def test_a_home_folder_is_expanded(path: str | Path, expected: str, home: Path) -> None:
    assert expanded(path) == Path(expected.replace("HOME", str(home)))


def test_an_unknown_home_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=r"~nobody-here/a: the home folder ~nobody-here is not known; write"):
        expanded("~nobody-here/a")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # the user is unknown to the system
    for path in ("~", "~/a"):
        with pytest.raises(StoreError, match=r"home folder ~ is not known; write the whole path, or \./~"):
            expanded(path)


def saved_predictor() -> None:
    rows = np.arange(24.0).reshape(12, 2)
    predictor = get_predictor("ridge")
    predictor.fit(rows, rows[:, 0])
    predictor.save("~/new/predictor.json")
    load_predictor("~/new/predictor.json")


def exported_network() -> None:
    network = hwnas.build(small_space(), small_space().sample(1, 0)[0])
    assert hwnas.export_onnx(network, "~/new/net.onnx", (1, *network.input_shape)).is_file()
    read_model("~/new/net.onnx", {})


def saved_supernet() -> None:
    hwnas.Supernet(small_space()).save("~/new/supernet")
    hwnas.load_supernet("~/new/supernet")


def looked_up() -> None:
    write_ofa(LatencyTable.load("~/run/latency_table.json"), "~/new/lut.yaml")
    assert read_ofa(["~/new"], "d").table == read_ofa(["~/new/lut.yaml"], "d").table


def predicted() -> None:
    Image.new("RGB", (16, 16)).save(expanded("~/image.png"))
    assert Predictor(f"~/run/models/{MODEL}").top("~/image.png", 1)


def csv() -> None:
    expanded("~/rows.csv").write_text("a,ms\n1,2\n2,3\n")
    read_table("~/rows.csv", "ms")


def images() -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = expanded("~/images") / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "0.png")
    assert len(hwnas.load_dataset("imagefolder", path="~/images", size=8)) == 2


def run_of_a_folder() -> None:
    with closing(load_run("~/run")) as run:
        assert run.directory == expanded("~/run")


USES: dict[str, Callable[[], object]] = {
    "Store": lambda: Store("~/new/run.db").close(),
    "table": lambda: LatencyTable.load("~/run/latency_table.json").save("~/new/table.json"),
    "look-up table": looked_up,
    "predictor": saved_predictor,
    "ONNX": exported_network,
    "supernet": saved_supernet,
    "supernet of a run": lambda: hwnas.load_supernet("~/run"),
    "model": lambda: load_model(f"~/run/models/{MODEL}"),
    "predict": predicted,
    "CSV": csv,
    "images": images,
    "run": run_of_a_folder,
    "config": lambda: load_config("~/run/config.yaml"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_path_may_begin_with_the_home_folder(use: Callable[[], object], home: Path) -> None:
    use()
    assert list(Path().iterdir()) == []  # no folder called ~


def test_paths_of_an_experiment_are_expanded(home: Path) -> None:
    """The run's config.yaml then means the same in every working folder."""
    changes = {
        "data": {"name": "imagefolder", "path": "~/images", "size": 16},
        "latency": {**TINY["latency"], "table": "~/run/a.json", "further_tables": {"b": "~/run/b.json"}},
        "training": {**TINY["training"], "teacher": "~/run"},
    }
    with closing(open_run(write_config(home), run_dir="~/runs/new", overrides=changes)) as run:
        assert run.directory == home / "runs" / "new"
        assert run.config.data.parameters["path"] == str(home / "images")
        assert run.config.latency.table == str(home / "run" / "a.json")
        assert run.config.latency.further_tables == {"b": str(home / "run" / "b.json")}
        assert run.config.training.teacher == str(home / "run")
    assert run_folder("~/x") == home / "x"
    assert list(Path().iterdir()) == []
