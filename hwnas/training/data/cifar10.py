"""CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html): 32×32 pixels, 10 classes, 50,000 + 10,000 images.

It is handed on as a Hugging Face dataset, a table whose images are encoded files, and as binary files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hwnas.errors import DataError, MissingExtraError
from hwnas.text import one_line
from hwnas.training.data.base import Source, Split, check_positive
from hwnas.training.data.stored import Held, Indices, Items, decoded

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the 50,000 training images
SHAPE = (3, 32, 32)
BINARY_FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
RECORD = 1 + 3 * 32 * 32  # bytes of a binary file: the label, then red, green and blue
LABEL = "label"
IMAGES = ("img", "image")  # the column is called by one of these; the hub's own copy says img


def cifar10(
    split: Split, seed: int, path: str | Path | None = None, hub: str | None = None, validation: int = 5000
) -> Source:
    """CIFAR-10 in a folder, `path`, or from the Hugging Face hub by name, `hub`: one of the two.

    The folder is a Hugging Face dataset, as parquet files or as `save_to_disk` leaves it, or holds the
    official binary files (`data_batch_1.bin` …), itself or in `cifar-10-batches-bin`. A dataset of the hub,
    such as `uoft-cs/cifar10`, is downloaded by the library `datasets`, which keeps it in its cache.
    `validation` images are held out of the training images, of each class alike, drawn by the seed.

    DataError for missing or damaged files or images of another shape; MissingExtraError without `datasets`,
    which the binary files do without.
    """
    check_positive("cifar10: validation", validation, "images")
    if (path is None) == (hub is None):
        raise DataError(
            "cifar10: give either path, a folder that holds CIFAR-10, or hub, a dataset's name on the "
            "Hugging Face hub, from where it is downloaded"
        )
    part = "test" if split == "test" else "train"
    found = _in_folder(path, part) if hub is None else _on_hub(hub, part)
    labels = found.labels
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if len(wrong):
        raise DataError(
            f"cifar10: image {wrong[0]} of {found.origin} has label {labels[wrong[0]]}, not one of 0…9; "
            "fetch the files again"
        )
    chosen = np.arange(len(labels))
    if part == "train":
        if validation >= len(labels):
            raise DataError(
                f"cifar10: validation is {validation}, there are {len(labels)} training images; give fewer"
            )
        held = np.sort(_spread(labels, validation, np.random.default_rng(seed)))
        chosen = held if split == "validation" else np.setdiff1d(chosen, held)
    words = "RGB of 32×32 pixels"
    return Source(lambda _: found.images(chosen), labels[chosen], CLASSES, MEAN, STD, words)


@dataclass(frozen=True)
class Part:
    """The training or the test images in one of their forms; `images` reads those of some numbers."""

    origin: str
    labels: NDArray[np.int64]
    images: Callable[[Indices], Held]


def _spread(labels: NDArray[np.int64], n: int, rng: np.random.Generator) -> Indices:
    """n numbers of images, drawn at random with the same share of every class, to within one image."""
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    return by_class[np.arange(n) * len(labels) // n]


def _in_folder(path: object, part: str) -> Part:
    """The part in a folder, whichever form it has there."""
    if not isinstance(path, (str, Path)) or not Path(path).is_dir():
        raise DataError(f"cifar10: path is {str(path)!r}, which is no folder; give the one with CIFAR-10")
    root = Path(path)
    if (root / part / "state.json").is_file():
        return _saved(root / part)
    every = (file for file in root.rglob("*.parquet") if file.is_file())
    tables = sorted(f for f in every if f.stem == part or f.stem.startswith(f"{part}-"))
    if tables:
        return _parquet(tables)
    for folder in (root, root / "cifar-10-batches-bin"):
        files = [folder / name for name in BINARY_FILES[part]]
        if any(file.is_file() for file in files):
            return _binary(files)
    raise DataError(
        f"cifar10: {root} has no {part} images: neither {part}-*.parquet, nor {part}/state.json of "
        f"save_to_disk, nor {BINARY_FILES[part][0]}"
    )


# ---- binary files ---------------------------------------------------------------------------------


def _binary(files: Sequence[Path]) -> Part:
    """The official binary files, one after the other."""
    for file in files:
        if not file.is_file():
            raise DataError(
                f"cifar10: {file} is missing, of {', '.join(other.name for other in files)}; fetch it, too"
            )
        size = file.stat().st_size
        if not size or size % RECORD:
            raise DataError(
                f"cifar10: {file} has {size} bytes, which is no number of images of {RECORD} bytes; "
                "fetch it again"
            )
    records = [np.memmap(file, np.uint8, mode="r").reshape(-1, RECORD) for file in files]

    def images(chosen: Indices) -> Held:
        pixels = np.concatenate([part[:, 1:] for part in records])[chosen]
        return Held(torch.from_numpy(pixels.reshape(-1, *SHAPE)))

    labels = np.concatenate([part[:, 0] for part in records]).astype(np.int64)
    return Part(str(files[0].parent), labels, images)


# ---- Hugging Face datasets ------------------------------------------------------------------------


def _parquet(files: Sequence[Path]) -> Part:
    """Parquet files, one after the other."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "datasets") from None

    def column(*names: str) -> list[Any]:
        tables = [
            parquet.read_table(file, columns=[_one_of(names, parquet.read_schema(file).names)])
            for file in files
        ]
        return [value for table in tables for value in table.column(0).to_pylist()]

    return _table(column, str(files[0].parent))


def _saved(folder: Path) -> Part:
    """One split as `save_to_disk` of the library `datasets` leaves it."""
    datasets = _library()
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise DataError(f"cifar10: cannot read {folder}: {one_line(error)}; save it again") from None
    return _of_library(found, str(folder))


def _on_hub(name: object, part: str) -> Part:
    """The dataset of this name on the hub, or what the library's cache has of it."""
    datasets = _library()
    try:
        found = datasets.load_dataset(str(name), split=part)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"cifar10: cannot load {name!r} from the Hugging Face hub: {one_line(error)}; check name and "
            "network, or give path, a folder that holds it"
        ) from None
    return _of_library(found, f"{name}, {part}")


def _library() -> Any:
    """Hugging Face's `datasets`."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "datasets") from None
    return datasets


def _of_library(found: Any, origin: str) -> Part:
    """A `datasets.Dataset`."""

    def column(*names: str) -> list[Any]:
        name = _one_of(names, found.column_names)
        return list(found.select_columns([name]).with_format("arrow")[:].column(0).to_pylist())

    return _table(column, origin)


def _one_of(names: Sequence[str], columns: Sequence[str]) -> str:
    for name in names:
        if name in columns:
            return name
    raise ValueError(f"its columns are {', '.join(columns)}, none of them {' or '.join(names)}")


def _table(column: Callable[..., list[Any]], origin: str) -> Part:
    """A table of which `column` reads the one of these names: labels now, images when they are asked for."""

    def read(*names: str) -> list[Any]:
        try:
            return column(*names)
        except (OSError, ValueError) as error:
            raise DataError(
                f"cifar10: cannot read {origin}: {one_line(error)}; fetch the files again"
            ) from None

    labels = read(LABEL)
    if not labels or not all(isinstance(label, int) for label in labels):
        raise DataError(
            f"cifar10: column {LABEL} of {origin} does not hold whole numbers; fetch the files again"
        )
    return Part(origin, np.array(labels), lambda chosen: decoded(Encoded(read(*IMAGES), origin), chosen))


class Encoded(Items):
    """Images of a table: files in memory, each a mapping with its `bytes`."""

    shape = SHAPE

    def __init__(self, files: Sequence[Any], origin: str) -> None:
        self._files = files
        self._origin = origin

    def __getitem__(self, index: int) -> Tensor:
        try:
            with Image.open(io.BytesIO(self._files[index]["bytes"])) as image:
                pixels = np.array(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, TypeError, KeyError) as error:
            raise DataError(
                f"cifar10: cannot decode image {index} of {self._origin}: {one_line(error)}; "
                "fetch the files again"
            ) from None
        if pixels.shape != (*SHAPE[1:], SHAPE[0]):
            raise DataError(
                f"cifar10: image {index} of {self._origin} is {pixels.shape[1]}×{pixels.shape[0]}, "
                "not 32×32; for other images there is imagefolder"
            )
        return torch.from_numpy(pixels).permute(2, 0, 1)
