"""The whole job on data of one's own: handed over in Python, and streamed from its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import hwnas
from hwnas.config import Training
from hwnas.errors import DataError, StoreError
from hwnas.export.metadata import input_facts
from hwnas.export.predict import Predictor
from hwnas.pipeline import load_run, open_run
from hwnas.training import checkpoint
from hwnas.training.data import DATASETS, SPLITS, Dataset
from hwnas.training.data.base import Source
from hwnas.training.data.stored import Held, Streamed
from hwnas.training.loop import train
from tests.conftest import TINY, Command, write_config
from tests.training.small_data import tiny_space


def given() -> dict[str, Dataset]:
    """The data of the tiny experiment, through DataLoaders."""
    sizes = {split: TINY["data"][split] for split in SPLITS}
    found = {}
    for split in SPLITS:
        data = hwnas.load_dataset("cluttered-digits", split, TINY["seed"], **sizes)
        loader = DataLoader(TensorDataset(data.images, data.labels), batch_size=64)
        found[split] = hwnas.from_loader(loader, data.classes, data.mean, data.std)
    return found


def test_data_handed_over_in_python_trains_as_data_by_name_does(tmp_path: Path, tiny_run: Path) -> None:
    job = open_run(write_config(tmp_path), run_dir=tmp_path / "run", data=given())
    job.make(("train",))
    trained = job.outputs("train")
    assert trained["checksum"] == load_run(tiny_run).outputs("train")["checksum"]
    again = open_run(write_config(tmp_path), run_dir=tmp_path / "run", data=given())
    again.make(("train",))
    assert again.outputs("train") == trained
    with pytest.raises(DataError, match=r"given in Python; go on there: hwnas\.run\(…, data=…\)"):
        load_run(tmp_path / "run").make(("train",))


def test_every_split_is_wanted(tmp_path: Path) -> None:
    data = given()
    del data["test"]
    with pytest.raises(DataError, match="data has train, validation; give train, validation, test"):
        hwnas.run(write_config(tmp_path), run_dir=tmp_path / "run", data=data)


def test_a_run_on_streamed_images(tmp_path: Path) -> None:
    """Training and test images are more than the memory that they may take; validation is held out."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for brightness, name in ((0, "dark"), (120, "bright")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(90):
                pixels = rng.integers(0, 100, (20, 24, 3)) + brightness
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    data = {"name": "imagefolder", "path": str(tmp_path / "photos"), "size": 50, "memory_mb": 1}
    config = write_config(
        tmp_path, training={"steps": 20}, search={"evaluations": 4, "random_baseline": False}
    )
    run = hwnas.run(config, run_dir=tmp_path / "run", overrides={"data": data})
    assert isinstance(run.data("train").stored, Streamed)
    assert isinstance(run.data("test").stored, Streamed)
    assert not isinstance(run.data("validation").stored, Streamed)
    assert max(model["test_accuracy"] for model in run.models) > 60
    folder = run.directory / "models" / run.models[0]["id"]
    assert Predictor(folder).preparation.reader == "full"
    assert "JPEG decoded at full size" in (folder / "README.md").read_text()
    assert json.loads((folder / "model.json").read_text())["input"]["reader"] == "full"


def loader_of(data: Dataset) -> DataLoader[Any]:
    return DataLoader(TensorDataset(data.images, data.labels), batch_size=64)


def test_a_loader_in_place_of_a_dataset_is_refused_by_run_and_train(tmp_path: Path) -> None:
    data = given()
    loader = loader_of(data["test"])
    expected = r"the test data is a DataLoader, .*hwnas\.from_loader\(loader, classes\)"
    with pytest.raises(DataError, match=expected):
        open_run(write_config(tmp_path), run_dir=tmp_path / "run", data={**data, "test": loader})
    net = hwnas.Supernet(tiny_space())
    with pytest.raises(DataError, match="the validation data is a DataLoader"):
        train(net, data["train"], loader, Training(), tmp_path / "supernet")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_other_channels_is_refused_before_any_work(tmp_path: Path, split: str) -> None:
    data = given()
    grey = data[split]
    loader = DataLoader(TensorDataset(grey.images.expand(-1, 3, -1, -1), grey.labels), batch_size=64)
    data[split] = hwnas.from_loader(loader, grey.classes)
    expected = f"the {split} images have 3 channels, the train images 1 channel; convert"
    with pytest.raises(DataError, match=expected):
        open_run(write_config(tmp_path), run_dir=tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()
    if split == "validation":
        with pytest.raises(DataError, match=expected):
            train(hwnas.Supernet(tiny_space()), data["train"], data[split], Training(), tmp_path / "supernet")


def test_a_split_of_a_registered_dataset_that_differs_in_channels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(split: str, seed: int) -> Source:
        channels = 3 if split == "test" else 1
        images = torch.zeros(4, channels, 8, 8, dtype=torch.uint8)
        one = (0.5,) * channels
        return Source(lambda _: Held(images), np.array([0, 1, 0, 1]), ("a", "b"), one, one, "noise")

    monkeypatch.setitem(DATASETS, "odd", odd)
    job = open_run(write_config(tmp_path), run_dir=tmp_path / "run", overrides={"data": {"name": "odd"}})
    job.data("train")
    with pytest.raises(DataError, match="the test images have 3 channels, the train images 1 channel"):
        job.data("test")


def jpeg_folder(folder: Path, n: int = 12, size: tuple[int, int] = (80, 60)) -> Path:
    """Noisy photos of two classes, which the old reader decodes at a fraction of their size."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i:02}.jpg", quality=80)
    return folder


def photo_config(folder: Path, photos: Path, steps: int = 2, **data: Any) -> Path:
    config = write_config(folder, training={"steps": steps, "batch_size": 8})
    changed = yaml.safe_load(config.read_text())
    changed["data"] = {"name": "imagefolder", "path": str(photos), "size": 16, **data}
    config.write_text(yaml.safe_dump(changed))
    return config


def test_a_run_records_the_reader_of_its_images(tmp_path: Path) -> None:
    config = photo_config(tmp_path, jpeg_folder(tmp_path / "photos"))
    job = open_run(config, run_dir=tmp_path / "run")
    job.make(("train",))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]["reader"] == "full"
    stage = job.store.stage("train")
    assert stage is not None
    assert stage["inputs"]["data"]["reader"] == "full"
    assert job.data("test").reader == "full"
    assert input_facts(job.data("test"), (3, 16, 16))["reader"] == "full"
    for again in (open_run(config, run_dir=tmp_path / "run"), load_run(tmp_path / "run")):
        again.make(("train",))
        assert again.outputs("train") == job.outputs("train")


def test_a_finished_run_that_records_no_reader_keeps_the_old_one(tmp_path: Path) -> None:
    config = photo_config(tmp_path, jpeg_folder(tmp_path / "photos"))
    old = open_run(config, run_dir=tmp_path / "run", overrides={"data.reader": "draft"})
    old.make(("train",))
    stage = old.store.stage("train")
    assert stage is not None
    assert "reader" not in stage["inputs"]["data"]  # an older hwnas wrote none
    before = old.outputs("train")
    old.close()
    job = open_run(config, run_dir=tmp_path / "run")
    job.make(("train",))
    assert job.data("train").reader == "draft"
    assert job.outputs("train") == before
    assert input_facts(job.data("test"), (3, 16, 16))["reader"] == "draft"
    job.make(("train",), restart="train")  # a training that is made again uses the reader of today
    assert job.data("train").reader == "full"
    assert job.outputs("train")["checksum"] != before["checksum"]


def test_a_checkpoint_that_records_no_reader_goes_on_with_the_old_one(tmp_path: Path) -> None:
    config = photo_config(tmp_path, jpeg_folder(tmp_path / "photos"), steps=3)

    def stop(done: int, total: int, text: str = "") -> None:
        if done == 1:
            raise KeyboardInterrupt

    overrides = {"data.reader": "draft"}
    whole = open_run(config, run_dir=tmp_path / "whole", overrides=overrides)
    whole.make(("train",))
    broken = open_run(config, run_dir=tmp_path / "run", overrides=overrides)
    with pytest.raises(KeyboardInterrupt):
        broken.make(("train",), lambda stage: stop)
    path = tmp_path / "run" / "supernet" / "checkpoint.safetensors"
    tensors, description = checkpoint._read(path)
    del description["reading"]
    checkpoint._write(path, tensors, description)  # an older hwnas wrote none
    job = open_run(config, run_dir=tmp_path / "run")
    job.make(("train",))
    assert job.data("train").reader == "draft"
    assert job.outputs("train")["checksum"] == whole.outputs("train")["checksum"]


def test_training_by_command_says_how_many_images_there_are(tmp_path: Path, hwnas_command: Command) -> None:
    config = photo_config(tmp_path, jpeg_folder(tmp_path / "photos", n=5))
    code, out, err = hwnas_command("train", config, "--run-dir", tmp_path / "run", "--json")
    assert code == 0, err
    line = "train 10 images of 2 classes; validation 10 images of 2 classes; test 10 images of 2 classes"
    assert line in err
    assert json.loads(out)["supernet"] == str(tmp_path / "run" / "supernet")


@pytest.mark.parametrize("memory_mb", [4096, 1], ids=["in memory", "streamed"])
def test_damaged_images_of_all_splits_are_listed_before_training_and_can_be_left_out(
    tmp_path: Path, hwnas_command: Command, memory_mb: int
) -> None:
    size = 16 if memory_mb > 1 else 160  # 75 KiB an image
    photos = jpeg_folder(tmp_path / "photos", n=16)
    config = photo_config(tmp_path, photos, memory_mb=memory_mb, size=size)
    bad = [photos / name for name in ("train/cat/03.jpg", "val/dog/11.jpg", "test/cat/00.jpg")]
    for file in bad:
        file.write_bytes(file.read_bytes()[:500])
    command = ("train", config, "--run-dir", tmp_path / "run")
    code, _, err = hwnas_command(*command)
    assert code == 1
    error = err.splitlines()[-1]
    assert "cannot read 3 files as images" in error
    assert all(f"{file} (" in error for file in bad)
    assert not (tmp_path / "run" / "supernet").exists()
    remedy = "data.skip_damaged: true"
    assert remedy in error
    code, _, err = hwnas_command(*command, "--set", remedy.replace(": ", "="))
    assert code == 0
    assert all(f"left out 1 of 32 files that cannot be read as images: {file} (" in err for file in bad)
    trained = load_run(tmp_path / "run")
    assert trained.outputs("train")["left_out"] == {
        "train": ["cat/03.jpg"], "validation": ["dog/11.jpg"], "test": ["cat/00.jpg"],
    }  # fmt: skip
    assert [len(trained.data(split)) for split in SPLITS] == [31, 31, 31]
    # A file that was left out stays left out when it is repaired or removed.
    Image.new("RGB", (80, 60)).save(bad[0])
    bad[1].unlink()
    code, _, err = hwnas_command(*command)
    assert code == 0
    assert load_run(tmp_path / "run").outputs("train") == trained.outputs("train")
    again = load_run(tmp_path / "run", {"data.skip_damaged": True})
    again.make(("train",), restart="train")
    assert "validation" not in again.outputs("train")["left_out"]
    assert len(again.data("train")) == 32


def test_a_moved_folder_of_the_same_images_is_the_same_data(tmp_path: Path, hwnas_command: Command) -> None:
    photos = jpeg_folder(tmp_path / "photos")
    config = photo_config(tmp_path, photos)
    before = open_run(config, run_dir=tmp_path / "run")
    before.make(("train",))
    source = before.accuracy_source
    photos.rename(tmp_path / "moved")
    command = ("train", config, "--run-dir", tmp_path / "run")
    code, _, err = hwnas_command(*command)
    assert code == 1
    assert "there is no folder" in err
    code, _, err = hwnas_command(*command, "--set", f"data.path={tmp_path / 'moved'}")
    assert code == 0, err
    after = load_run(tmp_path / "run")  # its config.yaml names the new folder
    after.make(("train",))
    assert after.outputs("train") == before.outputs("train")
    assert after.accuracy_source == source
    Image.new("RGB", (80, 60)).save(tmp_path / "moved" / "train" / "cat" / "00.jpg")
    with pytest.raises(StoreError, match=r"images\.train was "):
        load_run(tmp_path / "run").make(("train",))


def test_an_export_records_its_test_images_and_older_runs_that_do_not_stand(
    tiny_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    run = load_run(tmp_path / "run")
    done = run.store.stage("export")
    assert done is not None
    assert done["inputs"]["test_images"] == run.data("test").checksum
    for recorded, message in (
        ("0" * 64, r"export was made with other inputs: test_images was '000"),
        (None, None),
    ):
        inputs = {**done["inputs"], "test_images": recorded}
        if recorded is None:
            del inputs["test_images"]
        run.store.finish_stage("export", inputs, done["outputs"])
        if message is None:
            load_run(tmp_path / "run").make(("export", "verify"))
        else:
            with pytest.raises(StoreError, match=message):
                load_run(tmp_path / "run").make(("export", "verify"))
