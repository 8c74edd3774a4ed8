from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwnas.errors import DataError
from hwnas.training import data as data_module
from hwnas.training.data import SOURCES, SPLITS, load_dataset, resize

SMALL = {"train": 300, "validation": 120, "test": 130}


# ---- cluttered digits ----------------------------------------------------------------------------


def test_digits_are_ready_for_a_network() -> None:
    for split in SPLITS:
        data = load_dataset("cluttered-digits", split, **SMALL)
        assert data.images.shape == (SMALL[split], 1, 24, 24)
        assert data.images.dtype == torch.float32
        assert data.labels.dtype == torch.int64
        assert data.classes == tuple("0123456789")
        assert set(data.labels.tolist()) == set(range(10))
        assert abs(float(data.images.mean())) < 0.2
        assert 0.8 < float(data.images.std()) < 1.2
        assert data.settings == {"name": "cluttered-digits", "split": split, "seed": 0, **SMALL}
        pixels = (data.images * data.std[0] + data.mean[0]) * 255
        torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
        assert 0 <= float(pixels.round().min()) <= float(pixels.round().max()) <= 255


def test_digits_follow_the_seed_alone() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002 — that nothing touches it is what is tested
    first, again, other = (load_dataset("cluttered-digits", "test", seed, **SMALL) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert first.checksum == again.checksum != other.checksum
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_splits_share_no_source_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bundled digit is replaced by an image of its own brightness, which then betrays it."""
    seen: dict[str, set[int]] = {}
    monkeypatch.setattr(data_module, "load_digits", _numbered_digits)
    monkeypatch.setattr(
        data_module, "_placed", lambda sources, rng: np.zeros((len(sources), 24, 24), np.float32)
    )

    def spy(sources: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen[split] = set(np.rint(sources[:, 0, 0] * 16).astype(int).tolist())
        return np.zeros((len(sources), 24, 24), np.float32)

    monkeypatch.setattr(data_module, "_placed", spy)
    for split in SPLITS:
        load_dataset("cluttered-digits", split, seed=3, train=20000, validation=5000, test=8000)
    assert {split: len(sources) for split, sources in seen.items()} == SOURCES
    assert len(set.union(*seen.values())) == sum(SOURCES.values()) == 1797


class _numbered_digits:
    target = np.arange(1797) % 10
    target_names = np.arange(10)
    images = np.arange(1797.0)[:, None, None] * np.ones((1, 8, 8))


def test_a_digit_keeps_its_shape_when_placed() -> None:
    sources = np.zeros((50, 8, 8), np.float32)
    sources[:, 2:6, 2:6] = 1
    placed = data_module._placed(sources, np.random.default_rng(0))
    low, high = (16 * scale**2 for scale in data_module.DIGIT_SCALE)
    assert placed.max() <= 1
    assert np.all((placed.sum((1, 2)) > 0.9 * low) & (placed.sum((1, 2)) < 1.1 * high))


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(DataError, match="unknown dataset 'digits'; known: cluttered-digits"):
        load_dataset("digits")
    with pytest.raises(DataError, match="unknown split 'val'; known: train"):
        load_dataset("cluttered-digits", "val")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unexpected keyword argument 'n'"):
        load_dataset("cluttered-digits", n=3)
    with pytest.raises(DataError, match="ask for at least 1"):
        load_dataset("cluttered-digits", train=0)


def test_subset_and_batches() -> None:
    data = load_dataset("cluttered-digits", "validation", **SMALL)
    subset = data.subset(50, rng=0)
    assert len(subset) == 50
    assert torch.equal(subset.images, data.subset(50, rng=0).images)
    assert not torch.equal(subset.images, data.subset(50, rng=1).images)
    assert subset.settings["subset"] == 50
    sizes = [(tuple(images.shape), len(labels)) for images, labels in subset.batches(32, 16)]
    assert sizes == [((25, 1, 16, 16), 25), ((25, 1, 16, 16), 25)]
    assert torch.equal(torch.cat([labels for _, labels in subset.batches(7)]), subset.labels)
    assert [len(labels) for _, labels in subset.batches(49)] == [25, 25]  # no batch of one image
    assert [len(labels) for _, labels in subset.batches(16)] == [12, 13, 12, 13]
    assert list(subset.subset(0, rng=0).batches(8)) == []


def test_resize() -> None:
    images = torch.rand(2, 3, 24, 24)
    assert resize(images, 24) is images
    assert resize(images, 16).shape == (2, 3, 16, 16)
    checkerboard = (torch.arange(24)[:, None] + torch.arange(24)) % 2 * torch.ones(1, 1, 24, 24)
    assert float(resize(checkerboard, 8).std()) < 0.1  # aliasing would keep it black and white


# ---- folders of images ---------------------------------------------------------------------------


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


def load(folder: Path, split: str = "train", seed: int = 0, size: int = 8) -> data_module.Dataset:
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


def test_missing_splits_are_held_out_of_train(folder: Path) -> None:
    for split in ("val", "test"):
        for file in sorted((folder / split).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (folder / split).rmdir()
    parts = [load(folder, split, seed=4) for split in SPLITS]
    assert [len(data) for data in parts] == [32, 4, 4]
    found = {tuple(image.flatten().tolist()) for data in parts for image in data.images}
    assert len(found) == 40
    assert load(folder, "test", seed=4).checksum == parts[2].checksum != load(folder, "test", seed=5).checksum


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
