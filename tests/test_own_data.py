"""The whole job on data of one's own: handed over in Python, and streamed from its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import hwnas
from hwnas.errors import DataError
from hwnas.pipeline import load_run, open_run
from hwnas.training.data import SPLITS, Dataset
from hwnas.training.data.stored import Streamed
from tests.conftest import TINY, write_config


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
