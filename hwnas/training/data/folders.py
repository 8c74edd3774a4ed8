"""Folders of images, of any number: what does not fit into memory is streamed."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hwnas.errors import DataError, known_names
from hwnas.images import OLD_READER, READER, READERS, fitted
from hwnas.training.data.base import SPLITS, Source, Split, check_positive, is_utf8
from hwnas.training.data.stored import Files, held_or_streamed

HELD_OUT = 0.1  # of each class's training images, for a split that has no folder
FOLDERS = {"train": "train", "validation": "val", "test": "test"}
DECODED = {READER: "at full size", OLD_READER: "at 1/2, 1/4 or 1/8 where that is no smaller"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagefolder(
    split: Split, seed: int, path: str | Path, size: int, memory_mb: int = 4096, reader: str = READER
) -> Source:
    """Images in ``path/train/<class>/``, ``path/val/<class>/`` and ``path/test/<class>/``, as RGB.

    They are turned as their EXIF orientation says, the shorter side is resized to `size` pixels and the
    centre is kept; normalised by ImageNet's mean and deviation. Grey is repeated, of 16 bits too, and
    transparent pixels lie on white. Hidden files are passed over.

    A split that takes at most `memory_mb` MiB, one byte a value, is decoded once and held in memory. A
    larger one is streamed: worker processes decode its images anew each time they are needed, ahead of the
    need. Both give the same images.

    Where `val` or `test` is missing, about a tenth of each class's training images is held out for it, by
    a hash of the seed, the class and the file's name, so that an image stays in its split when others are
    added. A class so small that no image falls into a split gives it the next one; that one alone may go
    back to `train` as the class grows.

    `reader` names how files are read, see `hwnas.images`. A run records it; leave it out in an experiment.

    DataError for a missing folder, a single, empty or too small class, one whose name is not UTF-8, classes
    that differ between the folders, an unreadable image or one whose range is unknown, which a stream finds
    when it comes to it, or when less memory is free than `memory_mb` allows to fill.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(f"imagefolder: path is {path!r}; give the folder that holds train/")
    check_positive("imagefolder: size", size, "pixels")
    check_positive("imagefolder: memory_mb", memory_mb, "MiB")
    if reader not in READERS:
        raise DataError(f"imagefolder: unknown reader {reader!r}; {known_names(reader, READERS)}")
    root = Path(path)
    if not (root / "train").is_dir():
        raise DataError(f"imagefolder: there is no folder {root / 'train'}; it holds one folder a class")
    files = {"train": _class_files(root / "train")}
    classes = tuple(files["train"])
    if len(classes) < 2:
        raise DataError(
            f"imagefolder: {root / 'train'} has {len(classes)} class folders; at least 2 are needed"
        )
    missing = [other for other in SPLITS if not (root / FOLDERS[other]).is_dir()]
    for other in SPLITS[1:]:
        if other in missing:
            continue
        files[other] = _class_files(root / FOLDERS[other])
        if set(files[other]) != set(classes):
            differ = sorted(set(files[other]) ^ set(classes))
            raise DataError(
                f"imagefolder: {root / FOLDERS[other]} and {root / 'train'} have different classes: "
                f"{', '.join(differ)} in one only"
            )
    for other in missing:
        files[other] = {}
    for name in classes:
        found = files["train"][name]
        if len(found) <= len(missing):
            raise DataError(
                f"imagefolder: {root / 'train' / name} has {len(found)} images, too few to hold out "
                f"1 for each of {', '.join(FOLDERS[other] for other in missing)}; add images or folders"
            )
        held = _held_out(name, found, missing, seed)
        for other in missing:
            files[other][name] = held[other]
        gone = set(itertools.chain(*held.values()))
        files["train"][name] = [file for file in found if file not in gone]
    folder = root / FOLDERS["train" if split in missing else split]
    chosen = [os.fsencode(os.path.join(name, file)) for name in classes for file in files[split][name]]
    counts = [len(files[split][name]) for name in classes]
    return Source(
        lambda: held_or_streamed(Photos(folder, chosen, size, reader), np.arange(len(chosen)), memory_mb),
        np.repeat(np.arange(len(classes)), counts),
        classes,
        IMAGENET_MEAN,
        IMAGENET_STD,
        f"RGB (turned by EXIF orientation, grey repeated, transparent pixels on white), the shorter side "
        f"resized to {size} pixels (bilinear; JPEG decoded {DECODED[reader]}), the centre of {size}×{size} "
        "kept",
        reader,
    )


def _class_files(folder: Path) -> dict[str, list[str]]:
    """The names of the files of each class folder, both sorted."""
    found = {}
    for sub in sorted(folder.iterdir()):
        if sub.is_dir() and not sub.name.startswith("."):
            if not is_utf8(sub.name):
                raise DataError(f"imagefolder: the name of the class folder {sub} is not UTF-8; rename it")
            with os.scandir(sub) as entries:  # one system call for many files, of which there may be millions
                files = (e.name for e in entries if e.is_file() and not e.name.startswith("."))
                found[sub.name] = sorted(files)
            if not found[sub.name]:
                raise DataError(f"imagefolder: {sub} is empty; give it images or remove it")
    return found


def _held_out(name: str, files: Sequence[str], missing: Sequence[Split], seed: int) -> dict[Split, list[str]]:
    """The files of the class of this name that go to each missing split, in order; more than `missing` files.

    Each file has a number in 0…1 that follows from its name alone: those below HELD_OUT are for test, those
    above 1 - HELD_OUT for validation. At least one goes to each, and at least one stays.
    """
    place = {file: _place(name, file, seed) for file in files}
    most = (len(files) - 1) // max(len(missing), 1)
    held = {}
    for split in missing:
        distance = {file: 1 - at if split == "validation" else at for file, at in place.items()}
        count = sum(at < HELD_OUT for at in distance.values())
        nearest = sorted(files, key=lambda file: (distance[file], file))
        held[split] = sorted(nearest[: min(max(count, 1), most)])
    return held


def _place(name: str, file: str, seed: int) -> float:
    """A number in 0…1, uniform over names, from the seed and the names of class and file."""
    found = hashlib.sha256(f"{seed}/{name}/{file}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(found[:6]) / 2**48


class Photos(Files):
    """Image files as RGB squares of `size` pixels, by names relative to a folder."""

    def __init__(self, folder: Path, names: Sequence[bytes], size: int, reader: str = READER) -> None:
        self._folder = folder
        self._names = np.array(names)  # one object: a million strings would be copied into each worker
        self.shape = (3, size, size)
        self.reader = reader

    def __getitem__(self, index: int) -> Tensor:
        try:
            image = fitted(self._file(index), self.shape[2], self.shape[1], self.reader)
        except DataError as error:
            raise DataError(f"imagefolder: {error}") from None
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def identity(self, index: int) -> bytes:
        """Name and number of bytes."""
        file = self._file(index)
        try:
            return bytes(self._names[index]) + b"/%d/" % file.stat().st_size
        except OSError as error:
            raise DataError(
                f"imagefolder: cannot read {file}: {error.strerror}; repair or remove it"
            ) from None

    def _file(self, index: int) -> Path:
        return self._folder / os.fsdecode(self._names[index])
