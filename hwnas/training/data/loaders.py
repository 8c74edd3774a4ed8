"""Datasets of one's own, handed over in Python as torch DataLoaders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hwnas.errors import DataError
from hwnas.training.data.base import Dataset, check_positive
from hwnas.training.data.stored import MIB, Held


def from_loader(
    loader: Iterable[Any],
    classes: Sequence[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    preparation: str = "as the DataLoader gives them",
    memory_mb: int = 4096,
) -> Dataset:
    """A split of a dataset: what a torch `DataLoader` gives in one pass, held in memory.

    Each of its batches is a sequence that begins with images (k, c, h, w), all of one size, and labels (k,),
    whole numbers, positions in `classes`. Images of floats are taken as they are: the loader has normalised
    them, and `mean` and `std` by channel, 0 and 1 unless given, say how (TrivialAugment undoes it). Images
    of bytes, 0…255, become ``(x / 255 - mean) / std``. `preparation` is what model cards say of the images.

    The loader is read once. What it draws at random, such as augmentations, stays as it was drawn, and a run
    is gone on with only if the loader draws the same again: leave augmentation to the training's settings.

        train = from_loader(DataLoader(photos, batch_size=256, num_workers=4), ("cat", "dog"))
        hwnas.run("my.yaml", data={"train": train, "validation": …, "test": …})

    DataError for a loader that is empty or gives something else, a label that is not a class, classes that
    are not different names, or images that take more than `memory_mb` MiB.
    """
    check_positive("memory_mb", memory_mb, "MiB")
    names = _names(classes)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    taken = 0
    for number, batch in enumerate(loader):
        found, said = _checked(batch, number, len(names))
        if images and (found.dtype, found.shape[1:]) != (images[0].dtype, images[0].shape[1:]):
            raise DataError(
                f"batch {number} of the loader has images of {_text(found)}, the first one of "
                f"{_text(images[0])}; resize them to one size"
            )
        taken += found.nbytes
        if taken > memory_mb * MIB:
            raise DataError(
                f"the loader gives more than memory_mb, {memory_mb} MiB, of images; raise it, give smaller "
                "images, or use the dataset imagefolder, which streams files"
            )
        images.append(found)
        labels.append(said)
    if not images:
        raise DataError("the loader is empty; give one with images (an iterator serves once)")
    channels = images[0].shape[1]
    shift = (0.0,) * channels if mean is None else tuple(float(x) for x in mean)
    scale = (1.0,) * channels if std is None else tuple(float(x) for x in std)
    if (len(shift), len(scale)) != (channels, channels) or min(scale) <= 0:
        raise DataError(
            f"mean {shift} and std {scale} are not one number for each of {channels} channels, std above 0"
        )
    settings = {"name": "loader", "mean": shift, "std": scale}
    return Dataset(Held(torch.cat(images)), torch.cat(labels), names, shift, scale, settings, preparation)


def _names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes; DataError unless they are names, each once."""
    names = tuple(classes) if isinstance(classes, Iterable) and not isinstance(classes, str) else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"classes is {classes!r:.80}; give their names in the order of the labels, such as ('cat', 'dog')"
        )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(f"class {twice[0]!r} is given twice; give each class a name of its own")
    return names


def _checked(batch: Any, number: int, classes: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 or float32, and labels, int64, of a batch: copies, as a loader may reuse its memory."""
    match batch:
        case [Tensor() as images, Tensor() as labels, *_]:
            pass
        case _:
            raise DataError(
                f"batch {number} of the loader is {type(batch).__name__}, not a sequence of a tensor of "
                "images and one of labels; give its DataLoader another collate_fn"
            )
    known = images.dtype == torch.uint8 or images.is_floating_point()
    whole = not labels.is_floating_point() and not labels.is_complex()
    if images.dim() != 4 or not known or labels.shape != images.shape[:1] or not whole:
        raise DataError(
            f"batch {number} of the loader has images of {_text(images)} and labels of {_text(labels)}; "
            "give images (k, c, h, w) of floats or bytes, and labels (k,) of whole numbers"
        )
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise DataError(
            f"batch {number} of the loader has the label {int(outside[0])}; there are {classes} classes, "
            f"0 to {classes - 1}"
        )
    kept = images if images.dtype == torch.uint8 else images.float()
    return kept.detach().cpu().clone(), labels.detach().cpu().long().clone()


def _text(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
