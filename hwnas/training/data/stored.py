"""Where the images of a split are: in memory, or in files that worker processes read as they are needed.

Both give the same images for the same numbers, so that what is trained does not depend on which it is.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
import torch.utils.data
from numpy.typing import NDArray
from torch import Tensor

from hwnas.errors import DataError
from hwnas.images import OLD_READER
from hwnas.text import one_line

Indices = NDArray[np.int64]  # (k,) numbers of images
MIB = 2**20
CHUNK = 256  # images that a thread decodes at a time, and that a checksum takes in at a time
MEMORY_SHARE = 0.8  # of the free memory that one split may take
MOST_WORKERS = 16  # processes; each holds two batches ready


class Stored(ABC):
    """Images of one size by number: uint8 values 0…255, or float32 that are normalised already."""

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


@dataclass(frozen=True, eq=False)
class Held(Stored):
    """Images (n, c, h, w) in memory."""

    images: Tensor

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
    """Items that can be streamed: without reading them they are told from others."""

    reader: str  # of `hwnas.images`, by which they are decoded

    @abstractmethod
    def identity(self, index: int) -> bytes:
        """What a checksum takes in for an image."""


def decoded(items: Items, chosen: Indices) -> Held:
    """These images in memory, decoded once, by as many threads as there are processors."""
    images = torch.empty((len(chosen), *items.shape), dtype=torch.uint8)

    def fill(start: int) -> None:
        for place in range(start, min(start + CHUNK, len(chosen))):
            images[place] = items[int(chosen[place])]

    with ThreadPoolExecutor(processors()) as pool:
        for _ in pool.map(fill, range(0, len(chosen), CHUNK)):
            pass  # raises what a thread has raised
    return Held(images)


@dataclass(frozen=True, eq=False)
class Streamed(Stored):
    """Images that are decoded anew each time they are asked for, by worker processes, ahead of need.

    A subset of at most `memory_mb` MiB is decoded into memory.
    """

    items: Files
    chosen: Indices
    memory_mb: int

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
        for index in self.chosen:
            yield self.items.identity(int(index))


def held_or_streamed(items: Files, chosen: Indices, memory_mb: int) -> Stored:
    """These images, decoded into memory if they take at most `memory_mb` MiB; DataError if it is not free."""
    needed, free = len(chosen) * math.prod(items.shape), psutil.virtual_memory().available
    if needed > memory_mb * MIB:
        return Streamed(items, chosen, memory_mb)
    if needed > MEMORY_SHARE * free:
        raise DataError(
            f"{len(chosen)} images of {items.shape[1]}×{items.shape[2]} take {needed / 2**30:.1f} GiB of "
            f"memory, {free / 2**30:.1f} GiB are free; lower data.memory_mb below {needed // MIB}, so that "
            "they are streamed, or use a smaller size"
        )
    return decoded(items, chosen)


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
