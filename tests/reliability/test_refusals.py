"""A refused command leaves the folder of the run, and every other file, byte for byte as it was."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from hwnas.errors import HwnasError
from hwnas.latency.devices import DEVICES
from hwnas.pipeline import load_run
from tests.conftest import Command
from tests.latency.fakes import FakeDevice
from tests.reliability.conftest import files_of, make_quick, quick_config
from tests.reliability.make_fixtures import FIXTURES
from tests.test_cli import commands


@pytest.fixture(scope="session")
def finished_photo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run on images in class folders: config.yaml, photos/ and run/."""
    import hwnas

    folder = tmp_path_factory.mktemp("photos")
    for split in ("train", "val", "test"):
        for level, name in ((40, "dark"), (200, "bright")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(20):
                picture = Image.new("RGB", (12, 12), (level + i,) * 3)
                picture.save(folder / "photos" / split / name / f"{i}.png")
    config = yaml.safe_load(quick_config(folder, training={"batch_size": 16}).read_text())
    config["data"] = {"name": "imagefolder", "path": str(folder / "photos"), "size": 12}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        hwnas.run(folder / "config.yaml", run_dir=folder / "run").close()
    return folder


@pytest.fixture
def photos(
    finished_photo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> Iterator[Path]:
    """A copy of the run and its experiment file in the current folder; the photos stay where they are."""
    shutil.copytree(finished_photo_run / "run", tmp_path / "run")
    shutil.copy(finished_photo_run / "config.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    if (finished_photo_run / "away").exists():
        shutil.move(finished_photo_run / "away", finished_photo_run / "photos")


def without_data(folder: Path) -> None:
    photos = Path(yaml.safe_load((folder / "config.yaml").read_text())["data"]["path"])
    shutil.move(photos, photos.with_name("away"))


def without_device(folder: Path) -> None:
    class Gone(FakeDevice):
        @property
        def identity(self) -> Any:
            raise HwnasError("the device is gone")

    DEVICES["fake"] = lambda threads: Gone()


def without_supernet(folder: Path) -> None:
    (folder / "run" / "supernet" / "model.safetensors").unlink()


def without_table(folder: Path) -> None:
    shutil.copy(folder / "run" / "latency_table.json", folder / "table.json")
    (folder / "table.json").write_text((folder / "table.json").read_text()[:1000])


def unfinished_training(folder: Path) -> None:
    job = load_run(folder / "run")
    job.store.reopen_stages(["train", "search", "export", "verify", "report"])
    job.close()


def nothing(folder: Path) -> None:
    pass


RUN = ["run", "config.yaml", "--run-dir", "FOLDER/run"]
TRAIN = ["train", "config.yaml", "--run-dir", "FOLDER/run"]
PROFILE = ["profile", "config.yaml", "--run-dir", "FOLDER/run"]
NEW = ["config.yaml", "--run-dir", "FOLDER/new"]
OTHER = ["search", "FOLDER/run", "--table", "TABLE", "--run-dir", "FOLDER/new"]
Spoil = Callable[[Path], None]
# A fault, and a command that is refused because of it.
REFUSED: list[tuple[Spoil, list[str]]] = [
    (without_data, [*RUN, "--restart"]),
    (without_data, [*RUN, "--restart", "export"]),
    (without_data, ["run", *NEW]),
    (without_device, [*RUN, "--restart", "profile"]),
    (without_device, [*RUN, "--restart", "verify"]),
    (without_supernet, [*RUN, "--restart", "search"]),
    (nothing, [*RUN, "--set", "training.steps=9"]),
    (nothing, [*RUN, "--set", "search.strategy=lina", "--restart"]),
    (nothing, ["run", *NEW, "--set", "search.strategy=lina"]),
    (nothing, ["run", *NEW, "--set", "search.executor=ray"]),
    (nothing, ["run", *NEW, "--set", "training.batch_size=1000"]),
    (without_table, ["run", *NEW, "--set", "latency.table=table.json"]),
    (without_data, [*PROFILE, "--restart"]),
    (without_device, [*PROFILE, "--restart"]),
    (without_device, ["profile", *NEW]),
    (without_table, [*PROFILE, "--restart", "--set", "latency.table=table.json"]),
    (without_data, ["profile", *NEW, "--bundle", "FOLDER/board.zip"]),
    (without_data, [*TRAIN, "--restart"]),
    (nothing, [*TRAIN, "--restart", "--set", "training.batch_size=1000"]),
    (nothing, [*TRAIN, "--restart", "--set", "training.teacher=nope"]),
    (nothing, [*TRAIN, "--restart", "--set", "latency.budgets_ms=[1.0e-9]"]),
    (unfinished_training, [*TRAIN, "--set", "training.learning_rate=0.05"]),
    (without_data, ["search", "FOLDER/run", "--evaluations", "+4"]),
    (without_data, ["search", "FOLDER/run", "--restart"]),
    (without_supernet, ["search", "FOLDER/run", "--evaluations", "+4"]),
    (nothing, ["search", "FOLDER/run", "--evaluations", "+4", "--seed", "7"]),
    (nothing, ["search", "FOLDER/run", "--evaluations", "+4", "--executor", "ray"]),
    (nothing, ["search", "FOLDER/run", "--restart", "--latency-budget-ms", "1e-9"]),
    (nothing, ["search", "FOLDER/run", "--restart", "--set", "search.constraints={macs: {upper: 1}}"]),
    (without_data, OTHER),
    (without_supernet, OTHER),
    (without_table, OTHER),
    (nothing, [*OTHER, "--set", "search.strategy=lina"]),
    (nothing, [*OTHER, "--latency-budget-ms", "1e-9"]),
    (without_data, ["export", "FOLDER/run", "--restart"]),
    (without_supernet, ["export", "FOLDER/run", "--restart"]),
    (nothing, ["export", "FOLDER/run", "--restart", "--set", "export.openvino=true"]),
    (without_data, ["verify", "FOLDER/run", "--restart"]),
    (without_device, ["verify", "FOLDER/run", "--restart"]),
    (without_data, ["verify", "FOLDER/run", "--device", "other"]),
    (nothing, ["verify", "FOLDER/run", "--device", "nope"]),
    (without_data, ["report", "FOLDER/run", "--restart"]),
    (nothing, ["report", "FOLDER/run", "--restart", "--set", "search.evaluations=9"]),
    (without_data, ["finetune", "FOLDER/run", "--model", "MODEL", "--epochs", "1"]),
    (without_device, ["finetune", "FOLDER/run", "--model", "MODEL", "--epochs", "1"]),
    (nothing, ["finetune", "FOLDER/run", "--model", "nope", "--epochs", "1"]),
    (nothing, ["front", "FOLDER/run", "--max-latency-ms", "1e-9"]),
    (nothing, ["front", "FOLDER/run", "--sort", "beauty"]),
    (nothing, ["predict", "FOLDER/run/models/MODEL", "nope.png"]),
    (nothing, ["benchmark", "nope.onnx", "--device", "fake"]),
    (nothing, ["table", "show", "config.yaml"]),
    (without_table, ["table", "build", "table.json", "-o", "FOLDER/run/latency_table.json"]),
    (without_table, ["table", "validate", "--reseal", "table.json"]),
    (without_table, ["table", "diff", "FOLDER/run/latency_table.json", "table.json"]),
    (
        without_table,
        ["table", "import", "table.json", "--device", "x", "-o", "FOLDER/run/latency_table.json"],
    ),
    (without_table, ["table", "export", "table.json", "-o", "FOLDER/run/latency_table.json"]),
    (nothing, ["bench", "predictor", "nope.csv", "--target", "ms"]),
    (nothing, ["list", "nope"]),
]
NEVER_REFUSED = {"doctor"}


def test_every_command_is_refused_here() -> None:
    tried = {tuple(words[:1]) for _, words in REFUSED} | {tuple(words[:2]) for _, words in REFUSED}
    assert {" ".join(c) for c in commands() if tuple(c) not in tried} == NEVER_REFUSED


@pytest.mark.parametrize(
    ("spoil", "words"), REFUSED, ids=[f"{s.__name__}: {' '.join(w)}" for s, w in REFUSED]
)
def test_a_refused_command_changes_nothing(
    spoil: Spoil, words: list[str], photos: Path, hwnas_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICES, "other", lambda threads: FakeDevice(name="other"))
    for package in ("ray", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    model = load_run(photos / "run").models[0]["id"]
    table = photos / ("table.json" if spoil is without_table else "run/latency_table.json")
    spoil(photos)
    gc.collect()  # closes run.db
    before = files_of(photos)
    named = {"FOLDER": photos, "MODEL": model, "TABLE": table}
    for name, value in named.items():
        words = [word.replace(name, str(value)) for word in words]
    code, _, err = hwnas_command(*words)
    assert code == 1, err
    gc.collect()
    after = files_of(photos)
    assert sorted(after) == sorted(before)
    assert {name for name in before if after[name] != before[name]} == set()


def test_a_refused_command_of_an_older_run_changes_nothing(tmp_path: Path, hwnas_command: Command) -> None:
    copy = Path(shutil.copytree(FIXTURES / "schema-2", tmp_path / "old"))
    before = files_of(copy)
    code, _, err = hwnas_command("search", copy, "--evaluations", "+2", "--seed", "7")
    assert code == 1, err
    gc.collect()
    assert files_of(copy) == before


def test_a_refused_process_leaves_nothing_open(photos: Path) -> None:
    """A process that ends without closing run.db removes the log and shared memory of SQLite."""
    before = files_of(photos)
    without_data(photos)
    words = [sys.executable, "-m", "hwnas", "search", str(photos / "run"), "--evaluations", "+4"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(words, env={"PYTHONPATH": root}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert files_of(photos) == before
