"""Every function that takes a supernet takes another implementation of shared weights too."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hwnas
from hwnas.config import Named, Training
from hwnas.errors import SpaceError, TrainingError
from hwnas.export.quantize import PrecisionEvaluator
from hwnas.networks.base import WeightSharing
from hwnas.networks.blocks import build_network
from hwnas.networks.calibration import calibrate
from hwnas.networks.supernet import Supernet
from hwnas.pipeline import export_model, load_run
from hwnas.pipeline.entries import read_entry
from hwnas.spaces import PrecisionSpace
from hwnas.training.evaluation import AccuracyEvaluator, accuracy_of
from hwnas.training.finetune import inherited
from hwnas.training.loop import check_training, train
from tests.networks.split_supernet import SplitSupernet

from .small_data import blobs, tiny_space

SETTINGS = Training(
    steps=4, batch_size=16, learning_rate=0.05, warmup_steps=1, report_every=2, precision="fp32", threads=1
)


def split(precisions: tuple[str, ...] = ()) -> SplitSupernet:
    space = tiny_space(classes=3)
    return SplitSupernet(PrecisionSpace(space, precisions) if precisions else space, "stage1.depth")


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_it_is_trained_and_an_interrupted_training_ends_as_one_that_was_not(
    tmp_path: Path, average: float
) -> None:
    settings = SETTINGS.model_copy(update={"average": average})
    net, again = split(), split()
    before = net.checksum
    result = train(net, blobs(), blobs(60, 1), settings, tmp_path / "whole", progress=False)
    assert result.reports[-1].step == 4
    assert net.checksum != before
    assert not net.training

    def interrupt(done: int, total: int, text: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(again, blobs(), blobs(60, 1), settings, tmp_path / "parts", progress=interrupt)
    resumed = split()
    train(resumed, blobs(), blobs(60, 1), settings, tmp_path / "parts", progress=False)
    assert resumed.checksum == net.checksum


def test_the_public_function_trains_it(tmp_path: Path) -> None:
    net, options = split(), SETTINGS.model_dump()
    result = hwnas.train(net, blobs(), blobs(60, 1), directory=tmp_path, **options)
    assert result.supernet is net
    assert net.metadata["training"]["steps"] == 4
    with pytest.raises(TrainingError, match="kernel_transform is True, and the supernet was made with False"):
        hwnas.train(split(), blobs(), blobs(60, 1), **{**options, "kernel_transform": True})


def test_values_of_the_split_choice_share_no_weights(tmp_path: Path) -> None:
    net = split()
    settings = SETTINGS.model_copy(update={"strategy": Named(name="uniform"), "steps": 1})
    weights = [part.state_dict() for part in pickle.loads(pickle.dumps(net)).parts]
    train(net, blobs(), blobs(60, 1), settings, tmp_path, progress=False)
    changed = [
        any(not torch.equal(tensor, before[name]) for name, tensor in part.state_dict().items())
        for part, before in zip(net.parts, weights, strict=True)
    ]
    assert sorted(changed) == [False, True]


def test_it_is_calibrated_evaluated_extracted_and_exported(tmp_path: Path) -> None:
    net = split().eval()
    evaluator = AccuracyEvaluator(net, blobs(), blobs(60, 1))
    archs = net.space.sample(4, rng=0)
    accuracies = evaluator(archs)
    assert evaluator.settings["supernet"] == net.checksum
    assert np.array_equal(pickle.loads(pickle.dumps(evaluator))(archs), accuracies)
    for arch, accuracy in zip(archs, accuracies, strict=True):
        images = torch.randn(8, 1, net.space.resolution(arch), net.space.resolution(arch))
        statistics = calibrate(net, arch, [images])
        network = net.extract(arch, statistics)
        with torch.no_grad():
            torch.testing.assert_close(network(images), net(images, arch, statistics))
        assert accuracy_of(net.extract(arch, evaluator.statistics(arch)), blobs(60, 1)) == accuracy
        hwnas.export_onnx(network, tmp_path / "net.onnx", (1, *network.input_shape))


def test_its_subnets_are_judged_in_8_bits() -> None:
    net = split(("fp32", "int8")).eval()
    evaluator = AccuracyEvaluator(net, blobs(), blobs(60, 1))
    arch = net.space.largest()
    eight = net.space.architecture({**arch.values, "precision": "int8"})
    accuracies = PrecisionEvaluator(evaluator, 0)([arch, eight])
    assert accuracies[0] == evaluator.accuracy(arch)
    assert 0 <= accuracies[1] <= 100


def test_it_teaches_and_is_taught(tmp_path: Path) -> None:
    teacher, checksum = split(), split().checksum
    net = Supernet(teacher.space)
    train(net, blobs(), blobs(60, 1), SETTINGS, tmp_path / "a", progress=False, teacher=teacher)
    assert teacher.checksum == checksum
    train(split(), blobs(), blobs(60, 1), SETTINGS, tmp_path / "b", progress=False, teacher=net)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 0.1}, "SplitSupernet leaves nothing out in training; leave out training.dropout"),
        ({"drop_connect": 0.1}, "SplitSupernet leaves nothing out in training"),
        (
            {"strategy": Named(name="progressive")},
            "strategy progressive sorts channels, which SplitSupernet does not support; choose another",
        ),
    ],
)
def test_settings_that_it_does_not_support_are_refused(changes: dict[str, object], message: str) -> None:
    settings = Training.model_validate({**SETTINGS.model_dump(), **changes, "steps": 8, "random_subnets": 2})
    with pytest.raises(TrainingError, match=message):
        check_training(split(), blobs(), blobs(60, 1), settings)
    check_training(Supernet(tiny_space(classes=3)), blobs(), blobs(60, 1), settings)


def test_a_subnet_that_is_not_cut_from_larger_weights_is_not_fine_tuned() -> None:
    net = split()
    with pytest.raises(TrainingError, match="a subnet of SplitSupernet cannot be fine-tuned"):
        inherited(net, net.space.largest())


def test_what_is_no_supernet_is_named(tmp_path: Path) -> None:
    space = tiny_space(classes=3)
    network: nn.Module = build_network(space, space.largest())
    with pytest.raises(SpaceError, match="expected a supernet, got a StaticNetwork; give a Supernet, or"):
        AccuracyEvaluator(network, blobs(), blobs(60, 1))  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="expected a supernet"):
        train(network, blobs(), blobs(60, 1), SETTINGS, tmp_path, progress=False)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="expected a supernet, got a NoneType"):
        calibrate(None, space.largest(), [])  # type: ignore[arg-type]


def test_an_implementation_that_lacks_a_method_is_named() -> None:
    class Unfinished(SplitSupernet):
        extract = WeightSharing.extract  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"abstract class Unfinished with abstract method extract"):
        Unfinished(tiny_space(), "stage1.depth")


def test_a_run_exports_its_subnets(tiny_run: Path, tmp_path: Path) -> None:
    run = load_run(shutil.copytree(tiny_run, tmp_path / "copy"))
    arch = run.searched.evaluations[0].architecture
    net = SplitSupernet(run.space, run.space.choices[0].name)
    run.__dict__["supernet"] = net  # this one replaces the supernet of the folder
    export_model(run, arch)
    entry = read_entry(run, arch.id)
    expected = accuracy_of(net.extract(arch, run.evaluator.statistics(arch)), run.data("test"))
    assert entry["checks"]["torch_test_accuracy"] == expected
    assert entry["test_accuracy"] == pytest.approx(expected, abs=1.0)
