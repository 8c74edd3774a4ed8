"""Folders of images, of any number: what does not fit into memory is streamed."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwnas.errors import DamagedImagesError, DataError, known_names
from hwnas.images import OLD_READER, READER, READERS, fitted
from hwnas.text import listed
from hwnas.training.data.base import SPLITS, Source, Split, check_positive, is_utf8
from hwnas.training.data.stored import Check, Files, Stored, read_split

HELD_OUT = 0.1  # of each class's training images, for a split that has no folder
FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")  # files of operating systems, in lower case
CLUTTER_FOLDERS = ("__macosx", "@eadir")
DECODED = {READER: "at full size", OLD_READER: "at 1/2, 1/4 or 1/8 where that is no smaller"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

log = logging.getLogger("hwnas.data")


def imagefolder(
    split: Split,
    seed: int,
    path: str | Path,
    size: int,
    memory_mb: int = 4096,
    skip_damaged: bool = False,
    reader: str = READER,
    left_out: Mapping[str, Sequence[str]] | None = None,
) -> Source:
    """Find the images of a split in a folder that holds one folder a class for each split.

    The folders are ``path/train/<class>/``, ``path/val/<class>/`` (or ``valid``, ``validation``) and
    ``path/test/<class>/``. A class folder may hold further folders, whose images belong to the class. Hidden
    files and what operating systems leave behind (`Thumbs.db`, `desktop.ini`, …) are no images.

    Images become RGB: they are turned as their EXIF orientation says, the shorter side is resized to `size`
    pixels and the centre is kept; normalised by ImageNet's mean and deviation. Grey is repeated, of 16 bits
    too, and transparent pixels lie on white.

    A split that takes at most `memory_mb` MiB, one byte a value, is decoded once and held in memory. A
    larger one is streamed: worker processes decode its images anew each time they are needed, ahead of the
    need. Both give the same images.

    Where the folder of validation or test is missing, about a tenth of each class's training images is held
    out for it, by a hash of the seed, the class and the file's name, so that an image stays in its split when
    others are added. A class so small that no image falls into a split gives it the next one; that one alone
    may go back to `train` as the class grows.

    Args:
        split: The split.
        seed: Chooses the images that are held out.
        path: The folder that holds `train`.
        size: Pixels of a side of the squares.
        memory_mb: The largest size of a split that is held in memory, in MiB.
        skip_damaged: Whether files that cannot be read as images are left out.
        reader: How files are read, see `hwnas.images`. A run records it; leave it out in an experiment. The
            old reader, `draft`, also lists folders in the old way: files directly in the class folders,
            validation in `val` only, broken links ignored.
        left_out: Names of files that are left out, such as ``{"train": ["cat/03.jpg"]}``, by split. A run
            records those that `skip_damaged` left out when its training began.

    Returns:
        The split; its images are not read yet.

    Raises:
        DataError: for a missing folder, fewer than two classes, an empty or too small class, a class name
            that is not UTF-8, classes that differ between the folders, two folders for validation, or a
            broken link. When the images are read: for files that cannot be opened, a class without a readable
            image, or too little free memory.
        DamagedImagesError: when the images are read, for files that cannot be read as images or whose range
            is unknown. It lists all of them. `train` checks images that are streamed before its first step.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(f"imagefolder: path is {path!r}; give the folder that holds train/")
    check_positive("imagefolder: size", size, "pixels")
    check_positive("imagefolder: memory_mb", memory_mb, "MiB")
    if reader not in READERS:
        raise DataError(f"imagefolder: unknown reader {reader!r}; {known_names(reader, READERS)}")
    if not isinstance(skip_damaged, bool):
        raise DataError(f"imagefolder: skip_damaged is {skip_damaged!r}; give true or false")
    names_left_out = _names_by_split(left_out)
    root = Path(path)
    try:
        folders = _split_folders(root, reader)
        listings = {part: _listing(folder, reader) for part, folder in folders.items()}
    except OSError as error:
        raise DataError(
            f"imagefolder: cannot read {error.filename}: {error.strerror}; check its permissions and the disk"
        ) from None
    files = {part: listing.files for part, listing in listings.items()}
    classes = tuple(files["train"])
    if len(classes) < 2:
        raise DataError(
            f"imagefolder: {folders['train']} has {len(classes)} class folders; at least 2 are needed"
        )
    for part, folder in folders.items():
        if set(files[part]) != set(classes):
            differ = sorted(set(files[part]) ^ set(classes))
            raise DataError(
                f"imagefolder: {folder} and {folders['train']} have different classes: "
                f"{', '.join(differ)} in one only"
            )
    missing = [part for part in SPLITS if part not in folders]
    for part, names in names_left_out.items():  # a removed file, too, so that the others keep their positions
        _add(files["train" if part in missing else part], names)
    for part in missing:
        files[part] = {}
    for name in classes:
        found = files["train"][name]
        if len(found) <= len(missing):
            raise DataError(
                f"imagefolder: {folders['train'] / name} has {len(found)} images, too few to hold out "
                f"1 for each of {', '.join(FOLDERS[part][0] for part in missing)}; add images or folders"
            )
        held = _held_out(name, found, missing, seed)
        for part in missing:
            files[part][name] = held[part]
        elsewhere = set(itertools.chain(*held.values()))
        files["train"][name] = [file for file in found if file not in elsewhere]
    folder = folders["train" if split in missing else split]
    chosen = [os.fsencode(os.path.join(name, file)) for name in classes for file in files[split][name]]
    labels = np.repeat(np.arange(len(classes)), [len(files[split][name]) for name in classes])

    def stored(check: Check) -> Stored:
        if split == "train":
            _log_summary(root, files, missing, listings, folders, names_left_out)
        photos = Photos(folder, chosen, size, reader)
        images = read_split(photos, memory_mb, skip_damaged, names_left_out.get(split, ()), check)
        counts = np.bincount(np.delete(labels, list(images.left_out.values())), minlength=len(classes))
        if not counts.all():
            name = classes[int(np.argmin(counts))]
            raise DataError(
                f"imagefolder: no image of class {name} of {split} can be read; repair files of "
                f"{folder / name}"
            )
        return images

    return Source(
        stored,
        labels,
        classes,
        IMAGENET_MEAN,
        IMAGENET_STD,
        f"RGB (turned by EXIF orientation, grey repeated, transparent pixels on white), the shorter side "
        f"resized to {size} pixels (bilinear; JPEG decoded {DECODED[reader]}), the centre of {size}×{size} "
        "kept",
        reader,
    )


def _names_by_split(left_out: Any) -> dict[Split, set[str]]:
    """Check the parameter `left_out`; DataError unless it has lists of file names by split."""
    if left_out is None:
        return {}
    if not isinstance(left_out, Mapping) or not set(left_out) <= set(SPLITS):
        raise DataError(f"imagefolder: left_out is {left_out!r:.80}; give lists of names by split")
    for names in left_out.values():
        for name in [names] if isinstance(names, str) else names:
            if not isinstance(name, str) or "/" not in name or isinstance(names, str):
                raise DataError(f"imagefolder: left_out names {name!r:.80}; give lists such as [cat/03.jpg]")
    return {split: set(left_out[split]) for split in SPLITS if split in left_out}


def _add(files: dict[str, list[str]], names: Iterable[str]) -> None:
    """Add file names that begin with their class to the listing of the classes."""
    for name in names:
        of_class, _, file = name.partition("/")
        if of_class in files and file not in files[of_class]:
            files[of_class] = sorted([*files[of_class], file])


def _split_folders(root: Path, reader: str) -> dict[Split, Path]:
    """Find the folder of each split; DataError if there is none for train, or two for one split."""
    folders: dict[Split, Path] = {}
    for split in SPLITS:
        names = FOLDERS[split][:1] if reader == OLD_READER else FOLDERS[split]
        if reader != OLD_READER:
            _check_links([root / name for name in names])
        present = [name for name in names if (root / name).is_dir()]
        if len(present) > 1:
            raise DataError(f"imagefolder: {root} has {' and '.join(present)}, all for {split}; keep one")
        if present:
            folders[split] = root / present[0]
    if "train" not in folders:
        raise DataError(f"imagefolder: there is no folder {root / 'train'}; it holds one folder a class")
    return folders


@dataclass(frozen=True)
class Listing:
    """The contents of a split's folder.

    `files` has the sorted file names of each class, `outside` the number of files outside class folders.
    """

    files: dict[str, list[str]]
    outside: int


def _listing(folder: Path, reader: str) -> Listing:
    """List the folder of a split; DataError for a broken link, an empty class or one that is not UTF-8."""
    files, outside, links = {}, 0, []
    for sub in sorted(folder.iterdir()):
        if sub.name.startswith(".") or (reader != OLD_READER and _is_clutter(sub.name, sub.is_dir())):
            continue
        if not sub.is_dir():
            links.append(sub)
            outside += 1
            continue
        if not is_utf8(sub.name):
            raise DataError(f"imagefolder: the name of the class folder {sub} is not UTF-8; rename it")
        if reader == OLD_READER:
            with os.scandir(sub) as entries:
                names = [e.name for e in entries if e.is_file() and not e.name.startswith(".")]
        else:
            names = list(_files_below(sub, "", (_inode(sub),), links))
        files[sub.name] = sorted(names)
    if reader != OLD_READER:
        _check_links(links)
    for name, names in files.items():
        if not names:
            raise DataError(f"imagefolder: {folder / name} is empty; give it images or remove it")
    return Listing(files, outside)


def _files_below(
    folder: Path, prefix: str, ancestors: tuple[tuple[int, int], ...], links: list[Path]
) -> Iterator[str]:
    """Walk a folder inside a class folder and give the names of its files relative to the class folder.

    Broken links are appended to `links`. `ancestors` identify this folder and those that contain it.
    """
    with os.scandir(folder) as entries:  # one system call for many files, of which there may be millions
        for entry in entries:
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if entry.name.startswith(".") or _is_clutter(entry.name, is_folder):
                continue
            if is_folder:
                inode = _inode(entry.path)
                if inode in ancestors:
                    raise DataError(
                        f"imagefolder: {entry.path} is a link to a folder around it; remove the link"
                    )
                yield from _files_below(
                    Path(entry.path), f"{prefix}{entry.name}/", (*ancestors, inode), links
                )
            elif entry.is_symlink() and not os.path.exists(entry.path):
                links.append(Path(entry.path))
            elif entry.is_file():  # pipes, sockets and devices are no images
                yield prefix + entry.name


def _inode(path: str | Path) -> tuple[int, int]:
    """Device and inode of a folder, which identify it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_clutter(name: str, is_folder: bool) -> bool:
    """Whether an operating system leaves a file or folder of this name behind."""
    return name.lower() in (CLUTTER_FOLDERS if is_folder else CLUTTER)


def _check_links(paths: Iterable[Path]) -> None:
    """Raise a DataError that names the broken links among paths."""
    broken = sorted(str(path) for path in paths if path.is_symlink() and not path.exists())
    if broken:
        raise DataError(
            f"imagefolder: {_count(len(broken), 'link')} to files or folders that do not exist: "
            f"{listed(broken)}; restore what they name, or remove the links"
        )


def _count(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _log_summary(
    root: Path,
    files: Mapping[Split, Mapping[str, Sequence[str]]],
    missing: Sequence[Split],
    listings: Mapping[Split, Listing],
    folders: Mapping[Split, Path],
    left_out: Mapping[Split, Collection[str]],
) -> None:
    """Log in one line the images and classes of each split, and the folders and files that are not used."""
    counts = []
    for split in SPLITS:
        fewer = len(left_out.get(split, ()))
        number = sum(map(len, files[split].values())) - fewer
        notes = ["held out of train"] * (split in missing) + [f"{fewer:,} left out"] * (fewer > 0)
        of_classes = f"{split} {_count(number, 'image')} of {len(files[split])} classes"
        counts.append(f"{of_classes} ({', '.join(notes)})" if notes else of_classes)
    others = [
        entry.name
        for entry in sorted(root.iterdir())
        if entry.is_dir()
        and entry not in folders.values()
        and not (entry.name.startswith(".") or _is_clutter(entry.name, True))
    ]
    unused = [f"folder {name}" for name in others]
    unused += [
        f"{_count(listing.outside, 'file')} of {folders[split].name} outside class folders"
        for split, listing in listings.items()
        if listing.outside
    ]
    text = f"imagefolder {root}: {'; '.join(counts)}"
    if unused:
        log.warning("%s; not used: %s", text, listed(unused))
    else:
        log.info("%s", text)


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
        self.folder = folder
        self.names = np.array(names)  # one object: a million strings would be copied into each worker
        self.shape = (3, size, size)
        self.reader = reader

    def __getitem__(self, index: int) -> Tensor:
        file = self.file(index)
        try:
            image = fitted(file, self.shape[2], self.shape[1], self.reader)
        except DamagedImagesError as error:
            (reason,) = error.files.values()
            message = (
                f"imagefolder: cannot read {file} as an image: {reason}; restore it from a copy, or "
                "repair it if no step of the training has read it; the training then resumes"
            )
            raise DamagedImagesError(message, error.files) from None
        except DataError as error:
            raise DataError(f"imagefolder: {error}") from None
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
