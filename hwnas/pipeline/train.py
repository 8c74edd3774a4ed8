"""Train: one supernet for all architectures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.images import OLD_READER
from hwnas.pipeline.profile import check_latency
from hwnas.progress import Progress
from hwnas.store import remove_folder

if TYPE_CHECKING:  # torch is loaded by the stages that need it
    from hwnas.networks.supernet import Supernet
    from hwnas.pipeline.job import Run
    from hwnas.training.loop import TrainingResult

log = logging.getLogger("hwnas")


def inputs(run: Run) -> dict[str, Any]:
    found = {
        "space": run.space.definition,
        "data": data_identity(run),
        "images": {split: run.data(split).checksum for split in ("train", "validation")},
        "training": run.config.training.recipe,
        "seed": run.config.seed,
    }
    teacher, done = run.config.training.teacher, run.store.stage("train")
    if teacher is None:
        return found
    if done is not None and not Path(teacher).exists():  # it has taught, and may be gone
        return {**found, "teacher": done["inputs"].get("teacher")}
    from hwnas.networks.supernet import load_supernet

    return {**found, "teacher": load_supernet(teacher).checksum}  # its path may hold another one now


def data_identity(run: Run) -> dict[str, Any]:
    """The dataset and its parameters as plain data; the old reader is recorded by its absence."""
    settings = run.named_data.model_dump()
    if settings.get("reader") == OLD_READER:
        del settings["reader"]
    return settings


def check(run: Run, pending: Sequence[str], again: bool) -> None:
    """Check the latency budgets, the data and the settings, and the checkpoint that would be resumed.

    Args:
        run: The run.
        pending: Stages that are made earlier in the same command.
        again: Whether the checkpoint is removed first.
    """
    from hwnas.networks.supernet import Supernet
    from hwnas.training.loop import check_training

    check_latency(run, pending)
    training = run.config.training
    net = Supernet(run.space, run.config.seed, training.kernel_transform)
    directory = None if again else run.directory / "supernet"
    check_training(net, run.data("train"), run.data("validation"), training, directory, run.config.seed)


def make(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    from hwnas.training.data import SPLITS

    result = train_supernet(run, progress)
    net = result.supernet
    layout = "channels last" if result.arithmetic.channels_last else "channels first"
    log.info("train: computed in %s, %s", result.arithmetic.precision, layout)
    net.save(run.directory / "supernet")
    outputs = {
        "checksum": net.checksum,
        **{key: value for key, value in net.metadata.items() if key != "training"},
        "reports": [asdict(report) for report in result.reports],
    }
    left_out = {split: sorted(run.data(split).stored.left_out) for split in SPLITS}
    if any(left_out.values()):
        outputs["left_out"] = {split: names for split, names in left_out.items() if names}
    return outputs, ["supernet/model.safetensors", "supernet/supernet.json"]


def train_supernet(run: Run, progress: Progress) -> TrainingResult[Supernet]:
    from hwnas.training.train import train

    return train(
        run.space,
        run.data("train"),
        run.data("validation"),
        directory=run.directory / "supernet",
        seed=run.config.seed,
        progress=progress,
        **run.config.training.model_dump(),
    )


def forget(run: Run) -> None:
    remove_folder(run.directory / "supernet")
