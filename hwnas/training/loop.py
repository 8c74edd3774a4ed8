"""Training a supernet: the sandwich rule with in-place distillation.

A step trains the largest subnet on labels and the smallest and some random ones on what the largest says
(https://arxiv.org/abs/2003.11142), each at its own resolution, and adds up their gradients. What a step
draws follows from the seed and the step's number alone, so a training that was killed goes on from its
last checkpoint to the same weights as one that was not.

With an explicit `precision`, the same supernet, data, settings and seed give the same weights, bit for bit,
with the same torch on the same kind of processor. With "auto" they do so for the same arithmetic, which is
measured: once, before the first step, and kept in the checkpoint from then on. Two trainings of one seed may
choose differently; `TrainingResult.arithmetic` says what was chosen.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from hwnas.config import Training
from hwnas.errors import ChecksumError, DataError, TrainingError
from hwnas.networks.supernet import Supernet, tensors_digest
from hwnas.progress import Progress, silent
from hwnas.spaces import Architecture, NetworkSpace
from hwnas.store import digest, read_bytes, write_bytes
from hwnas.training.augmentation import augment
from hwnas.training.data import Dataset, resize
from hwnas.training.evaluation import AccuracyEvaluator
from hwnas.training.sampling import largest, sandwich, smallest

SCHEMA = 1
SHOWN_EVERY = 10  # steps between two calls of progress that report nothing new
CHECKPOINT_FILE = "checkpoint.safetensors"
TIMED_ROUNDS = 5


@dataclass(frozen=True)
class Arithmetic:
    """How the convolutions of a training step are computed."""

    precision: str  # fp32, or bf16 by autocast
    channels_last: bool


@dataclass(frozen=True)
class Report:
    """How things stood after a step: training loss and accuracies in percent (calibrated)."""

    step: int
    loss: float  # of the largest subnet on labels, mean since the report before
    images_per_second: float  # training images, each seen by every subnet of the sandwich
    largest_accuracy: float
    smallest_accuracy: float


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training says: how it computed, and its reports, the last one at the last step."""

    arithmetic: Arithmetic
    reports: tuple[Report, ...]


def train(
    net: Supernet,
    train_data: Dataset,
    validation_data: Dataset,
    settings: Training,
    directory: str | Path,
    seed: int = 0,
    progress: Progress = silent,
    report_every: int = 200,
) -> TrainingResult:
    """Train a supernet in place, and leave it in eval mode.

    Every `report_every` steps, and after the last, the largest and the smallest subnet are judged on
    `validation_data`, `progress` is told, and `checkpoint.safetensors` is written into `directory`, for the
    first time before the first step. A checkpoint that is already there is gone on from, if it was made from
    the same supernet, data, settings and seed (TrainingError says what differs).

    TrainingError if the loss or a gradient is not finite, naming the step and the learning rate: weights
    and checkpoint are then those before that step. DataError if there are fewer images than a batch holds,
    or the images or classes are not those of the space.
    """
    _check_fit(net.space, train_data)
    if len(train_data) < settings.batch_size:
        raise DataError(
            f"{len(train_data)} training images are fewer than a batch of {settings.batch_size}; "
            "use a smaller training.batch_size"
        )
    path = Path(directory) / CHECKPOINT_FILE
    inputs = {
        "supernet": net.checksum,
        "data": train_data.checksum,
        "validation_data": validation_data.checksum,
        "seed": seed,
        **settings.model_dump(),
    }
    with _threads(settings.threads):
        optimizer = _optimizer(net, settings)
        net.train()
        if path.exists():
            step, arithmetic, reports = _resume(path, net, optimizer, inputs)
        else:
            step, arithmetic, reports = 0, choose_arithmetic(net, train_data, settings, seed), []
            _save(path, net, optimizer, inputs, step, arithmetic, reports)
        losses: list[float] = []
        started = time.perf_counter()
        while step < settings.steps:
            images, labels, archs = _draw(train_data, net, settings, seed, step)
            learning_rate = learning_rate_at(step, settings)
            loss = _accumulate(net, images, labels, archs, arithmetic, settings.label_smoothing)
            _update(net, optimizer, loss, learning_rate, step, settings)
            losses.append(loss)
            step += 1
            if step % report_every and step < settings.steps:
                if step % SHOWN_EVERY == 0:
                    progress(step, settings.steps, _text(reports[-1]) if reports else f"loss {loss:.3f}")
                continue
            rate = len(losses) * settings.batch_size / (time.perf_counter() - started)
            evaluator = AccuracyEvaluator(net, train_data, validation_data, seed=seed)
            large, small = evaluator([largest(net.space), smallest(net.space)]).tolist()
            reports.append(Report(step, float(np.mean(losses)), rate, large, small))
            _save(path, net, optimizer, inputs, step, arithmetic, reports)
            progress(step, settings.steps, _text(reports[-1]))
            losses, started = [], time.perf_counter()
    net.eval()
    return TrainingResult(arithmetic, tuple(reports))


def learning_rate_at(step: int, settings: Training) -> float:
    """Linear warm-up to `settings.learning_rate`, then half a cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def choose_arithmetic(net: Supernet, data: Dataset, settings: Training, seed: int) -> Arithmetic:
    """`settings.precision`, channels last; for "auto" what is fastest on this machine.

    That is the precision and memory layout in which a few steps of forward and backward take least time.
    Weights stay.
    """
    if settings.precision != "auto":
        return Arithmetic(settings.precision, channels_last=True)
    candidates = [Arithmetic(precision, last) for precision in ("fp32", "bf16") for last in (False, True)]
    images, labels, archs = _draw(data, net, settings, seed, step=0)
    seconds = np.empty((1 + TIMED_ROUNDS, len(candidates)))
    for turn in range(len(seconds)):  # the first warms up; in turns, so that a disturbance hits all alike
        for i, candidate in enumerate(candidates):
            started = time.perf_counter()
            _accumulate(net, images, labels, archs, candidate, settings.label_smoothing)
            seconds[turn, i] = time.perf_counter() - started
    net.zero_grad()
    return candidates[int(np.argmin(seconds[1:].min(axis=0)))]


def _check_fit(space: NetworkSpace, data: Dataset) -> None:
    """DataError if the networks of the space cannot take these images or tell these classes apart."""
    channels, classes = space.input_shape[0], space.operators(largest(space))[-1].out_shape[0]
    if (data.images.shape[1], len(data.classes)) != (channels, classes):
        raise DataError(
            f"the data has {data.images.shape[1]} channels and {len(data.classes)} classes, "
            f"the space is made for {channels} and {classes}; give the space those of the data"
        )


# ---- one step -------------------------------------------------------------------------------------


def _draw(
    data: Dataset, net: Supernet, settings: Training, seed: int, step: int
) -> tuple[Tensor, Tensor, list[Architecture]]:
    """Images, labels and subnets of a step: each epoch is a new order, what is left at its end is dropped."""
    size = settings.batch_size
    epoch, batch = divmod(step, len(data) // size)
    order = np.random.default_rng([seed, 0, epoch]).permutation(len(data))
    chosen = torch.from_numpy(order[batch * size : (batch + 1) * size])
    rng = np.random.default_rng([seed, 1, step])
    archs = sandwich(net.space, settings.random_subnets, rng)
    return augment(data.images[chosen], settings.crop_padding, settings.flip, rng), data.labels[chosen], archs


def _accumulate(
    net: Supernet,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Architecture],
    arithmetic: Arithmetic,
    label_smoothing: float,
) -> float:
    """The gradients of a step, summed over its subnets, into ``.grad``; the loss of the largest."""
    net.zero_grad()
    layout = torch.channels_last if arithmetic.channels_last else torch.contiguous_format
    resized: dict[int, Tensor] = {}
    teacher: Tensor | None = None
    hard_loss = math.nan
    for arch in archs:
        size = net.space.resolution(arch)
        if size not in resized:
            resized[size] = resize(images, size).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic.precision == "bf16"):
            logits = net(resized[size], arch)
        logits = logits.float()
        if teacher is None:
            teacher = logits.detach().softmax(1)
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            hard_loss = loss.item()
        else:
            loss = F.cross_entropy(logits, teacher)
        loss.backward()  # type: ignore[no-untyped-call]
    return hard_loss


def _update(
    net: Supernet,
    optimizer: torch.optim.SGD,
    loss: float,
    learning_rate: float,
    step: int,
    settings: Training,
) -> None:
    """One step of the optimiser, or TrainingError if it would spoil the weights."""
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    if not math.isfinite(loss) or not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        raise TrainingError(
            f"step {step}: loss {loss} or its gradient is not finite at learning rate {learning_rate:.4g}; "
            "lower training.learning_rate or raise training.warmup_steps, and start the training again"
        )
    if settings.clip_value is not None:
        torch.nn.utils.clip_grad_value_(net.parameters(), settings.clip_value)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


def _optimizer(net: Supernet, settings: Training) -> torch.optim.SGD:
    """Nesterov SGD; batch norm and biases, which have one dimension, do not decay."""
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


# ---- checkpoints ----------------------------------------------------------------------------------


def _save(
    path: Path,
    net: Supernet,
    optimizer: torch.optim.SGD,
    inputs: Mapping[str, Any],
    step: int,
    arithmetic: Arithmetic,
    reports: Sequence[Report],
) -> None:
    """One file, so that weights, momentum and step cannot come from different moments."""
    tensors = {f"net.{name}": tensor.contiguous() for name, tensor in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum.contiguous()
    state = {
        "schema": SCHEMA,
        "step": step,
        "inputs": inputs,
        "arithmetic": asdict(arithmetic),
        "reports": [asdict(report) for report in reports],
        "tensors": tensors_digest(tensors),
    }
    metadata = {"training": json.dumps(state), "sha256": digest(state)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def _resume(
    path: Path, net: Supernet, optimizer: torch.optim.SGD, inputs: Mapping[str, Any]
) -> tuple[int, Arithmetic, list[Report]]:
    """Put a checkpoint's weights and momentum in place; its step, arithmetic and reports."""
    remedy = "delete it to start the training again"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load(read_bytes(path))
        state = json.loads(metadata["training"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ChecksumError(f"{path} is not a checkpoint ({error}); {remedy}") from None
    if digest(state) != metadata.get("sha256") or tensors_digest(tensors) != state.get("tensors"):
        raise ChecksumError(f"{path} was changed after it was written; {remedy}")
    if state["schema"] != SCHEMA:
        raise TrainingError(f"{path} has schema {state['schema']}, this hwnas reads {SCHEMA}; {remedy}")
    now = json.loads(json.dumps(inputs))
    differ = [
        f"{k} was {state['inputs'].get(k)}, is {v}" for k, v in now.items() if state["inputs"].get(k) != v
    ]
    if differ:
        raise TrainingError(f"{path} is of another training ({'; '.join(differ)}); {remedy}")
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
    for name, parameter in net.named_parameters():
        if f"momentum.{name}" in tensors:
            optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{name}"]
    return state["step"], Arithmetic(**state["arithmetic"]), [Report(**report) for report in state["reports"]]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch, and the number from before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _text(report: Report) -> str:
    return (
        f"loss {report.loss:.3f}, {report.images_per_second:.0f} images/s, "
        f"largest {report.largest_accuracy:.1f} %, smallest {report.smallest_accuracy:.1f} %"
    )
