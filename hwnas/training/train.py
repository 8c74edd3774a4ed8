"""Training a supernet from Python: `hwnas.train`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from hwnas.config import Training, parse_training
from hwnas.errors import TrainingError
from hwnas.networks.base import WeightSharing
from hwnas.networks.supernet import Supernet
from hwnas.progress import Progress, silent
from hwnas.spaces import NetworkSpace
from hwnas.training.data import Dataset
from hwnas.training.loop import TrainingResult, strategy_settings
from hwnas.training.loop import train as train_supernet
from hwnas.training.parallel import world_size
from hwnas.training.strategies import Strategy, get_strategy


def train(
    space: NetworkSpace | WeightSharing,
    train_data: Dataset,
    validation_data: Dataset,
    *,
    steps: int = Training().steps,
    strategy: str | Mapping[str, Any] | Strategy | Callable[..., Strategy] = "sandwich",
    teacher: nn.Module | str | Path | None = None,
    directory: str | Path | None = None,
    seed: int = 0,
    progress: Progress | bool = silent,
    **options: Any,
) -> TrainingResult[Any]:
    """Train a supernet: the weights of all architectures of a space at once.

        data = [hwnas.load_dataset("cluttered-digits", split) for split in ("train", "validation")]
        net = hwnas.train(space, *data, steps=1500, directory="runs/digits").supernet
        net.save("runs/digits")

    With an explicit `precision`, equal arguments give equal weights, bit for bit, with the same torch on the
    same kind of processor. This is also how `hwnas train CONFIG` trains.

    Args:
        space: A space, whose new supernet is drawn by `seed`; or a supernet (any
            `hwnas.networks.base.WeightSharing`), which is trained in place.
        train_data: Labelled images to train on, from `load_dataset` or `from_loader`.
        validation_data: Labelled images on which the largest and the smallest subnet are evaluated.
        steps: Number of steps of the optimiser.
        strategy: Which subnets a step trains: a name ("sandwich", "attentive", "progressive", "uniform"); a
            mapping of a `name` and its parameters; a class derived from
            `hwnas.training.strategies.Strategy`, or a function, which is called with the space and `steps`;
            or an object of such a class.
        teacher: A network that gives logits of images; a supernet, whose largest subnet teaches; or the
            folder of a run or supernet. Without one, the largest subnet teaches as it stands.
        directory: Folder of the checkpoint. A training that was stopped resumes there with equal arguments.
            Without a folder no checkpoint is kept.
        seed: Seed of the first weights, and of all that is drawn.
        progress: A function of steps done, their total and a text; True prints lines to standard error.
        **options: Further fields of the section `training` of an experiment, such as `batch_size`,
            `learning_rate`, `precision`, `device` and `threads` (see `hwnas.config.Training`).

    Returns:
        The supernet in eval mode on the CPU, how it was computed, and the reports.

    Raises:
        ConfigError: If an option is unknown or has a wrong value.
        DataError: If the data does not fit the space or the options.
        TrainingError: If options do not fit each other, the checkpoint is that of another training, or the
            loss or a gradient is not finite.
    """
    if not isinstance(space, (NetworkSpace, WeightSharing)):
        raise TrainingError(f"space is {space!r:.80}; give a NetworkSpace or a Supernet")
    if directory is None and world_size() > 1:
        raise TrainingError("several processes train in one directory that all of them can read; give it")
    named, folder = isinstance(strategy, (str, Mapping)), isinstance(teacher, (str, Path))
    transformed = bool(getattr(space, "kernel_transform", False))  # supernets of other kinds have none
    if isinstance(space, WeightSharing):
        options.setdefault("kernel_transform", transformed)
    settings = parse_training(
        {
            **options,
            "steps": steps,
            **({"strategy": strategy} if named else {}),
            **({"teacher": str(teacher)} if folder else {}),
        },
        "train",
    )
    net: WeightSharing
    if isinstance(space, NetworkSpace):
        net = Supernet(space, seed, settings.kernel_transform)
    elif settings.kernel_transform != transformed:
        raise TrainingError(
            f"kernel_transform is {settings.kernel_transform}, and the supernet was made with "
            f"{transformed}; leave it out"
        )
    else:
        net = space
    recipe = settings.recipe
    network = teacher if isinstance(teacher, nn.Module) else None
    if network is not None:
        recipe["teacher"] = type(network).__name__
    own: Strategy | None = None
    if not isinstance(strategy, (str, Mapping)):
        own = get_strategy(strategy, net.space, settings.steps)
        recipe["strategy"] = strategy_settings(own)
    with tempfile.TemporaryDirectory() as temporary:
        where = temporary if directory is None else directory
        result = train_supernet(
            net, train_data, validation_data, settings, where, seed, progress, network, own
        )
    net.metadata = {"arithmetic": asdict(result.arithmetic)}
    if result.earlier:
        net.metadata["diverged"] = list(result.earlier)
    net.metadata["training"] = recipe
    return result
