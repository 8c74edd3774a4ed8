"""Training a supernet: one loop, whatever the strategy.

A step trains the subnets that its strategy names, each at its own resolution, on labels, on what a teacher
says, or on both, and adds up their gradients. What a step draws follows from the seed and the step's number
alone, so a training that was killed goes on from its last checkpoint to the same weights as one that was not.

A batch may be computed in parts: by several processes (see `parallel`), one after another in each
(`Training.accumulate`), or both. Batch norm sees one part, gradients are the mean over all. Which process
computes which part changes nothing but the order of sums.

With an explicit `precision`, the same supernet, data, settings and seed give the same weights, bit for bit,
with the same torch on the same kind of processor (a GPU may add in another order). With "auto" they do so for
the same arithmetic, which is measured: once, before the first step, and kept in the checkpoint from then on.
Two trainings of one seed may choose differently; `TrainingResult.arithmetic` says what was chosen.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hwnas.config import Named, Training
from hwnas.errors import DataError, EvaluationError, TrainingError
from hwnas.files import expanded
from hwnas.memory import keep_freed_memory
from hwnas.networks.base import ElasticWeights, WeightSharing, check_weight_sharing, tensors_digest
from hwnas.networks.blocks import torch_generator
from hwnas.networks.drop import Drop
from hwnas.networks.supernet import load_supernet
from hwnas.plugins import identity
from hwnas.progress import Progress, as_progress, silent
from hwnas.spaces import Architecture, NetworkSpace
from hwnas.training import checkpoint
from hwnas.training.augmentation import augment
from hwnas.training.channels import sort_channels
from hwnas.training.checkpoint import CHECKPOINT_FILE, Arithmetic, Report, State
from hwnas.training.data import Check, Dataset, check_files, check_splits, resize
from hwnas.training.data.stored import CHECKED_FILE, Streamed
from hwnas.training.evaluation import AccuracyEvaluator
from hwnas.training.losses import LOSSES
from hwnas.training.parallel import all_or_none, connect, local_rank, mean, rank, wait_for_all, world_size
from hwnas.training.strategies import Phase, Strategy, Subnet, draws_subnets, get_strategy

TIMED_ROUNDS = 5
TOLERANCE = 0.01  # of images' values, by which normalising and resizing may miss 0…1


Net = TypeVar("Net", bound=WeightSharing)


@dataclass(frozen=True)
class TrainingResult(Generic[Net]):
    """The trained supernet, how it was computed, and the reports, the last one at the last step.

    `earlier` has `learning_rate` and `until_step` of those that diverged before a lower one went on.
    """

    supernet: Net = field(compare=False)  # torch modules are equal only to themselves
    arithmetic: Arithmetic
    reports: tuple[Report, ...]
    earlier: tuple[dict[str, Any], ...] = ()


class DivergedError(Exception):
    """The loss of a step, or its gradient, is not finite; the message says which step and learning rate."""


class Part:
    """A part of a batch: images (n, c, h, w), at any resolution, each made once, and their labels.

    `drop` is what subnets that learn from labels alone leave out.
    """

    def __init__(self, images: Tensor, labels: Tensor, drop: Drop | None) -> None:
        self.images = images
        self.labels = labels
        self.drop = drop
        self._at: dict[tuple[int, bool], Tensor] = {}

    def at(self, size: int, channels_last: bool) -> Tensor:
        """(n, c, size, size) in a memory layout."""
        if (size, channels_last) not in self._at:
            layout = torch.channels_last if channels_last else torch.contiguous_format
            self._at[size, channels_last] = resize(self.images, size).contiguous(memory_format=layout)
        return self._at[size, channels_last]


# From a part of a batch to what is said about it, (n, classes).
Teacher = Callable[[Part, Arithmetic], Tensor]


@dataclass(frozen=True)
class Plan:
    """What a training does and does not change: data, settings, and this process's part of each batch."""

    data: Dataset
    settings: Training
    seed: int
    strategy: Strategy
    teacher: Teacher | None
    device: torch.device
    parts: range  # of `of` parts of a batch, those of this process
    of: int


def train(
    net: Net,
    train_data: Dataset,
    validation_data: Dataset,
    settings: Training,
    directory: str | Path,
    seed: int = 0,
    progress: Progress | bool = silent,
    teacher: nn.Module | None = None,
    strategy: Strategy | Callable[..., Strategy] | None = None,
) -> TrainingResult[Net]:
    """Train a supernet in place, and leave it in eval mode on the CPU.

    Every `settings.report_every` steps, and after the last, the largest and the smallest subnet are judged on
    `validation_data`, and `checkpoint.safetensors` is written into `directory`, for the first time before
    the first step. A checkpoint that is already there is gone on from, if it was made from the same
    supernet, data, settings and seed (TrainingError says what differs). `progress` is told of every step; a
    KeyboardInterrupt that it raises leaves a checkpoint of that step.

    Files of images that are streamed are decoded once before the first step, and those that are damaged are
    listed together (DamagedImagesError). Which files were readable is kept in `directory`, so that they are
    not decoded again for that while they stay the same. In the first epoch the data is the same as that of
    the checkpoint if the names of all files, and the sizes of the files that its steps have read, are the
    same: a damaged file that no step has read may be repaired, or left out.

    `teacher`, otherwise that of the settings, is another supernet, whose largest subnet teaches, or any
    network that makes logits of images as the data has them; it is left as it was. `strategy` replaces the
    one that the settings name: an object, or a class or function that is called with the space and the number
    of steps. A checkpoint is resumed only with a strategy of the same class and `parameters`.

    In one of several processes of torchrun this computes its part of each batch; the first one judges,
    reports and writes, into a folder that all of them can read.

    TrainingError if the loss or a gradient is not finite, naming the step and the learning rate: the weights
    are then those before that step, and the checkpoint, of the last report, is gone on from with a lower
    `learning_rate`; for a teacher of other classes, or that is `net` itself; and if another process is lost.
    TrainingError, too, if outputs of the teacher, or outputs on `validation_data`, are NaN or infinite; and
    for settings that this kind of supernet does not support. SpaceError if `net` is no supernet.
    DataError if there are fewer images than a batch holds, the images or classes are not those of the space,
    the two datasets differ in their channels or classes, one of them is not a `Dataset`, or TrivialAugment is
    to change images whose values are not known.
    """
    progress = as_progress(progress, "train")
    check_weight_sharing(net)
    strategy = _made(strategy, net, settings)
    teacher, device = _prepared(net, train_data, validation_data, settings, teacher)
    directory = expanded(directory)
    if rank() == 0:
        check = Check(directory / CHECKED_FILE, progress)
        check_files({"train": train_data, "validation": validation_data}, check)
    keep_freed_memory()
    inputs = _inputs(net, train_data, validation_data, settings, seed, teacher, strategy)
    left_out = {"train": train_data.stored.left_out, "validation": validation_data.stored.left_out}
    reading = {
        "reader": train_data.reader,
        "left_out": {split: sorted(names) for split, names in left_out.items() if names},
    }
    path = directory / CHECKPOINT_FILE
    with _threads(settings.threads), _as_it_was(teacher), all_or_none():
        connect(device)
        plan = _plan(net, train_data, settings, seed, teacher, device, strategy)

        def save(state: State) -> None:
            read = _files_read(train_data, settings, seed, state.step)
            checkpoint.save(path, state, inputs, {**reading, "files_read": read})

        net.to(device).train()
        net.has_statistics = False  # those of imported weights are not those of trained ones
        optimizer = _optimizer(net, settings)
        if rank() == 0 and not path.exists():
            progress(0, settings.steps, "choosing precision and memory layout")
            save(State(net, optimizer, choose_arithmetic(net, plan)))
        wait_for_all()
        files_read = partial(_files_read, train_data, settings, seed)
        state = checkpoint.load(path, net, optimizer, inputs, files_read, train_data.reader)
        evaluator = AccuracyEvaluator(net, train_data, validation_data, seed=seed)
        model, batches = _data_parallel(net, device), _batches(plan, state.step)
        first, started = state.step, time.perf_counter()
        while state.step < settings.steps:
            try:
                state.losses.append(_step(state, model, plan, next(batches)))
            except DivergedError as error:
                if state.step == 0:
                    raise TrainingError(
                        f"{error}, before the weights were changed, so a lower learning rate does not help: "
                        "correct the images or the initial weights"
                    ) from None
                kept = checkpoint.note_divergence(path) if rank() == 0 else first
                raise TrainingError(
                    f"{error}; lower training.learning_rate, and the same command goes on from step "
                    f"{kept}; or raise training.warmup_steps and start the training again"
                ) from None
            if state.step % settings.report_every and state.step < settings.steps:
                text = _text(state.reports[-1]) if state.reports else f"loss {state.losses[-1]:.3f}"
                try:
                    progress(state.step, settings.steps, text)
                except KeyboardInterrupt:
                    if rank() == 0:
                        save(state)
                    raise
                continue
            loss, state.losses = float(np.mean(state.losses)), []
            if rank() == 0:
                rate = (state.step - first) * settings.batch_size / (time.perf_counter() - started)
                try:
                    with _averaged(state):
                        large, small = evaluator([net.space.largest(), net.space.smallest()]).tolist()
                except EvaluationError as error:
                    kept = checkpoint.note_divergence(path)
                    raise TrainingError(
                        f"step {state.step}: {error}; correct the images and start the training again, or "
                        f"lower training.learning_rate, and the same command goes on from step {kept}"
                    ) from None
                state.reports.append(Report(state.step, loss, rate, large, small))
                save(state)
                progress(state.step, settings.steps, _text(state.reports[-1]))
            first, started = state.step, time.perf_counter()
        wait_for_all()
    if state.average is not None:
        _swap(net, state.average)
    net.cpu().eval()
    return TrainingResult(net, state.arithmetic, tuple(state.reports), tuple(state.earlier))


def check_training(
    net: WeightSharing,
    train_data: Dataset,
    validation_data: Dataset,
    settings: Training,
    directory: str | Path | None = None,
    seed: int = 0,
    teacher: nn.Module | None = None,
    strategy: Strategy | Callable[..., Strategy] | None = None,
) -> None:
    """Check what `train` checks before its first step, without a change to any file.

    Args:
        net: As for `train`.
        train_data: As for `train`.
        validation_data: As for `train`.
        settings: As for `train`.
        directory: Folder whose checkpoint the training would resume; None if it starts from the beginning.
        seed: As for `train`.
        teacher: As for `train`.
        strategy: As for `train`.

    Raises:
        DataError: The data does not fit the supernet or the settings.
        TrainingError: Settings do not fit each other, or the checkpoint is that of another training.
        ChecksumError: The checkpoint is damaged.
    """
    check_weight_sharing(net)
    strategy = _made(strategy, net, settings)
    teacher, _ = _prepared(net, train_data, validation_data, settings, teacher)
    with _as_it_was(teacher):
        _plan(net, train_data, settings, seed, teacher, torch.device("cpu"), strategy)
    path = None if directory is None else expanded(directory) / CHECKPOINT_FILE
    if path is not None and path.exists():
        inputs = _inputs(net, train_data, validation_data, settings, seed, teacher, strategy)
        files_read = partial(_files_read, train_data, settings, seed)
        checkpoint.check(path, inputs, files_read, train_data.reader)


def _prepared(
    net: WeightSharing,
    train_data: Dataset,
    validation_data: Dataset,
    settings: Training,
    teacher: nn.Module | None,
) -> tuple[nn.Module | None, torch.device]:
    """The teacher and the device of a training whose data and settings fit."""
    check_splits({"train": train_data, "validation": validation_data})
    _check_fit(net.space, train_data)
    if len(train_data) < settings.batch_size:
        raise DataError(
            f"{len(train_data)} training images are fewer than a batch of {settings.batch_size}; "
            "use a smaller training.batch_size"
        )
    most = min(train_data.stored.shape[2:]) - 1
    if settings.crop_padding > most:
        raise TrainingError(
            f"training.crop_padding {settings.crop_padding} shifts images of {most + 1} pixels out of sight; "
            f"give at most {most}"
        )
    if settings.trivial_augment:
        _check_values(train_data)
    if teacher is None and settings.teacher is not None:
        teacher = load_supernet(settings.teacher)
    if teacher is net:
        raise TrainingError(
            "the teacher is the supernet that is to be trained; give another, or leave it out: the largest "
            "subnet then teaches as it stands"
        )
    return teacher, _device(settings)


def _made(
    strategy: Strategy | Callable[..., Strategy] | None, net: WeightSharing, settings: Training
) -> Strategy | None:
    """The strategy that takes the place of the settings' one, if there is one."""
    if isinstance(strategy, str):
        raise TrainingError(
            f"strategy is {strategy!r:.80}; give a Strategy, or name it in the settings: Training(strategy=…)"
        )
    return None if strategy is None else get_strategy(strategy, net.space, settings.steps)


def strategy_settings(strategy: Strategy) -> dict[str, Any]:
    """Return a strategy of a user as plain data, in the form of the setting `strategy`."""
    name, parameters = identity(strategy)
    return {"name": name, **parameters}


def _inputs(
    net: WeightSharing,
    train_data: Dataset,
    validation_data: Dataset,
    settings: Training,
    seed: int,
    teacher: nn.Module | None,
    strategy: Strategy | None,
) -> dict[str, Any]:
    """The inputs of a training as plain data; a checkpoint is resumed only with equal ones."""
    own = {} if strategy is None else {"strategy": strategy_settings(strategy)}
    return {
        "supernet": net.checksum,
        "data": train_data.checksum,
        "validation_data": validation_data.checksum,
        "seed": seed,
        **{k: v for k, v in settings.recipe.items() if k not in ("accumulate", "device")},
        **own,
        "teacher": None if teacher is None else tensors_digest(teacher.state_dict()),
        "parts": world_size() * settings.accumulate,
    }


def learning_rate_at(step: int, settings: Training, phase: Phase) -> float:
    """Linear warm-up to the phase's share of `settings.learning_rate`, then half a cosine to zero at its end.

    A phase warms up in its share of the warm-up steps, at most half of it.
    """
    peak, length = settings.learning_rate * phase.learning_rate, phase.end - phase.start
    warmup = min(settings.warmup_steps / settings.steps, 0.5) * length
    step -= phase.start
    if step < warmup:
        return peak * (step + 1) / max(1.0, warmup)
    done = (step - warmup) / max(1.0, length - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def choose_arithmetic(net: WeightSharing, plan: Plan) -> Arithmetic:
    """The precision of the settings, channels last; for "auto" what is fastest on this machine.

    That is the precision and memory layout in which a few steps of forward and backward take least time.
    Weights stay.
    """
    if plan.settings.precision != "auto":
        return Arithmetic(plan.settings.precision, channels_last=True)
    candidates = [Arithmetic(precision, last) for precision in ("fp32", "bf16") for last in (False, True)]
    batch = next(_batches(plan, 0))
    subnets = plan.strategy.subnets(0, _rng(plan, 0), lambda arch: 0.0)
    seconds = np.empty((1 + TIMED_ROUNDS, len(candidates)))
    for turn in range(len(seconds)):  # the first warms up; in turns, so that a disturbance hits all alike
        for i, candidate in enumerate(candidates):
            started = time.perf_counter()
            _accumulate(net, batch, subnets, candidate, plan, plan.teacher)
            if plan.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[turn, i] = time.perf_counter() - started
    net.zero_grad()
    return candidates[int(np.argmin(seconds[1:].min(axis=0)))]


# ---- what a training is made from -----------------------------------------------------------------


def _check_fit(space: NetworkSpace, data: Dataset) -> None:
    """DataError if the networks of the space cannot take these images or tell these classes apart."""
    channels, classes = space.input_shape[0], space.operators(space.largest())[-1].out_shape[0]
    if (len(data.mean), len(data.classes)) != (channels, classes):
        raise DataError(
            f"the data has {len(data.mean)} channels and {len(data.classes)} classes, "
            f"the space is made for {channels} and {classes}; give the space those of the data"
        )


def _check_values(data: Dataset) -> None:
    """DataError for images, given as floats, that are not 0…1 before what is said to have normalised them."""
    low, high = data.value_range
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise DataError(
            f"training.trivial_augment changes images of values 0 to 1; without their mean {data.mean} and "
            f"std {data.std} these are {low:.3g} to {high:.3g}; give from_loader the mean and std that its "
            "loader normalises by, or leave the setting out"
        )


def _device(settings: Training) -> torch.device:
    """The device of this process; TrainingError if there is none of the kind."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if local_rank() >= torch.cuda.device_count():
        raise TrainingError(
            f"training.device is {settings.device}, process {local_rank()} of this machine has no GPU: torch "
            f"sees {torch.cuda.device_count()}; start as many processes as there are, or use device: cpu"
        )
    return torch.device("cuda", local_rank())


def _plan(
    net: WeightSharing,
    data: Dataset,
    settings: Training,
    seed: int,
    teacher: nn.Module | None,
    device: torch.device,
    strategy: Strategy | None = None,
) -> Plan:
    of = world_size() * settings.accumulate
    if settings.batch_size % of or settings.batch_size // of < 2:
        raise TrainingError(
            f"training.batch_size {settings.batch_size} cannot be divided into {of} equal parts of 2 images "
            f"or more ({world_size()} processes, training.accumulate {settings.accumulate}); change one"
        )
    named = settings.strategy if strategy is None else Named(name=identity(strategy)[0])
    if strategy is None:
        subnets = settings.random_subnets
        strategy = get_strategy(named.name, net.space, settings.steps, subnets, named.parameters)
        if not draws_subnets(named.name):
            _check_unset(settings, "random_subnets", f"strategy {named.name} has no number of random subnets")
    elif (strategy.space.id, strategy.phases[-1].end) != (net.space.id, settings.steps):
        raise TrainingError(
            f"the strategy is made for space {strategy.space.id} and {strategy.phases[-1].end} steps, the "
            f"supernet is of {net.space.id} and training.steps is {settings.steps}; make it for these"
        )
    if not strategy.taught:
        _check_unset(settings, "loss", f"strategy {named.name} learns from labels alone")
    if teacher is not None and not strategy.taught:
        raise TrainingError(f"strategy {named.name} learns from labels alone; leave out training.teacher")
    _check_abilities(net, settings, strategy)
    first = rank() * settings.accumulate
    parts = range(first, first + settings.accumulate)
    teaches = None if teacher is None else _teacher(teacher, net.space, device)
    return Plan(data, settings, seed, strategy, teaches, device, parts, of)


def _check_abilities(net: WeightSharing, settings: Training, strategy: Strategy) -> None:
    """TrainingError if the settings ask for something that this kind of supernet cannot do."""
    kind = type(net).__name__
    if any((settings.dropout, settings.drop_connect)) and "drop" not in signature(net.forward).parameters:
        raise TrainingError(
            f"{kind} leaves nothing out in training; leave out training.dropout and training.drop_connect"
        )
    sorts = any(phase.sort_channels is not None for phase in strategy.phases)
    if sorts and not isinstance(net, ElasticWeights):
        raise TrainingError(
            f"strategy {settings.strategy.name} sorts channels, which {kind} does not support; choose "
            "another training.strategy"
        )


def _check_unset(settings: Training, name: str, why: str) -> None:
    """TrainingError if a setting that nothing would read says something else than it does by itself."""
    if getattr(settings, name) != Training.model_fields[name].default:
        raise TrainingError(f"{why}; leave out training.{name}, which is {getattr(settings, name)}")


def _teacher(network: nn.Module, space: NetworkSpace, device: torch.device) -> Teacher:
    """A network as a teacher of a space's networks: a supernet by its largest subnet, by batch statistics."""
    network.to(device).requires_grad_(False)
    if not isinstance(network, WeightSharing):
        network.eval()
        classes = space.operators(space.largest())[-1].out_shape[0]

        def checked(images: Tensor) -> Tensor:
            said = network(images)
            if not isinstance(said, Tensor) or said.shape != (len(images), classes):
                found = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
                raise TrainingError(
                    f"the teacher makes {found} of {len(images)} images, not ({len(images)}, {classes}), the "
                    "logits of the space's classes; choose a teacher of the same data"
                )
            return said

        return lambda part, arithmetic: _computed(checked, arithmetic, part.images)
    ends = [s.input_shape[:1] + s.operators(s.largest())[-1].out_shape for s in (network.space, space)]
    if ends[0] != ends[1]:
        raise TrainingError(
            f"the teacher is made for {ends[0][0]} channels and {ends[0][1]} classes, the space for "
            f"{ends[1][0]} and {ends[1][1]}; choose a teacher of the same data"
        )
    network.train()
    arch = network.space.largest()
    return lambda part, arithmetic: _logits(network, network.space, arch, part, arithmetic)


@torch.no_grad()
def _teaches(teacher: Teacher, batch: Sequence[Part], arithmetic: Arithmetic) -> bool:
    """Return whether the teacher's logits for a batch are finite."""
    return all(bool(teacher(part, arithmetic).isfinite().all()) for part in batch)


def _data_parallel(net: WeightSharing, device: torch.device) -> nn.Module:
    """The supernet, its gradients averaged over the processes if there are several.

    A step uses some parameters in some subnets only: what none of them used keeps no gradient.
    """
    if world_size() == 1:
        return net
    devices = [device] if device.type == "cuda" else None
    # The strides of a 1×1 kernel's gradient say nothing: the order of its values is the same.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    with warnings.catch_warnings():
        # What takes the argument's place would still exchange them once, and older torch has not got it.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(net, devices, broadcast_buffers=False, find_unused_parameters=True)


def _optimizer(net: WeightSharing, settings: Training) -> torch.optim.SGD:
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


# ---- one step -------------------------------------------------------------------------------------


def _step(state: State, model: nn.Module, plan: Plan, batch: Sequence[Part]) -> float:
    """One step of the optimiser; the loss of its first subnet on labels, or DivergedError."""
    step, net = state.step, state.net
    phase = next(phase for phase in plan.strategy.phases if step < phase.end)
    if step == phase.start:
        _begin(phase, state, plan.settings)

    def batch_loss(arch: Architecture) -> float:
        with torch.no_grad():
            logits = (_logits(net, net.space, arch, part, state.arithmetic) for part in batch)
            losses = [F.cross_entropy(said, part.labels) for said, part in zip(logits, batch, strict=True)]
        return float(mean(torch.stack(losses).mean()))

    subnets = plan.strategy.subnets(step, _rng(plan, step), batch_loss)
    teacher = plan.teacher
    if teacher is None and state.teacher is not None:
        teacher = _teacher(state.teacher, net.space, plan.device)
    loss = float(mean(_accumulate(model, batch, subnets, state.arithmetic, plan, teacher)))
    try:
        _update(state, loss, learning_rate_at(step, plan.settings, phase), plan.settings)
    except DivergedError as error:
        low = min(float(part.images.min()) for part in batch)
        high = max(float(part.images.max()) for part in batch)
        images = f"images with values from {low:.3g} to {high:.3g}"
        if plan.teacher is not None and not _teaches(plan.teacher, batch, state.arithmetic):
            raise TrainingError(
                f"step {step}: the logits of the teacher are NaN or infinite on {images}; correct the "
                "images, or choose another training.teacher"
            ) from None
        raise DivergedError(f"{error} on {images}") from None
    state.step += 1
    if state.average is not None:
        _follow(state, min(plan.settings.average, (1 + step - phase.start) / (10 + step - phase.start)))
    return loss


def _begin(phase: Phase, state: State, settings: Training) -> None:
    """What comes before a phase's first step."""
    if phase.keep_teacher:
        state.teacher = checkpoint.copy_of(state.net, state.net.state_dict())
    if phase.sort_channels is not None:
        assert isinstance(state.net, ElasticWeights)
        sort_channels(state.net, phase.sort_channels)
    state.optimizer.state.clear()
    if settings.average:
        state.average = {name: p.detach().clone() for name, p in state.net.named_parameters()}


def _rng(plan: Plan, step: int) -> np.random.Generator:
    """Of the subnets of a step: the same in every process."""
    return np.random.default_rng([plan.seed, 1, step])


def _batches(plan: Plan, step: int) -> Iterator[list[Part]]:
    """This process's parts of the batches of a step and those after it, without end, on its device.

    Each epoch is a new order of the images, what is left at its end is dropped.
    """
    settings, data = plan.settings, plan.data
    an_epoch, size = len(data) // settings.batch_size, settings.batch_size // plan.of
    left_out = tuple(data.stored.left_out.values())

    def chosen() -> Iterator[NDArray[np.int64]]:
        for epoch, batch in (divmod(i, an_epoch) for i in itertools.count(step)):
            for part in plan.parts:
                start = batch * settings.batch_size + part * size
                yield _order(len(data), left_out, plan.seed, epoch)[start : start + size]

    stream = data.stream(chosen())
    for i in itertools.count(step):
        yield [_part(*next(stream), plan, i, part) for part in plan.parts]


def _part(images: Tensor, labels: Tensor, plan: Plan, step: int, part: int) -> Part:
    """A part of a batch as it is trained on."""
    rng = np.random.default_rng([plan.seed, 2, step, part])
    data = plan.data
    images, labels = augment(images, labels, len(data.classes), data.mean, data.std, plan.settings, rng)
    rates = plan.settings.dropout, plan.settings.drop_connect
    drop = Drop(*rates, torch_generator(rng)) if any(rates) else None
    return Part(images.to(plan.device), labels.to(plan.device), drop)


@lru_cache(maxsize=2)
def _order(n: int, left_out: tuple[int, ...], seed: int, epoch: int) -> NDArray[np.int64]:
    """Draw the order of n images in an epoch.

    The order of all files is drawn, and those at the positions `left_out` are removed from it. Leaving out
    a file thus does not change the order of the files before it.
    """
    order = np.random.default_rng([seed, 0, epoch]).permutation(n + len(left_out))
    if not left_out:
        return order
    numbers = np.full(len(order), -1)  # of the images, by the position of the file
    numbers[np.delete(np.arange(len(order)), left_out)] = np.arange(n)
    return numbers[order][numbers[order] >= 0]


def _files_read(data: Dataset, settings: Training, seed: int, step: int) -> str | None:
    """Identify the files that the first `step` steps read.

    Returns None for images in memory, and after the first epoch, when every file was read.
    """
    if not isinstance(data.stored, Streamed) or step >= len(data) // settings.batch_size:
        return None
    order = _order(len(data), tuple(data.stored.left_out.values()), seed, 0)
    return data.stored.identity_of(order[: step * settings.batch_size])


def _accumulate(
    model: nn.Module,
    batch: Sequence[Part],
    subnets: Sequence[Subnet],
    arithmetic: Arithmetic,
    plan: Plan,
    teacher: Teacher | None,
) -> Tensor:
    """The gradients of a step into ``.grad``: summed over its subnets, averaged over the parts of the batch.

    The loss of the first subnet on labels is returned, averaged over the parts of this process. In one of
    several processes the last backward pass averages gradients over them.
    """
    model.zero_grad()
    hard = torch.zeros((), device=plan.device)
    passes = len(batch) * len(subnets)
    for part in batch:
        said = None
        if teacher is not None and any(subnet.teacher for subnet in subnets):
            with torch.no_grad():
                said = teacher(part, arithmetic)
        for j, subnet in enumerate(subnets):
            passes -= 1
            with _not_averaged(model) if passes else nullcontext():
                drop = None if subnet.teacher else part.drop
                logits = _logits(model, plan.strategy.space, subnet.arch, part, arithmetic, drop)
                loss = torch.zeros((), device=plan.device)
                if subnet.labels:
                    smoothing = plan.settings.label_smoothing
                    on_labels = F.cross_entropy(logits, part.labels, label_smoothing=smoothing)
                    loss = loss + subnet.labels * on_labels
                    if j == 0:
                        hard += on_labels.detach() / len(batch)
                if subnet.teacher:
                    assert said is not None
                    loss = loss + subnet.teacher * LOSSES[plan.settings.loss](logits, said)
                (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
            if said is None:
                said = logits.detach()
    return hard


def _not_averaged(model: nn.Module) -> AbstractContextManager[None]:
    """Gradients stay in this process until a backward pass outside of this."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _logits(
    model: nn.Module,
    space: NetworkSpace,
    arch: Architecture,
    part: Part,
    arithmetic: Arithmetic,
    drop: Drop | None = None,
) -> Tensor:
    """(n, classes) of a subnet at its resolution."""
    images = part.at(space.resolution(arch), arithmetic.channels_last)
    return _computed(model, arithmetic, images, arch, None, *([] if drop is None else [drop]))


def _computed(
    network: Callable[..., Tensor], arithmetic: Arithmetic, images: Tensor, *arguments: Any
) -> Tensor:
    """(n, classes), single precision, by an arithmetic."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=arithmetic.precision == "bf16"):
        return network(images, *arguments).float()


def _update(state: State, loss: float, learning_rate: float, settings: Training) -> None:
    """One step of the optimiser, or DivergedError if it would spoil the weights."""
    net = state.net
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    if not math.isfinite(loss) or not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        raise DivergedError(
            f"step {state.step}: loss {loss} or its gradient is not finite at learning rate "
            f"{learning_rate:.4g}"
        )
    if settings.clip_value is not None:
        torch.nn.utils.clip_grad_value_(net.parameters(), settings.clip_value)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()


# ---- the moving average of the weights ------------------------------------------------------------


@torch.no_grad()
def _follow(state: State, decay: float) -> None:
    """Move the average towards the weights. Young averages are short: `decay` is bounded by their age."""
    assert state.average is not None
    for name, parameter in state.net.named_parameters():
        state.average[name].lerp_(parameter, 1 - decay)


@contextmanager
def _averaged(state: State) -> Iterator[None]:
    """The averaged weights in the supernet's place, where there are some, and the weights back afterwards."""
    if state.average is None:
        yield
        return
    _swap(state.net, state.average)
    try:
        yield
    finally:
        _swap(state.net, state.average)


@torch.no_grad()
def _swap(net: WeightSharing, other: dict[str, Tensor]) -> None:
    """Exchange a supernet's weights with others of the same names."""
    for name, parameter in net.named_parameters():
        kept = parameter.clone()
        parameter.copy_(other[name])
        other[name].copy_(kept)


@contextmanager
def _as_it_was(teacher: nn.Module | None) -> Iterator[None]:
    """Afterwards the modes, gradient flags and device of a teacher are what they were before."""
    if teacher is None:
        yield
        return
    modes = [(module, module.training) for module in teacher.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in teacher.parameters()]
    device = flags[0][0].device if flags else torch.device("cpu")
    try:
        yield
    finally:
        teacher.to(device)
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


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
