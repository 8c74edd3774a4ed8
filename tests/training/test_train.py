"""Training from Python: `hwnas.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hwnas
from hwnas.config import Training
from hwnas.errors import ConfigError, DataError, TrainingError
from hwnas.pipeline import load_run
from hwnas.training.loop import train as loop_train
from hwnas.training.strategies import Strategy, Subnet, Uniform

from ..conftest import TINY
from .small_data import blobs, tiny_space

QUICK: dict[str, Any] = {"steps": 4, "batch_size": 16, "warmup_steps": 1, "precision": "fp32", "threads": 1}


def quick(space: Any = None, **options: Any) -> Any:
    """A training of few steps on the blobs."""
    return hwnas.train(space or tiny_space(classes=3), blobs(), blobs(60, seed=1), **{**QUICK, **options})


class Two(Strategy):
    """Some random subnets on labels; what a user would write."""

    taught = False

    def __init__(self, space: Any, steps: int, number: int = 2) -> None:
        super().__init__(space, steps)
        self.parameters = {"number": number}

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: Any) -> list[Subnet]:
        archs = self.space.sample(self.parameters["number"], rng)
        return [Subnet(arch, labels=1, teacher=0) for arch in archs]


def test_it_trains_what_a_run_trains_to_the_digit(tiny_run: Path) -> None:
    run = load_run(tiny_run)
    data = [
        hwnas.load_dataset("cluttered-digits", split, seed=0, train=600, validation=200, test=200)
        for split in ("train", "validation")
    ]
    result = hwnas.train(run.space, *data, seed=TINY["seed"], **TINY["training"])
    trained = hwnas.load_supernet(tiny_run)
    assert result.supernet.checksum == trained.checksum
    assert result.supernet.metadata == trained.metadata
    stored = run.outputs("train")["reports"][-1]
    report = result.reports[-1]
    found = (report.step, report.loss, report.largest_accuracy, report.smallest_accuracy)
    assert found == tuple(stored[k] for k in ("step", "loss", "largest_accuracy", "smallest_accuracy"))


def test_a_space_and_its_supernet_are_trained_alike(tmp_path: Path) -> None:
    net = hwnas.Supernet(tiny_space(classes=3), 5)
    results = [quick(seed=5), quick(net, seed=5, directory=tmp_path)]
    assert results[1].supernet is net
    assert results[0].supernet.checksum == net.checksum
    assert (tmp_path / "checkpoint.safetensors").exists()
    loop_net = hwnas.Supernet(tiny_space(classes=3), 5)
    loop_train(loop_net, blobs(), blobs(60, seed=1), Training(**QUICK), tmp_path / "loop", 5)
    assert loop_net.checksum == net.checksum
    assert not net.training
    assert net.metadata == {
        "arithmetic": {"precision": "fp32", "channels_last": True},
        "training": Training(**QUICK).recipe,
    }


def test_a_strategy_is_a_name_a_mapping_a_class_a_function_or_an_object() -> None:
    space = tiny_space(classes=3)
    by_name = quick(strategy="uniform").supernet.checksum
    for strategy in ({"name": "uniform"}, Uniform, lambda space, steps: Uniform(space, steps)):
        assert quick(strategy=strategy).supernet.checksum == by_name
    result = quick(space, strategy=Two(space, 4, 1))
    assert result.supernet.checksum == by_name
    assert result.supernet.metadata["training"]["strategy"] == {"name": "Two", "number": 1}
    assert quick(strategy=Two).supernet.checksum != by_name


def test_a_stopped_training_resumes_with_the_same_strategy_alone(tmp_path: Path) -> None:
    def stop(done: int, total: int, text: str = "") -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(strategy=Two, directory=tmp_path, progress=stop)
    for other in (Uniform, "uniform", lambda space, steps: Two(space, steps, 3)):
        with pytest.raises(TrainingError, match="strategy"):
            quick(strategy=other, directory=tmp_path)
    resumed = quick(strategy=Two, directory=tmp_path)
    assert resumed.supernet.checksum == quick(strategy=Two).supernet.checksum


def test_a_teacher_is_a_network_or_a_folder(tmp_path: Path) -> None:
    teacher = hwnas.Supernet(tiny_space(classes=3), 7)
    teacher.save(tmp_path)
    one, other = quick(teacher=teacher).supernet, quick(teacher=tmp_path).supernet
    assert one.checksum == other.checksum != quick().supernet.checksum
    assert one.metadata["training"]["teacher"] == "Supernet"
    assert other.metadata["training"]["teacher"] == str(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ConfigError, r"train: steps: .* greater than or equal to 1 \(got 0\)"),
        ({"batchsize": 3}, ConfigError, r"batchsize: unknown key; .*did you mean 'batch_size'"),
        ({"strategy": "sandwhich"}, TrainingError, r"unknown training\.strategy 'sandwhich'"),
        ({"strategy": 3}, TrainingError, r"training strategy 3 has no method 'subnets'"),
        ({"strategy": nn.Identity}, TrainingError, r"strategy Identity.* has no method 'subnets'"),
        ({"kernel_transform": True}, TrainingError, "kernel_transform is True, and the supernet .* False"),
        ({"batch_size": 200}, DataError, "96 training images are fewer than a batch of 200"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(hwnas.Supernet(tiny_space(classes=3)), **options)


def test_a_strategy_without_phases_is_refused() -> None:
    class Bare:
        taught, space = False, tiny_space()

        def subnets(self, step: int, rng: np.random.Generator, batch_loss: Any) -> list[Subnet]:
            return []

    with pytest.raises(TrainingError, match=r"Bare has no attribute 'phases'; derive the class from hwnas"):
        quick(strategy=Bare())


def test_anything_but_a_space_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="space is 'mobilenetv3'; give a NetworkSpace or a Supernet"):
        quick("mobilenetv3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="several processes train in one directory"):
        quick()


def test_torch_draws_the_same_numbers_afterwards() -> None:
    state = torch.random.get_rng_state()
    quick()
    assert torch.equal(torch.random.get_rng_state(), state)
