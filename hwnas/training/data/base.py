"""What every dataset is: labelled images of one split, in memory or streamed from their files."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hwnas.errors import DamagedImagesError, DataError
from hwnas.training.data.stored import CHUNK, Check, Held, Indices, Stored, damaged_images

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one split.

    What comes out of it are images (n, c, h, w), float32, ``(x - mean) / std`` of values x in 0…1, with
    `mean` and `std` by channel, and labels, int64 (n,), positions in `classes`. `stored` holds the images
    or knows where they are; `settings` is plain data that says where they come from, `preparation` says in
    words how they became pixels of this shape. DataError for a class whose name no file could hold, unless
    `mean` and `std` have one number for each channel of the images, and for images in memory with values that
    are NaN or infinite.
    """

    stored: Stored
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: Mapping[str, Any]
    preparation: str
    reader: str | None = None  # of `hwnas.images`, by which image files were read; None: no files

    def __post_init__(self) -> None:
        for name in self.classes:
            if not (isinstance(name, str) and is_utf8(name)):
                raise DataError(f"the class {name!r} has no name that can be written as UTF-8; give it one")
        channels = self.stored.shape[1]
        if (len(self.mean), len(self.std)) != (channels, channels):
            raise DataError(
                f"mean {self.mean} and std {self.std} are not one number for each of {channels} channels"
            )
        if isinstance(self.stored, Held) and self.stored.images.is_floating_point():
            _check_finite(self.stored.images, self.title)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def title(self) -> str:
        """The name of the split in messages, such as "the test split"; "the data" if it has none."""
        split = self.settings.get("split")
        return "the data" if split is None else f"the {split} split"

    @cached_property
    def images(self) -> Tensor:
        """All images (n, c, h, w), normalised once and kept: four times the memory of their pixels.

        DataError where they are streamed.
        """
        if not isinstance(self.stored, Held):
            raise DataError(
                f"the {len(self)} images are streamed from their files and not in memory; take them by "
                "stream() or batches(), a subset(), or raise memory_mb"
            )
        return self._normalised(self.stored.images)

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """The smallest and largest value x of images ``(x - mean) / std``: 0 and 1 for images of bytes."""
        if not isinstance(self.stored, Held) or self.stored.images.dtype == torch.uint8:
            return 0.0, 1.0
        images = self.stored.images
        scale, shift = (torch.tensor(values, dtype=torch.float64) for values in (self.std, self.mean))
        ends = torch.stack([images.amin((0, 2, 3)), images.amax((0, 2, 3))]) * scale + shift
        return float(ends.min()), float(ends.max())

    @cached_property
    def checksum(self) -> str:
        """SHA-256, in hexadecimal digits, over labels and images; of streamed files, over names and sizes."""
        found = hashlib.sha256(repr((self.stored.shape, self.mean, self.std)).encode())
        for part in self.stored.contents():
            found.update(part)
        found.update(self.labels.contiguous().numpy().tobytes())
        return found.hexdigest()

    def subset(self, n: int, rng: int | np.random.Generator) -> Dataset:
        """n different images drawn by `rng`, in random order; all of them if there are fewer."""
        chosen = np.random.default_rng(rng).permutation(len(self))[:n]
        settings = {**self.settings, "subset": len(chosen)}
        stored, labels = self.stored.subset(chosen), self.labels[torch.from_numpy(chosen)]
        return replace(self, stored=stored, labels=labels, settings=settings)

    def stream(self, chosen: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of each (k,) numbers, in their order; `chosen` may be endless.

        Images that are not in memory are decoded ahead by worker processes, which end when the iterator is
        closed or forgotten. DataError names an image that cannot be read.
        """
        ahead, now = itertools.tee(chosen)
        for indices, images in zip(now, self.stored.batches(ahead), strict=True):
            yield self._normalised(images), self.labels[torch.from_numpy(indices)]

    def batches(self, size: int, resolution: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in order, resized to a resolution where one is given.

        As few batches of at most `size` as there can be, as equal as can be: sizes differ by one at most.
        """
        count = -(-len(self) // size)
        ends = [i * len(self) // max(count, 1) for i in range(count + 1)]
        for images, labels in self.stream(np.arange(*span) for span in itertools.pairwise(ends)):
            yield (images if resolution is None else resize(images, resolution)), labels

    def _normalised(self, images: Tensor) -> Tensor:
        """float32 (x / 255 - mean) / std by channel of uint8; what is float32 is so already."""
        if images.dtype != torch.uint8:
            return images
        shift = torch.tensor(self.mean).reshape(1, -1, 1, 1)
        scale = torch.tensor(self.std).reshape(1, -1, 1, 1)
        return images.to(torch.float32).div_(255).sub_(shift).div_(scale)


@dataclass(frozen=True)
class Source:
    """A split before its images are read or made: `stored`, called once, does that, and checks files.

    `labels` are (n,); the rest is as in `Dataset`.
    """

    stored: Callable[[Check], Stored]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: str
    reader: str | None = None


def resize(images: Tensor, size: int) -> Tensor:
    """Images (n, c, h, w) at (n, c, size, size): bilinear, antialiased where they shrink."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def check_splits(data: Mapping[str, object]) -> None:
    """Check that the splits of a dataset belong together.

    Args:
        data: The splits by name.

    Raises:
        DataError: if a split is not a `Dataset`, or if two splits differ in their classes or channels.
    """
    first: tuple[str, Dataset] | None = None
    for name, split in data.items():
        if not isinstance(split, Dataset):
            raise DataError(
                f"the {name} data is a {type(split).__name__}, not a dataset; wrap a torch DataLoader: "
                "hwnas.from_loader(loader, classes)"
            )
        first = first or (name, split)
        other, reference = first
        if split.classes != reference.classes:
            raise DataError(
                f"the {name} data has the classes {_shown(split.classes)}, the {other} data "
                f"{_shown(reference.classes)}; give all splits the same classes in the same order"
            )
        if len(split.mean) != len(reference.mean):
            raise DataError(
                f"the {name} images have {_channels(split)}, the {other} images {_channels(reference)}; "
                "convert one of them, for example to RGB"
            )


def _shown(classes: Sequence[str]) -> str:
    """The number of classes and the first names."""
    return f"{len(classes)} ({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''})"


def _channels(data: Dataset) -> str:
    return f"{len(data.mean)} channel{'s' if len(data.mean) > 1 else ''}"


def _check_finite(images: Tensor, source: str) -> None:
    """Raise DataError if images (n, c, h, w) hold NaN or infinite values; `source` names them."""
    chunks = (images[i : i + CHUNK] for i in range(0, max(len(images), 1), CHUNK))
    finite = torch.cat([chunk.isfinite().flatten(1).all(1) for chunk in chunks])
    if bool(finite.all()):
        return
    bad = torch.nonzero(~finite).flatten()
    first = images[bad[0]]
    raise DataError(
        f"{len(bad)} of {len(images)} images of {source} have values that are NaN or infinite in float32; "
        f"the first is image {int(bad[0])} ({int((~first.isfinite()).sum())} of its {first.numel()} values). "
        "Correct the transforms that make them, or leave these images out"
    )


def check_files(data: Mapping[str, Dataset], check: Check) -> dict[str, Dataset]:
    """Decode each file of datasets once before its first use, unless it was checked before.

    Args:
        data: Datasets by name.
        check: How their files are checked.

    Returns:
        The datasets, marked as checked.

    Raises:
        DamagedImagesError: if files cannot be read as images; it lists those of all datasets.
    """
    checked: dict[str, Dataset] = {}
    damaged: dict[str, str] = {}
    for name, split in data.items():
        try:
            stored = split.stored.checked(check)
        except DamagedImagesError as error:
            damaged |= error.files
            continue
        checked[name] = split if stored is split.stored else replace(split, stored=stored)
    if damaged:
        raise damaged_images(damaged)
    return checked


def check_positive(what: str, value: object, unit: str) -> None:
    """DataError unless the value is a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"{what} is {value!r}; give a positive number of {unit}")


def is_utf8(name: str) -> bool:
    """Whether a name, such as one of a folder, can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
