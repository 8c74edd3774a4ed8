"""A training as it stands after a step, on disk.

One file, so that weights, momentum and step cannot be of different moments.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hwnas.errors import ChecksumError, TrainingError
from hwnas.networks.supernet import Supernet, tensors_digest
from hwnas.store import digest, read_bytes, write_bytes

SCHEMA = 1
CHECKPOINT_FILE = "checkpoint.safetensors"


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

    net: Supernet
    optimizer: torch.optim.SGD
    arithmetic: Arithmetic
    step: int = 0
    reports: list[Report] = field(default_factory=list)
    average: dict[str, Tensor] | None = None  # of the weights by name, where one is kept
    teacher: Supernet | None = None  # the weights as they were, where a phase keeps them
    losses: list[float] = field(default_factory=list)  # of the steps since the last report


def save(path: Path, state: State, inputs: Mapping[str, Any]) -> None:
    """Write a training, and what it is made from, plain data."""
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
        "arithmetic": asdict(state.arithmetic),
        "reports": [asdict(report) for report in state.reports],
        "losses": state.losses,
        "tensors": tensors_digest(tensors),
    }
    metadata = {"training": json.dumps(about), "sha256": digest(about)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def load(path: Path, net: Supernet, optimizer: torch.optim.SGD, inputs: Mapping[str, Any]) -> State:
    """The training of a file, its weights and momentum put in place.

    TrainingError, with what differs, if it is made from something else; ChecksumError if it is damaged.
    """
    remedy = "delete it to start the training again"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load(read_bytes(path))
        about = json.loads(metadata["training"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ChecksumError(f"{path} is not a checkpoint ({error}); {remedy}") from None
    if digest(about) != metadata.get("sha256") or tensors_digest(tensors) != about.get("tensors"):
        raise ChecksumError(f"{path} was changed after it was written; {remedy}")
    if about["schema"] != SCHEMA:
        raise TrainingError(f"{path} has schema {about['schema']}, this hwnas reads {SCHEMA}; {remedy}")
    before, now = about["inputs"], json.loads(json.dumps(inputs))
    differ = [f"{k} was {before.get(k)}, is {v}" for k, v in now.items() if before.get(k) != v]
    if differ:
        raise TrainingError(f"{path} is of another training ({'; '.join(differ)}); {remedy}")
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
        about.get("losses", []),
    )


def copy_of(net: Supernet, weights: Mapping[str, Tensor]) -> Supernet:
    """A supernet of the same space, on the same device, with these weights."""
    made = copy.deepcopy(net)
    made.load_state_dict(weights)
    return made
