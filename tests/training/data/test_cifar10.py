from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hwnas.errors import DataError, MissingExtraError
from hwnas.training.data import Dataset, Split, describe_dataset, load_dataset
from hwnas.training.data.cifar10 import CLASSES, RECORD, _spread

REAL = Path(__file__).parents[4] / "shared" / "data" / "cifar10"
TRAIN, TEST = 60, 20

Images = tuple[np.ndarray, np.ndarray]  # pixels (n, 3, 32, 32), labels (n,)


def drawn(n: int, seed: int) -> Images:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n) % 10


def write_binary(folder: Path, train: Images, test: Images) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(f"data_batch_{i + 1}.bin", tuple(x[i::5] for x in train)) for i in range(5)]
    for name, (pixels, labels) in [*parts, ("test_batch.bin", test)]:
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(-1, RECORD - 1)], axis=1)
        (folder / name).write_bytes(records.tobytes())


def encoded(pixels: np.ndarray) -> dict[str, object]:
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def write_parquet(folder: Path, train: Images, test: Images, image: str = "img") -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `datasets` is not installed")
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    halves = [tuple(x[i * TRAIN // 2 :][: TRAIN // 2] for x in train) for i in range(2)]
    parts = {
        "train-00000-of-00002": halves[0],
        "train-00001-of-00002": halves[1],
        "test-00000-of-00001": test,
    }
    for name, (pixels, labels) in parts.items():
        table = pyarrow.table({image: [encoded(x) for x in pixels], "label": labels})
        parquet.write_table(table, folder / f"{name}.parquet")


def write_saved(folder: Path, train: Images, test: Images) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(names=list(CLASSES)))
    made = {
        part: datasets.Dataset.from_dict(
            {"img": [encoded(x) for x in pixels], "label": labels.tolist()}, features=features
        )
        for part, (pixels, labels) in (("train", train), ("test", test))
    }
    datasets.DatasetDict(made).save_to_disk(folder)


def write_binary_below(folder: Path, train: Images, test: Images) -> None:
    write_binary(folder / "cifar-10-batches-bin", train, test)


def write_parquet_below(folder: Path, train: Images, test: Images) -> None:
    write_parquet(folder / "plain_text", train, test, image="image")


def load(path: Path, split: Split = "test", seed: int = 0, validation: int = 20) -> Dataset:
    return load_dataset("cifar10", split, seed, path=str(path), validation=validation)


def pixels_of(data: Dataset) -> np.ndarray:
    mean, std = (torch.tensor(x)[:, None, None] for x in (data.mean, data.std))
    return np.rint(((data.images * std + mean) * 255).numpy()).astype(np.uint8)


@pytest.mark.parametrize(
    "write", [write_binary, write_binary_below, write_parquet, write_parquet_below, write_saved]
)
def test_every_form_gives_the_same_images(
    tmp_path: Path, write: Callable[[Path, Images, Images], None]
) -> None:
    train, test = drawn(TRAIN, 0), drawn(TEST, 1)
    write(tmp_path / "cifar", train, test)
    found = load(tmp_path / "cifar")
    assert found.images.dtype == torch.float32
    assert np.array_equal(pixels_of(found), test[0])
    assert found.labels.tolist() == test[1].tolist()
    assert found.classes == CLASSES
    parts = [load(tmp_path / "cifar", split) for split in ("train", "validation")]
    assert [len(part) for part in parts] == [TRAIN - 20, 20]
    held = {
        image.tobytes(): label
        for part in parts
        for image, label in zip(pixels_of(part), part.labels, strict=True)
    }
    assert held == {image.tobytes(): label for image, label in zip(*train, strict=True)}
    assert all(part.labels.bincount().tolist() == [len(part) // 10] * 10 for part in parts)


def test_validation_follows_the_seed(tmp_path: Path) -> None:
    write_binary(tmp_path, drawn(TRAIN, 0), drawn(TEST, 1))
    first, again, other = (load(tmp_path, "validation", seed) for seed in (1, 1, 2))
    assert first.checksum == again.checksum != other.checksum
    assert load(tmp_path, "test", 1).checksum == load(tmp_path, "test", 2).checksum


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=80), st.data(), st.integers(0, 2**32))
def test_held_out_images_have_every_class_alike(found: list[int], data: st.DataObject, seed: int) -> None:
    labels = np.array(found)
    n = data.draw(st.integers(1, len(labels) - 1))
    held = _spread(labels, n, np.random.default_rng(seed))
    assert len(set(held.tolist())) == n
    for label in set(found):
        share = n * found.count(label) / len(found)
        assert abs(int((labels[held] == label).sum()) - share) <= 1


def test_it_is_described_without_an_image(tmp_path: Path) -> None:
    write_binary(tmp_path, drawn(TRAIN, 0), drawn(TEST, 1))
    described = describe_dataset("cifar10", 0, {"path": str(tmp_path), "validation": 20})
    assert described == (CLASSES, 3)


def test_what_is_missing_or_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give either path, .*, or hub"):
        load_dataset("cifar10")
    with pytest.raises(DataError, match=r"give either path, .*, or hub"):
        load_dataset("cifar10", path=str(tmp_path), hub="uoft-cs/cifar10")
    with pytest.raises(DataError, match="nowhere', which is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no test images: neither test-\*\.parquet"):
        load(tmp_path)
    write_binary(tmp_path, drawn(TRAIN, 0), drawn(TEST, 1))
    with pytest.raises(DataError, match="validation is 60, there are 60 training images; give fewer"):
        load(tmp_path, "train", validation=60)
    with pytest.raises(DataError, match="validation is 0; give a positive number"):
        load(tmp_path, validation=0)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4\.bin is missing, of data_batch_1\.bin, .*fetch it"):
        load(tmp_path, "train")
    (tmp_path / "test_batch.bin").write_bytes(bytes(RECORD + 1))
    with pytest.raises(DataError, match=r"test_batch\.bin has 3074 bytes"):
        load(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes(RECORD) + b"\x0a" + bytes(RECORD - 1))
    with pytest.raises(DataError, match=r"image 1 of .* has label 10, not one of 0…9"):
        load(tmp_path)


def test_a_wrong_table_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `datasets` is not installed")
    from pyarrow import parquet

    file = tmp_path / "test.parquet"
    good, large = encoded(drawn(1, 0)[0][0]), encoded(np.zeros((3, 40, 48), np.uint8))
    for columns, said in (
        ({"img": [good], "fine_label": [3]}, "its columns are img, fine_label, none of them label"),
        ({"picture": [good], "label": [3]}, "its columns are picture, label, none of them img or image"),
        ({"img": [good], "label": [None]}, "column label .* does not hold whole numbers"),
        ({"img": [good], "label": ["cat"]}, "column label .* does not hold whole numbers"),
        ({"img": [good, large], "label": [3, 4]}, "image 1 of .* is 48×40, not 32×32"),
        ({"img": [good, {"bytes": b"nonsense", "path": None}], "label": [3, 4]}, "cannot decode image 1 of"),
        ({"img": [good, {"bytes": None, "path": "cat.png"}], "label": [3, 4]}, "cannot decode image 1 of"),
        ({"img": [good, None], "label": [3, 4]}, "cannot decode image 1 of"),
    ):
        parquet.write_table(pyarrow.table(columns), file)
        with pytest.raises(DataError, match=said):
            load(tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"cannot read .*; fetch the files again"):
        load(tmp_path)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_binary(tmp_path / "binary", drawn(TRAIN, 0), drawn(TEST, 1))
    write_parquet(tmp_path / "parquet", drawn(TRAIN, 0), drawn(TEST, 1))
    for module in ("pyarrow", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(load(tmp_path / "binary")) == TEST
    with pytest.raises(MissingExtraError, match=r"pip install 'hwnas\[datasets\]'"):
        load(tmp_path / "parquet")
    with pytest.raises(MissingExtraError, match=r"datasets is not installed.*'hwnas\[datasets\]'"):
        load_dataset("cifar10", hub="uoft-cs/cifar10")


def test_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's download is replaced, as tests do without a network; what it returns is real."""
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed")
    train, test = drawn(TRAIN, 0), drawn(TEST, 1)
    write_saved(tmp_path, train, test)

    def load_dataset_of(name: str, split: str) -> object:
        if name == "nobody/broken":
            raise datasets.exceptions.DatasetGenerationError("An error occurred")
        if name != "uoft-cs/cifar10":
            raise ConnectionError(f"Couldn't reach '{name}'\non the Hub")
        return datasets.load_from_disk(tmp_path / split)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset_of)
    found = load_dataset("cifar10", "test", hub="uoft-cs/cifar10")
    assert found.checksum == load(tmp_path).checksum
    assert found.settings["hub"] == "uoft-cs/cifar10"
    with pytest.raises(
        DataError, match=r"cannot load 'nobody/none' .*: Couldn't reach 'nobody/none' on the Hub"
    ):
        load_dataset("cifar10", "test", hub="nobody/none")
    with pytest.raises(DataError, match=r"cannot load 'nobody/broken' .*: An error occurred; check name and"):
        load_dataset("cifar10", "test", hub="nobody/broken")


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/cifar10 is not there")
def test_the_real_test_images() -> None:
    pytest.importorskip("pyarrow", reason="the extra `datasets` is not installed")
    data = load_dataset("cifar10", "test", path=str(REAL))
    assert data.stored.shape == (10000, 3, 32, 32)
    assert data.labels.bincount().tolist() == [1000] * 10
    assert float(data.images.mean((0, 2, 3)).abs().max()) < 0.02
    assert abs(float(data.images.std()) - 1) < 0.02
