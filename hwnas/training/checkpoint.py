"""A training as it stands after a step, on disk.

One file, so that weights, momentum and step cannot be of different moments.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hwnas.errors import ChecksumError, TrainingError
from hwnas.images import OLD_READER
from hwnas.inputs import canonical
from hwnas.networks.base import WeightSharing, tensors_digest
from hwnas.store import digest, read_bytes, write_bytes

SCHEMA = 1
CHECKPOINT_FILE = "checkpoint.safetensors"
REMEDY = "delete it to start the training again, or train in another folder (--run-dir)"

log = logging.getLogger("hwnas")


@dataclass(frozen=True)
class Arithmetic:
    """How the convolutions of a training step are computed."""

    precision: str  # fp32, or bf16 by autocast
    channels_last: bool


@dataclass(frozen=True)
class Report:
    """How things stood after a step: training loss and accuracies in percent (calibrated)."""

    step: int
    loss: float  # of each step's first subnet on labels, mean since the report before
    images_per_second: float  # training images, each seen by every subnet of the step
    largest_accuracy: float
    smallest_accuracy: float


@dataclass
class State:
    """All that a training changes."""

    net: WeightSharing
    optimizer: torch.optim.SGD
    arithmetic: Arithmetic
    step: int = 0
    reports: list[Report] = field(default_factory=list)
    average: dict[str, Tensor] | None = None  # of the weights by name, where one is kept
    teacher: WeightSharing | None = None  # the weights as they were, where a phase keeps them
    earlier: list[dict[str, Any]] = field(default_factory=list)  # learning rates that diverged, up to a step
    losses: list[float] = field(default_factory=list)  # of the steps since the last report


def save(
    path: Path, state: State, inputs: Mapping[str, Any], reading: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint.

    Args:
        path: The file.
        state: The training.
        inputs: Plain data that identifies the training.
        reading: Plain data on how the images are read: `reader`, see `hwnas.images`; `left_out`, the names of
            the files that are left out, by split; `files_read`, which identifies the files that have been
            read, or None where all of them count as read.
    """
    tensors = {f"net.{name}": tensor for name, tensor in state.net.state_dict().items()}
    for name, parameter in state.net.named_parameters():
        momentum = state.optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    tensors |= {f"average.{name}": tensor for name, tensor in (state.average or {}).items()}
    if state.teacher is not None:
        tensors |= {f"teacher.{name}": tensor for name, tensor in state.teacher.state_dict().items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {
        "schema": SCHEMA,
        "step": state.step,
        "inputs": inputs,
        "reading": reading or {},
        "arithmetic": asdict(state.arithmetic),
        "reports": [asdict(report) for report in state.reports],
        "losses": state.losses,
        "earlier": state.earlier,
        "tensors": tensors_digest(tensors),
    }
    _write(path, tensors, about)


def _write(path: Path, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> None:
    metadata = {"training": json.dumps(about), "sha256": digest(about)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def note_divergence(path: Path) -> int:
    """Say in a checkpoint that what followed it diverged, so that a lower learning rate may; its step."""
    tensors, about = _read(path)
    _write(path, tensors, {**about, "diverged": True})
    return int(about["step"])


def recorded_reading(path: Path) -> dict[str, Any]:
    """Read from a checkpoint how the images of its training are read.

    Args:
        path: The checkpoint.

    Returns:
        `reading` as `save` got it; empty for the checkpoint of an older hwnas.

    Raises:
        ChecksumError: if the checkpoint is damaged.
    """
    return dict(_description(path).get("reading", {}))


def _description(path: Path) -> dict[str, Any]:
    """The plain data of a checkpoint; ChecksumError if it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        about: dict[str, Any] = json.loads(metadata["training"])
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise ChecksumError(f"{path} is not a checkpoint ({error}); {REMEDY}") from None
    if digest(about) != metadata.get("sha256"):
        raise ChecksumError(f"{path} was changed after it was written; {REMEDY}")
    return about


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, and what it says; ChecksumError if it is damaged."""
    try:
        tensors = safetensors.torch.load(read_bytes(path))
    except safetensors.SafetensorError as error:
        raise ChecksumError(f"{path} is not a checkpoint ({error}); {REMEDY}") from None
    about = _description(path)
    if tensors_digest(tensors) != about.get("tensors"):
        raise ChecksumError(f"{path} was changed after it was written; {REMEDY}")
    return tensors, about


def load(
    path: Path,
    net: WeightSharing,
    optimizer: torch.optim.SGD,
    inputs: Mapping[str, Any],
    files_read: Callable[[int], str | None] = lambda step: None,
    reader: str | None = None,
) -> State:
    """Load a checkpoint and put its weights and momentum in place.

    A training that diverged resumes with a lower learning rate. Training files that no step has read may
    have changed, unless one was added, removed or renamed. Validation images may have changed if no report
    has used them.

    Args:
        path: The checkpoint.
        net: The supernet that gets the weights.
        optimizer: The optimiser that gets the momentum.
        inputs: Plain data that identifies the training, as `save` gets it.
        files_read: Identifies the files that this many steps read of the present training images.
        reader: How the present images are read, see `hwnas.images`.

    Returns:
        The training.

    Raises:
        TrainingError: if the checkpoint is of another training; the message says what differs.
        ChecksumError: if the checkpoint is damaged.
    """
    tensors, about = _read(path)
    earlier = _resumed(path, about, inputs, files_read, reader)
    if len(earlier) > len(about.get("earlier", [])):
        log.warning(
            "train: goes on from step %d, learning_rate was %s, is %s",
            about["step"],
            about["inputs"]["learning_rate"],
            inputs["learning_rate"],
        )
    device = next(net.parameters()).device

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v.to(device) for k, v in tensors.items() if k.startswith(prefix)}

    net.load_state_dict(part("net."))
    momentum = part("momentum.")
    for name, parameter in net.named_parameters():
        if name in momentum:
            optimizer.state[parameter]["momentum_buffer"] = momentum[name]
    return State(
        net,
        optimizer,
        Arithmetic(**about["arithmetic"]),
        about["step"],
        [Report(**report) for report in about["reports"]],
        part("average.") or None,
        copy_of(net, kept) if (kept := part("teacher.")) else None,
        earlier,
        about.get("losses", []),
    )


def check(
    path: Path,
    inputs: Mapping[str, Any],
    files_read: Callable[[int], str | None] = lambda step: None,
    reader: str | None = None,
) -> None:
    """Check that a training with these inputs can resume a checkpoint.

    Args:
        path: The checkpoint.
        inputs: What the training is made from, as for `save`.
        files_read: As for `load`.
        reader: As for `load`.

    Raises:
        TrainingError: The checkpoint is that of another training.
        ChecksumError: The checkpoint is damaged.
    """
    _resumed(path, _read(path)[1], inputs, files_read, reader)


def _resumed(
    path: Path,
    about: Mapping[str, Any],
    inputs: Mapping[str, Any],
    files_read: Callable[[int], str | None],
    reader: str | None,
) -> list[dict[str, Any]]:
    """The learning rates that diverged before; TrainingError for the checkpoint of another training."""
    if about["schema"] != SCHEMA:
        raise TrainingError(f"{path} has schema {about['schema']}, this hwnas reads {SCHEMA}; {REMEDY}")
    before, now = (
        canonical(each, {"": "training"}) for each in (about["inputs"], json.loads(json.dumps(inputs)))
    )
    differ = {k: f"{k} was {before.get(k)}, is {v}" for k, v in now.items() if before.get(k) != v}
    read = about.get("reading", {}).get("files_read")
    if "data" in differ and read is not None and read == files_read(about["step"]):
        del differ["data"]
        log.warning("train: image files that no step has read yet have changed; the training uses them")
    if not about["reports"]:
        differ.pop("validation_data", None)
    remedy = REMEDY
    if "data" in differ or "validation_data" in differ:
        before_reader = about.get("reading", {}).get("reader", OLD_READER)
        remedy = f"restore the images that it has used, or {REMEDY}"
        if reader not in (None, before_reader):
            remedy = f"read the images by its reader, {before_reader}, not by {reader}, or {REMEDY}"
    earlier = about.get("earlier", [])
    if (
        "diverged" in about
        and differ.keys() == {"learning_rate"}
        and now["learning_rate"] < before["learning_rate"]
    ):
        earlier = [*earlier, {"learning_rate": before["learning_rate"], "until_step": about["step"]}]
    elif differ:
        raise TrainingError(f"{path} is of another training ({'; '.join(differ.values())}); {remedy}")
    return list(earlier)


def copy_of(net: WeightSharing, weights: Mapping[str, Tensor]) -> WeightSharing:
    """A supernet of the same space, on the same device, with these weights."""
    made = copy.deepcopy(net)
    made.load_state_dict(weights)
    return made
