"""Datasets of one's own, handed over in Python as torch DataLoaders."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwnas.errors import DataError
from hwnas.training.data.base import Dataset, check_positive
from hwnas.training.data.stored import MIB, Held

CHANNELS = (1, 3, 4)  # channel counts of common images: grey, RGB, RGB with alpha

log = logging.getLogger("hwnas")


def from_loader(
    loader: Iterable[Any],
    classes: Sequence[str],
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    preparation: str = "as the DataLoader gives them",
    memory_mb: int = 4096,
    crop: bool = False,
    split: str | None = None,
) -> Dataset:
    """Read one split of a dataset from a torch `DataLoader` and hold it in memory.

    The loader is read once. Random augmentation in the loader is therefore frozen, and a run resumes only
    if the loader gives the same images again: use the augmentation of the training settings instead. Model
    cards say what was done, and name `mean` and `std`.

        train = from_loader(DataLoader(photos, batch_size=256, num_workers=4), ("cat", "dog"), split="train")
        hwnas.run("my.yaml", data={"train": train, "validation": …, "test": …})

    Args:
        loader: Batches, each a sequence that begins with images (k, c, h, w), all of one size, and labels
            (k,), whole numbers that are positions in `classes`. Images of floats are used as they are: the
            loader has normalised them. Images of bytes, 0…255, become ``(x / 255 - mean) / std``.
        classes: The names of the classes in the order of the labels.
        mean: The mean that the loader, or for bytes this function, subtracts: one number for each channel
            or one for all channels; 0 by default. TrivialAugment undoes the normalisation by it.
        std: The standard deviation that the difference is divided by, in the same form; 1 by default.
        preparation: How the loader prepares images, as a phrase for model cards.
        memory_mb: The largest size of the images in MiB.
        crop: Whether images that are not square are cropped to the central square. Otherwise they keep
            their size, and training and inference squash them to the square input of the network.
        split: Name of the split for error messages.

    Returns:
        The dataset.

    Raises:
        DataError: if the loader is empty or gives something else, a label is not a class, the classes are
            not different names, the channels come last, the images take more than `memory_mb`, or values are
            NaN or infinite.
    """
    check_positive("memory_mb", memory_mb, "MiB")
    names = _names(classes)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    taken = 0
    for number, batch in enumerate(loader):
        found, said = _checked(batch, number, len(names))
        if not images:
            _check_channels_first(found, mean)
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
    shift, scale = _by_channel(mean, 0.0, channels), _by_channel(std, 1.0, channels)
    finite = all(map(math.isfinite, (*shift, *scale)))
    if (len(shift), len(scale)) != (channels, channels) or not finite or min(scale) <= 0:
        raise DataError(
            f"mean {shift} and std {scale} are not one finite number for each of {channels} channels, std "
            "above 0"
        )
    pixels, preparation = _squared(torch.cat(images), preparation, crop)
    settings: dict[str, Any] = {"name": "loader", "mean": shift, "std": scale}
    if split is not None:
        settings["split"] = split
    return Dataset(Held(pixels), torch.cat(labels), names, shift, scale, settings, preparation)


def _by_channel(values: float | Sequence[float] | None, default: float, channels: int) -> tuple[float, ...]:
    """Expand one number to all channels, or convert a sequence."""
    if values is None or np.ndim(values) == 0:
        return (default if values is None else float(values),) * channels  # type: ignore[arg-type]
    return tuple(float(x) for x in values)  # type: ignore[union-attr]


def _check_channels_first(images: Tensor, mean: float | Sequence[float] | None) -> None:
    """DataError for images (k, h, w, c), unless `mean` has a number for each of their h channels."""
    _, channels, _, last = images.shape
    stated = mean is not None and np.ndim(mean) == 1 and len(mean) == channels  # type: ignore[arg-type]
    if last in CHANNELS and channels not in CHANNELS and not stated:
        raise DataError(
            f"the loader has images of {_text(images)}, which looks like (k, h, w, c) with {last} "
            f"channel{'s' if last > 1 else ''} last; give channels first, (k, c, h, w): "
            f"images.permute(0, 3, 1, 2). If they do have {channels} channels, give mean {channels} numbers"
        )


def _squared(images: Tensor, preparation: str, crop: bool) -> tuple[Tensor, str]:
    """Crop images to their central square if `crop` is set; return them and their preparation."""
    height, width = images.shape[2:]
    side = min(height, width)
    if height == width:
        return images, preparation
    if crop:
        top, left = (height - side) // 2, (width - side) // 2
        square = images[:, :, top : top + side, left : left + side].clone()
        return square, f"{preparation}; the central {side}×{side} pixels kept"
    log.warning(
        "from_loader: all %s images are %d×%d (height × width) and are squashed to squares; crop=True keeps "
        "the central %d×%d pixels instead",
        f"{len(images):,}", height, width, side, side,
    )  # fmt: skip
    return images, preparation


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
