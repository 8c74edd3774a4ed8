"""A model of a run trained on, as one more model beside it: what it inherits is where it starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import ConfigError, known_names
from hwnas.export.sums import SUMS_FILE
from hwnas.pipeline import (
    Display,
    Run,
    amend,
    check_data,
    check_unlocked,
    export_model,
    judge_entry,
    locked,
    measure_entries,
    model_folder,
    no_display,
    own_device,
    read_entry,
)
from hwnas.store import remove_folder
from hwnas.text import command_line

if TYPE_CHECKING:
    from hwnas.config import Training
    from hwnas.networks.base import WeightSharing

Z = 1.96  # standard errors in half a 95 % interval


def finetune_model(
    run: Run,
    model: str,
    epochs: int,
    learning_rate: float | None = None,
    again: bool = False,
    display: Display = no_display,
) -> dict[str, Any]:
    """Fine-tune an exported model of a run; the entry of the new one, `<model>-ft<epochs>`.

    It is trained by the run's own settings for training (learning rate: a tenth of theirs, unless given), on
    labels and on what the supernet's largest subnet says, then exported and, in a verified run, verified.
    `finetuned` of its entry says from what it was made, and its gain in validation accuracy over that in
    points, with a 95 % interval over the images. The old entry stays as it is. An interrupted training goes
    on from its checkpoint; one that is finished is not done again, unless `again`.

    ConfigError for a model that the run has not exported, or that is fine-tuned itself, and for one that was
    fine-tuned otherwise for as many epochs. StoreError if another process is at work in the folder.
    """
    check_unlocked(run.directory)
    parent = _parent(run, model)
    check_data(run)
    name = f"{model}-ft{epochs}"
    wanted = _made_from(run, parent, epochs, learning_rate)
    made = (model_folder(run, name) / SUMS_FILE).exists()  # written last
    if made and not again:
        rate = [] if learning_rate is None else ["--learning-rate", learning_rate]
        options = ["--model", model, "--epochs", epochs, *rate, "--restart"]
        _check_same(run, name, wanted, command_line("hwnas", "finetune", run.directory, *options))
    train = again or not made
    training = _training(run, parent, name, wanted, again) if train else None
    verified = run.store.stage("verify") is not None
    measure = verified and (train or name not in {entry["id"] for entry in run.models})
    device = own_device(run) if measure else None  # checked before the training begins
    with locked(run.directory):
        if again:
            remove_folder(_folder(run, name))
        if training is not None:
            _train(run, parent, name, wanted, training, display)
        if device is not None:
            entries = measure_entries(run, [name], device, display("verify"))
            for entry in entries:
                judge_entry(entry, run.config.latency.budgets_ms)
            amend(run, entries)
        remove_folder(_folder(run, name))
        with suppress(OSError):  # others are unfinished, or there is none
            _folder(run, name).parent.rmdir()
        return read_entry(run, name)


def _parent(run: Run, model: str) -> dict[str, Any]:
    """The entry of the model to be fine-tuned; ConfigError if there is none of this id."""
    run.outputs("export")
    entries = [read_entry(run, name) for name in run.outputs("search")["front"]]
    if run.store.stage("verify") is not None:
        entries += run.models
    known = dict.fromkeys(e["id"] for e in entries if "finetuned" not in e and e.get("precision") != "int8")
    if model not in known:
        raise ConfigError(
            f"{model!r} is no model of {run.directory} that can be fine-tuned; {known_names(model, known)}"
        )
    return read_entry(run, model)


def _check_same(run: Run, name: str, wanted: Mapping[str, Any], remake: str) -> None:
    """ConfigError, with what differs and the command that makes it again, if a model was made otherwise."""
    made = read_entry(run, name)["finetuned"]
    differ = [f"{key} was {made.get(key)}, is {v}" for key, v in wanted.items() if made.get(key) != v]
    if differ:
        raise ConfigError(
            f"{name} was made with other inputs: {'; '.join(differ)}; to replace it: {remake} (in Python: "
            "again=True)"
        )


def _made_from(
    run: Run, parent: Mapping[str, Any], epochs: int, learning_rate: float | None
) -> dict[str, Any]:
    """What a fine-tuned model is made from, as its entry says."""
    from hwnas.training.finetune import finetuning

    settings = finetuning(run.config.training, epochs, len(run.data("train")), learning_rate)
    return {
        "from": parent["id"],
        "epochs": epochs,
        "steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "supernet": run.outputs("train")["checksum"],
    }


def _training(
    run: Run, parent: Mapping[str, Any], name: str, made: Mapping[str, Any], again: bool
) -> tuple[WeightSharing, WeightSharing, Training]:
    """The network to train, its teacher and the settings, checked; `again` ignores an earlier checkpoint."""
    from hwnas.networks.supernet import load_supernet
    from hwnas.training.finetune import Alone, finetuning, inherited
    from hwnas.training.loop import check_training

    train, validation = run.data("train"), run.data("validation")
    settings = finetuning(run.config.training, made["epochs"], len(train), made["learning_rate"])
    net = inherited(run.supernet, run.space.architecture(parent["architecture"]))
    teacher = load_supernet(run.directory / "supernet")  # a copy: a teacher is put into another mode
    folder, strategy = None if again else _folder(run, name), Alone(net.space, settings.steps)
    check_training(net, train, validation, settings, folder, run.config.seed, teacher, strategy)
    return net, teacher, settings


def _train(
    run: Run,
    parent: Mapping[str, Any],
    name: str,
    made: Mapping[str, Any],
    training: tuple[WeightSharing, WeightSharing, Training],
    display: Display,
) -> None:
    """Train, judge and export a model."""
    from hwnas.training.evaluation import AccuracyEvaluator, top1_of
    from hwnas.training.finetune import Alone
    from hwnas.training.loop import train as train_network

    arch = run.space.architecture(parent["architecture"])
    train, validation = run.data("train"), run.data("validation")
    net, teacher, settings = training
    train_network(
        net,
        train,
        validation,
        settings,
        _folder(run, name),
        run.config.seed,
        display("finetune"),
        teacher=teacher,
        strategy=Alone(net.space, settings.steps),
    )
    images = run.config.search.calibration_images
    evaluator = AccuracyEvaluator(net, train, validation, images, run.config.seed)
    own = net.space.architecture(arch.values)
    network = net.extract(own, evaluator.statistics(own))
    old = run.supernet.extract(arch, run.evaluator.statistics(arch))
    before = top1_of(old, validation, f"model {parent['id']}")
    after = top1_of(network, validation, f"model {name}")
    gain, half = _difference(before.correct, after.correct)
    facts = {
        "id": name,
        "validation_accuracy": after.accuracy,
        "predicted": {**parent["predicted"], "accuracy": None},
        "finetuned": {**made, "gain": gain, "gain_ci": [gain - half, gain + half]},
    }
    if run.store.stage("verify") is not None and name in {entry["id"] for entry in run.models}:
        amend(run, [], gone=name)  # killed from here on, the run is whole without it
    export_model(run, arch, network, facts)


def _difference(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> tuple[float, float]:
    """The gain in accuracy on the same images, in points, and half its 95 % interval."""
    paired = 100 * (after.astype(float) - before)
    return float(paired.mean()), Z * float(paired.std(ddof=1)) / math.sqrt(len(paired))


def _folder(run: Run, name: str) -> Path:
    """Where the checkpoint of an unfinished training is."""
    return run.directory / "finetune" / name
