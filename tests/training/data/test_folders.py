from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hwnas.errors import DataError
from hwnas.training.data import SPLITS, Dataset, Split, describe_dataset, load_dataset
from hwnas.training.data import digits as digits_module
from hwnas.training.data import folders as folders_module

from .small import SMALL


def write_images(folder: Path, n: int, value: int, size: tuple[int, int] = (20, 14)) -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", size, (value, i, 255 - value)).save(folder / f"{i:02}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, n in (("train", 20), ("val", 5), ("test", 4)):
        for value, name in enumerate(("cat", "dog")):
            write_images(tmp_path / split / name, n, 100 * value)
    return tmp_path


def load(folder: Path, split: str = "train", seed: int = 0, size: int = 8) -> Dataset:
    return load_dataset("imagefolder", split, seed, path=str(folder), size=size)  # type: ignore[arg-type]


def test_imagefolder(folder: Path) -> None:
    (folder / "train" / "cat" / ".hidden").write_text("not an image")
    Image.new("L", (9, 30), 77).save(folder / "train" / "dog" / "grey.jpg")
    train, validation, test = (load(folder, split) for split in SPLITS)
    assert [len(data) for data in (train, validation, test)] == [41, 10, 8]
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.bincount().tolist() == [20, 21]
    assert train.images.shape == (41, 3, 8, 8)
    pixels = train.images * torch.tensor(train.std)[:, None, None] + torch.tensor(train.mean)[:, None, None]
    torch.testing.assert_close(pixels[3, :, 0, 0] * 255, torch.tensor([0.0, 3.0, 255.0]), rtol=0, atol=1e-2)


def test_a_dataset_is_described_without_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nonsense")
    assert describe_dataset("imagefolder", 0, {"path": str(folder), "size": 8}) == (("cat", "dog"), 3)
    monkeypatch.setattr(digits_module, "_placed", lambda *_: pytest.fail("made"))
    assert describe_dataset("cluttered-digits", 0, {}) == (tuple("0123456789"), 1)


def test_datasets_say_how_they_prepare(folder: Path) -> None:
    words = load(folder).subset(2, rng=0).preparation
    assert "the shorter side resized to 8 pixels" in words
    assert "the centre of 8×8 kept" in words
    assert load_dataset("cluttered-digits", **SMALL).preparation == "grey scenes of 24×24 pixels"


def read_one(folder: Path, image: Image.Image, name: str, **how: Any) -> np.ndarray:
    """The pixels, (3, 8, 8) in 0…255, that imagefolder makes of an image."""
    for other in ("cat", "dog"):
        write_images(folder / "train" / other, 4, 0)
    image.save(folder / "train" / "cat" / name, **how)
    data = load(folder)
    pixels = data.images * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]
    names = [f.name for f in sorted((folder / "train" / "cat").iterdir())]
    return np.rint(pixels[names.index(name)].numpy() * 255)


@pytest.mark.parametrize("kept", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_range(tmp_path: Path, kept: str) -> None:
    add_test_folders(tmp_path)
    ramp = np.linspace(0, 65535, 8).round().astype(np.uint16)
    image = Image.fromarray(np.tile(ramp, (8, 1)))
    found = read_one(tmp_path, image, f"deep.{kept}")
    assert np.array_equal(found, np.broadcast_to(np.rint(ramp / 257.0), (3, 8, 8)))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_of_unknown_range_is_refused(tmp_path: Path, dtype: type) -> None:
    add_test_folders(tmp_path)
    with pytest.raises(DataError, match=r"deep\.tif as an image: mode [IF] .*convert it to 8 or 16 bits"):
        read_one(tmp_path, Image.fromarray(np.full((8, 8), 70000, dtype)), "deep.tif")


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    red, clear = (255, 0, 0), np.zeros((8, 8, 4), np.uint8)
    clear[:, :, :3] = red
    clear[:, 4:, 3] = 255
    expected = np.full((3, 8, 8), 255.0)
    expected[1:, :, 4:] = 0
    palette = Image.new("P", (8, 8))
    palette.putpalette([0, 0, 0, *red])
    palette.paste(1, (4, 0, 8, 8))
    grey = Image.new("LA", (8, 8), (9, 0))
    for i, (image, how, wanted) in enumerate(
        [
            (Image.fromarray(clear), {}, expected),
            (palette, {"transparency": 0}, expected),
            (palette, {"transparency": b"\x00\xff"}, expected),
            (grey, {}, np.full((3, 8, 8), 255.0)),
        ]
    ):
        add_test_folders(tmp_path / str(i))
        assert np.array_equal(read_one(tmp_path / str(i), image, "clear.png", **how), wanted)


def add_test_folders(folder: Path) -> None:
    for split in ("val", "test"):
        for name in ("cat", "dog"):
            write_images(folder / split / name, 1, 9)


def drop(folder: Path, *splits: str) -> None:
    for split in splits:
        shutil.rmtree(folder / split)


def test_missing_splits_are_held_out_of_train(folder: Path) -> None:
    drop(folder, "val", "test")
    parts = [load(folder, split, seed=4) for split in SPLITS]
    assert sum(len(data) for data in parts) == 40
    assert all(set(data.labels.tolist()) == {0, 1} for data in parts)
    found = {tuple(image.flatten().tolist()) for data in parts for image in data.images}
    assert len(found) == 40
    assert load(folder, "test", seed=4).checksum == parts[2].checksum != load(folder, "test", seed=5).checksum


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 60), st.integers(0, 2**32), st.sampled_from([("test",), ("validation", "test")]))
def test_every_split_has_an_image_and_no_image_is_in_two(
    n: int, seed: int, missing: tuple[Split, ...]
) -> None:
    files = [Path("train") / "cat" / f"{i}.png" for i in range(n)]
    held = folders_module._held_out(files, missing, seed)
    assert set(held) == set(missing)
    assert all(held.values())
    together = [file for part in held.values() for file in part]
    assert len(set(together)) == len(together) < n


def test_an_image_stays_in_its_split_when_others_are_added() -> None:
    files = [Path("train") / "cat" / f"{i}.png" for i in range(4000)]
    every = folders_module._held_out(files, ("validation", "test"), 0)
    some = folders_module._held_out(files[::2], ("validation", "test"), 0)
    only = folders_module._held_out(files, ("test",), 0)
    moved = [Path("elsewhere") / file for file in files]
    for split, held in every.items():
        assert 0.08 < len(held) / len(files) < 0.12
        assert some[split] == [file for file in held if file in set(files[::2])]
    assert only["test"] == every["test"]  # a folder for validation does not change test
    assert folders_module._held_out(moved, ("test",), 0)["test"] == [
        Path("elsewhere") / f for f in only["test"]
    ]


def test_imagefolder_says_what_is_wrong(folder: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load(folder / "nowhere")
    with pytest.raises(DataError, match="size is 0"):
        load(folder, size=0)
    (folder / "train" / "cat" / "broken.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"cannot read .*broken\.png as an image"):
        load(folder)
    cut = (folder / "train" / "cat" / "00.png").read_bytes()[:40]
    (folder / "train" / "cat" / "broken.png").write_bytes(cut)
    with pytest.raises(DataError, match=r"broken\.png"):
        load(folder)
    (folder / "train" / "cat" / "broken.png").unlink()
    (folder / "val" / "mouse").mkdir()
    with pytest.raises(DataError, match="mouse is empty"):
        load(folder)
    write_images(folder / "test" / "mouse", 1, 9)
    (folder / "val" / "mouse").rmdir()
    with pytest.raises(DataError, match="different classes: mouse"):
        load(folder)


def test_one_class_and_too_few_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "cat", 2, 0)
    with pytest.raises(DataError, match="1 class folders; at least 2"):
        load(tmp_path)
    write_images(tmp_path / "train" / "dog", 9, 9)
    with pytest.raises(DataError, match="cat has 2 images, too few to hold out 1 for each of val, test"):
        load(tmp_path)


def test_more_than_the_memory_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="GiB of memory"):
        load(folder, size=200_000)
