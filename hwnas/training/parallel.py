"""One process among several that train one supernet together, as torchrun starts them.

    torchrun --nproc-per-node 2 -m hwnas train CONFIG

Each computes its parts of every batch; gradients are averaged by torch's DistributedDataParallel. In a single
process nothing here does anything.
"""

from __future__ import annotations

import atexit
import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from hwnas.errors import TrainingError

# The first process judges subnets and writes checkpoints while the others wait for it.
LONGEST_WAIT = datetime.timedelta(hours=3)


def rank() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Which of the processes of this machine this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def connect(device: torch.device) -> None:
    """Connect the processes, by NCCL on CUDA, by Gloo on the CPU, until this one ends.

    Once for all trainings of a process: a second group may read the addresses of the first, and hang.
    """
    if world_size() == 1 or dist.is_initialized():
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    atexit.register(dist.destroy_process_group)


@contextmanager
def all_or_none() -> Iterator[None]:
    """TrainingError in place of torch's own where another of the processes is gone."""
    try:
        yield
    except RuntimeError as error:
        # NCCL's errors have a type of their own, Gloo's have its source file in the message.
        if world_size() == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise TrainingError(
            f"process {rank()} of {world_size()} has lost another one; the same command goes on from the "
            "last checkpoint"
        ) from error


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    if world_size() > 1:
        dist.all_reduce(value)
        value /= world_size()
    return value


def wait_for_all() -> None:
    """Go on when every process is here."""
    if world_size() > 1:
        dist.barrier()
