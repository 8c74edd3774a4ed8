"""Where the images of a split are: in memory, or in files that worker processes read as they are needed.

Both give the same images for the same numbers, so that what is trained does not depend on which it is.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from hwnas.errors import DamagedImagesError, DataError
from hwnas.images import OLD_READER
from hwnas.progress import Progress, silent
from hwnas.store import write_bytes
from hwnas.text import listed, one_line

Indices = NDArray[np.int64]  # (k,) numbers of images
MIB = 2**20
CHUNK = 256  # images that a thread decodes at a time, and that a checksum takes in at a time
MEMORY_SHARE = 0.8  # of the free memory that one split may take
MOST_WORKERS = 16  # processes; each holds two batches ready
SAVED_EVERY = 20_000  # files between two writes of the record of a check
CHECKED_FILE = "checked_images.npy"

log = logging.getLogger("hwnas")


@dataclass(frozen=True)
class Check:
    """How the files of a split are checked.

    `record` is a file that lists the files that were decoded without an error. They are not checked again
    while their name, size and time of last change stay the same.
    """

    record: Path | None = None
    progress: Progress = silent


class Stored(ABC):
    """Images of one size by number: uint8 values 0…255, or float32 that are normalised already.

    `left_out` maps the name of each file that is left out to its position among all files of the split.
    """

    left_out: Mapping[str, int]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(n, c, h, w)."""

    @abstractmethod
    def batches(self, chosen: Iterable[Indices]) -> Iterator[Tensor]:
        """The images (k, c, h, w) of each (k,) numbers, in their order; `chosen` may be endless."""

    @abstractmethod
    def subset(self, chosen: Indices) -> Stored:
        """Some of the images, in this order."""

    @abstractmethod
    def contents(self) -> Iterator[bytes]:
        """What a checksum of the images is taken over."""

    def checked(self, check: Check) -> Stored:
        """Decode each file once unless the record lists it; DamagedImagesError names the damaged files."""
        return self


@dataclass(frozen=True, eq=False)
class Held(Stored):
    """Images (n, c, h, w) in memory."""

    images: Tensor
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        n, c, h, w = self.images.shape
        return n, c, h, w

    def batches(self, chosen: Iterable[Indices]) -> Iterator[Tensor]:
        for indices in chosen:
            yield self.images[torch.from_numpy(indices)]

    def subset(self, chosen: Indices) -> Held:
        return Held(self.images[torch.from_numpy(chosen)])

    def contents(self) -> Iterator[bytes]:
        for start in range(0, len(self.images), CHUNK):
            yield self.images[start : start + CHUNK].numpy().tobytes()


class Items(torch.utils.data.Dataset[Tensor], ABC):
    """Images that lie somewhere undecoded, all of one `shape` (c, h, w) once they are decoded."""

    shape: tuple[int, int, int]

    @abstractmethod
    def __getitem__(self, index: int) -> Tensor:
        """One image, uint8 (c, h, w); DataError names the one that cannot be read."""


class Files(Items, ABC):
    """Image files, which can be streamed; name and size identify a file.

    `names` are (n,) paths relative to `folder`, the folder of the split.
    """

    reader: str  # of `hwnas.images`, by which they are decoded
    folder: Path
    names: NDArray[np.bytes_]
    _status: NDArray[np.int64] | None = None

    def file(self, index: int) -> Path:
        """The path of a file."""
        return self.folder / self.name(index)

    def name(self, index: int) -> str:
        """The path of a file relative to the folder of the split."""
        return os.fsdecode(self.names[index])

    def status(self, chosen: Indices) -> NDArray[np.int64]:
        """Read the size in bytes and the time of the last change of files, once.

        Args:
            chosen: The numbers of the files, (k,).

        Returns:
            Bytes and nanoseconds, (k, 2).

        Raises:
            DataError: if a file cannot be read.
        """
        if self._status is None:
            self._status = np.full((len(self.names), 2), -1)
        for index in chosen[self._status[chosen, 0] < 0]:
            try:
                status = self.file(index).stat()
            except OSError as error:
                raise DataError(
                    f"imagefolder: cannot read {self.file(index)}: {error.strerror}; restore it"
                ) from None
            self._status[index] = status.st_size, status.st_mtime_ns
        return self._status[chosen]

    def fingerprints(self, chosen: Indices) -> NDArray[np.uint64]:
        """Hash the name, size and time of last change of each file, (k,)."""
        marks = np.empty(len(chosen), np.uint64)
        context = os.fsencode(f"{self.folder.name}/{self.reader}/")
        for place, (index, (size, changed)) in enumerate(zip(chosen, self.status(chosen), strict=True)):
            text = context + bytes(self.names[index]) + b"/%d/%d" % (size, changed)
            marks[place] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        return marks


def decoded(items: Items, chosen: Indices) -> Held:
    """These images in memory, decoded once, by as many threads as there are processors."""
    images = torch.empty((len(chosen), *items.shape), dtype=torch.uint8)
    damaged = _decode(items, chosen, images.__setitem__)
    if damaged:
        raise damaged_images(dict(damaged.values()))
    return Held(images)


def _decode(
    items: Items, chosen: Indices, keep: Callable[[int, Tensor], None], progress: Progress = silent
) -> dict[int, tuple[str, str]]:
    """Decode images in threads and pass each to `keep` with its position in `chosen`.

    Returns the path of each damaged file and the reason, by position in `chosen`.
    """
    damaged: dict[int, tuple[str, str]] = {}

    def work(start: int) -> None:
        for place in range(start, min(start + CHUNK, len(chosen))):
            try:
                keep(place, items[int(chosen[place])])
            except DamagedImagesError as error:
                (damaged[place],) = error.files.items()

    starts = range(0, len(chosen), CHUNK)
    with ThreadPoolExecutor(processors()) as pool:
        try:
            for start, _ in zip(
                starts, pool.map(work, starts), strict=True
            ):  # raises what a thread has raised
                progress(min(start + CHUNK, len(chosen)), len(chosen), "checking image files")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return dict(sorted(damaged.items()))


def damaged_images(files: Mapping[str, str]) -> DamagedImagesError:
    """Make the error that lists damaged image files.

    Args:
        files: The reason for each file, by its path.

    Returns:
        The error.
    """
    texts = [f"{path} ({reason})" for path, reason in files.items()]
    return DamagedImagesError(
        f"imagefolder: cannot read {len(files):,} file{'' if len(files) == 1 else 's'} as images: "
        f"{listed(texts)}; repair them, or leave them out by data.skip_damaged: true",
        files,
    )


@dataclass(frozen=True, eq=False)
class Streamed(Stored):
    """Images that are decoded anew each time they are asked for, by worker processes, ahead of need.

    A subset of at most `memory_mb` MiB is decoded into memory.
    """

    items: Files
    chosen: Indices
    memory_mb: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    record: Path | None = None  # of `Check`
    is_checked: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.chosen), *self.items.shape

    def batches(self, chosen: Iterable[Indices]) -> Iterator[Tensor]:
        loader = torch.utils.data.DataLoader(
            _Reported(self.items),
            batch_sampler=(self.chosen[indices].tolist() for indices in chosen),
            num_workers=min(processors(), MOST_WORKERS),
            collate_fn=_stacked,
            worker_init_fn=_uninterrupted,
            generator=torch.Generator(),  # otherwise it draws from torch's global one
        )
        try:
            for images in _iterated(loader):
                if isinstance(images, DataError):
                    raise images
                yield images
        except (RuntimeError, OSError, EOFError) as error:  # by where it was when it ended
            raise DataError(
                f"a process that decodes images ended ({one_line(error)}); make memory "
                "free, or use a smaller training.batch_size"
            ) from None

    def subset(self, chosen: Indices) -> Stored:
        return held_or_streamed(self.items, self.chosen[chosen], self.memory_mb)

    def contents(self) -> Iterator[bytes]:
        if self.items.reader != OLD_READER:  # checksums of older runs have no reader
            yield self.items.reader.encode()
        for index, (size, _) in zip(self.chosen, self.items.status(self.chosen), strict=True):
            yield bytes(self.items.names[index]) + b"/%d/" % size

    def checked(self, check: Check) -> Streamed:
        """Decode each file once unless it was checked before.

        Args:
            check: How files are checked. Its record is used if the images have none of their own.

        Returns:
            The images, marked as checked.

        Raises:
            DamagedImagesError: if files cannot be decoded.
        """
        if not self.is_checked:
            check = replace(check, record=self.record or check.record)
            if damaged := _damaged(self.items, self.chosen, check):
                raise damaged_images(dict(damaged.values()))
        return replace(self, is_checked=True)

    def identity_of(self, indices: Indices) -> str:
        """Identify the files by their names, and some of them by their sizes, too.

        Args:
            indices: Numbers of images, (k,), in the order in which they are used.

        Returns:
            SHA-256, in hexadecimal digits.
        """
        files = self.chosen[indices]
        found = hashlib.sha256(repr((self.items.shape, self.items.reader)).encode())
        for part in (self.items.names, files, self.items.status(files)[:, 0]):
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()


def held_or_streamed(items: Files, chosen: Indices, memory_mb: int) -> Stored:
    """These images, decoded into memory if they take at most `memory_mb` MiB; DataError if it is not free."""
    if not _is_held(items, len(chosen), memory_mb):
        return Streamed(items, chosen, memory_mb)
    return decoded(items, chosen)


def _is_held(items: Files, n: int, memory_mb: int) -> bool:
    """Whether n images take at most `memory_mb` MiB; DataError if so much memory is not free."""
    needed, free = n * math.prod(items.shape), psutil.virtual_memory().available
    if needed > memory_mb * MIB:
        return False
    if needed > MEMORY_SHARE * free:
        raise DataError(
            f"{n} images of {items.shape[1]}×{items.shape[2]} take {needed / 2**30:.1f} GiB of "
            f"memory, {free / 2**30:.1f} GiB are free; lower data.memory_mb below {needed // MIB}, so that "
            "they are streamed, or use a smaller size"
        )
    return True


def read_split(
    items: Files, memory_mb: int, skip_damaged: bool, left_out: Collection[str], check: Check
) -> Stored:
    """Read the images of a split, or prepare to stream them.

    Args:
        items: All files of the split.
        memory_mb: The largest size of images that are held in memory, in MiB.
        skip_damaged: Whether damaged files are left out. Images that are streamed are checked for that;
            otherwise they are checked before the first step of a training.
        left_out: Names of files that are left out, whatever they hold.
        check: How files are checked.

    Returns:
        The images; `left_out` has all that are not among them.

    Raises:
        DamagedImagesError: if files are damaged and not left out; it lists all, unless they are streamed.
        DataError: if memory is missing, or a file cannot be opened.
    """
    places = {items.name(index): index for index in range(len(items.names))} if left_out else {}
    without = {name: places[name] for name in sorted(left_out) if name in places}
    chosen = np.delete(np.arange(len(items.names)), list(without.values()))
    if _is_held(items, len(items.names), memory_mb):  # all files count, so that the choice never changes
        images = torch.empty((len(chosen), *items.shape), dtype=torch.uint8)
        damaged = _decode(items, chosen, images.__setitem__)
    else:
        images = None
        damaged = _damaged(items, chosen, check) if skip_damaged else {}
    if damaged:
        if not skip_damaged:
            raise damaged_images(dict(damaged.values()))
        texts = [f"{path} ({reason})" for path, reason in damaged.values()]
        log.warning(
            "imagefolder: left out %s of %s files that cannot be read as images: %s",
            f"{len(damaged):,}",
            f"{len(items.names):,}",
            listed(texts),
        )
        good = np.delete(np.arange(len(chosen)), list(damaged))
        without |= {items.name(int(chosen[place])): int(chosen[place]) for place in damaged}
        chosen, images = chosen[good], None if images is None else images[torch.from_numpy(good)]
    if images is not None:
        return Held(images, without)
    return Streamed(items, chosen, memory_mb, without, check.record, is_checked=skip_damaged)


def _damaged(items: Files, chosen: Indices, check: Check) -> dict[int, tuple[str, str]]:
    """Decode files that the record does not list, and record the readable ones.

    Returns the path of each damaged file and the reason, by position in `chosen`.
    """
    marks = items.fingerprints(chosen)
    known = _recorded(check.record)
    unknown = np.flatnonzero(~np.isin(marks, known))
    damaged: dict[int, tuple[str, str]] = {}
    for start in range(0, len(unknown), SAVED_EVERY):
        places = unknown[start : start + SAVED_EVERY]

        def progress(done: int, total: int, text: str = "", start: int = start) -> None:
            check.progress(start + done, len(unknown), text)

        found = _decode(items, chosen[places], lambda place, image: None, progress)
        damaged |= {int(places[place]): reason for place, reason in found.items()}
        if check.record is not None:
            known = np.union1d(known, np.delete(marks[places], list(found)))
            buffer = io.BytesIO()
            np.save(buffer, known)
            write_bytes(check.record, buffer.getvalue())
    return damaged


def _recorded(path: Path | None) -> NDArray[np.uint64]:
    """Read the fingerprints of checked files, (n,), from their record; empty if there is none."""
    none = np.empty(0, np.uint64)
    if path is None or not path.exists():
        return none
    try:
        marks = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        log.warning("%s is no record of checked images; they are checked again", path)
        return none
    return marks if isinstance(marks, np.ndarray) and marks.dtype == np.uint64 else none


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _iterated(loader: torch.utils.data.DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader, without torch's handler of SIGCHLD.

    That raises an error for a lost worker wherever this process is at that moment; without it the loader
    finds out when it waits for the next batch.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return batches


def _uninterrupted(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the one that trains ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Reported(torch.utils.data.Dataset[Tensor | DataError]):
    """Items whose errors are values: torch wraps one that is raised in a worker into its whole traceback."""

    def __init__(self, items: Items) -> None:
        self._items = items

    def __getitem__(self, index: int) -> Tensor | DataError:
        try:
            return self._items[index]
        except DataError as error:
            return error


def _stacked(images: Sequence[Tensor | DataError]) -> Tensor | DataError:
    for image in images:
        if isinstance(image, DataError):
            return image
    return torch.stack([image for image in images if isinstance(image, Tensor)])
