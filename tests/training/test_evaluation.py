from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hwnas.errors import EvaluationError
from hwnas.networks.supernet import Supernet
from hwnas.searching.loop import search
from hwnas.searching.objectives import Objective
from hwnas.store import digest
from hwnas.training import evaluation
from hwnas.training.evaluation import AccuracyEvaluator, accuracy_of, top1

from .small_data import blobs, tiny_space


def test_accuracy_is_that_of_the_calibrated_subnet() -> None:
    space = tiny_space(classes=3)
    net = Supernet(space).train()
    evaluator = AccuracyEvaluator(net, blobs(seed=1), blobs(300, seed=2), calibration_images=64)
    archs = space.sample(6, rng=0)
    found = evaluator(archs)
    assert found.shape == (6,)
    assert found.dtype == np.float64
    assert net.training
    for arch, accuracy in zip(archs, found, strict=True):
        network = net.extract(arch, evaluator.statistics(arch))
        assert accuracy == pytest.approx(accuracy_of(network, blobs(300, seed=2)), abs=0.4)
        assert not network.training
    assert np.array_equal(evaluator(list(archs)[::-1]), found[::-1])


def broken_net() -> Supernet:
    """A supernet in which the second layer of stage 1 makes NaN."""
    net = Supernet(tiny_space(classes=3))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "stage1" in name and "layer2" in name:
                parameter.fill_(float("nan"))
    return net


def test_a_search_records_networks_with_outputs_that_are_not_finite_as_failed() -> None:
    net = broken_net()
    evaluator = AccuracyEvaluator(net, blobs(seed=1), blobs(60, seed=2), calibration_images=32)
    objectives = [
        Objective("accuracy", "max", evaluator, expensive=True),
        Objective("macs", "min", net.space.macs),
    ]
    result = search(net.space, objectives, strategy="random", evaluations=9, seed=0)
    failed = [e for e in result.evaluations if e.status == "failed"]
    deep = {e.architecture.id for e in result.evaluations if e.architecture.values["stage1.depth"] == 2}
    assert 0 < len(deep) < 9
    assert {e.architecture.id for e in failed} == deep
    for failure in failed:
        assert failure.error is not None
        assert failure.error.startswith(
            f"accuracy: architecture {failure.architecture.id} on the data: the outputs for 60 of 60 images "
            "are NaN or infinite, first for image 0; check the values of this image"
        )
    assert result.front
    assert all(e.architecture.values["stage1.depth"] == 1 for e in result.front)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_logit_that_is_not_finite_is_no_answer(value: float) -> None:
    """The largest of [NaN, 0, 0] is class 0, which is the label here."""
    logits = torch.zeros(5, 3)
    logits[3, 0] = value
    batches = [(logits[:2], torch.zeros(2)), (logits[2:], torch.zeros(3))]
    with pytest.raises(
        EvaluationError, match=r"a network: the outputs for 1 of 5 images .* for image 3; check"
    ):
        top1(lambda images: images, batches, "a network")
    assert top1(lambda images: images, [(torch.eye(3), torch.tensor([0, 1, 0]))]).correct.tolist() == [
        1,
        1,
        0,
    ]


def test_images_are_counted_by_class() -> None:
    logits = torch.eye(4)[[0, 1, 1, 0, 0]]
    labels = torch.tensor([0, 1, 1, 1, 3])
    result = top1(lambda images: images, [(logits[:3], labels[:3]), (logits[3:], labels[3:])])
    assert result.accuracy == 60.0
    assert result.by_class(("a", "b", "c", "d")) == {
        "a": {"correct": 1, "images": 1},
        "b": {"correct": 2, "images": 3},
        "c": {"correct": 0, "images": 0},
        "d": {"correct": 0, "images": 1},
    }


def test_batches_too_many_to_keep_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Supernet(tiny_space(classes=3))
    archs = net.space.sample(4, rng=0)
    kept, anew = (AccuracyEvaluator(net, blobs(seed=1), blobs(300, seed=2), 64) for _ in range(2))
    expected = kept(archs)
    monkeypatch.setattr(evaluation, "KEPT_SHARE", 0)
    assert np.array_equal(anew(archs), expected)
    assert kept._kept
    assert not anew._kept


def test_what_is_kept_takes_a_quarter_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = blobs(300, seed=2)
    free = 4 * len(judged) * 16**2 * 4  # bytes, of which a quarter holds the images at 16 pixels, not at 24
    monkeypatch.setattr(evaluation.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    net = Supernet(tiny_space(classes=3))  # of two resolutions
    archs = net.space.sample(8, rng=0)
    evaluator = AccuracyEvaluator(net, blobs(seed=1), judged, 64)
    evaluator(archs)
    assert {net.space.resolution(arch) for arch in archs} == {16, 24}
    kept = {(len(data), size) for data, size, _ in evaluator._kept}
    assert kept == {(300, 16), (64, 16), (64, 24)}
    images = [images for batches in evaluator._kept.values() for images, _ in batches]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in images)


def test_settings_say_all_that_the_value_depends_on() -> None:
    net, data = Supernet(tiny_space(classes=3)), blobs()
    base = AccuracyEvaluator(net, data, data, 32).settings
    assert digest(base) == digest(AccuracyEvaluator(net, blobs(), blobs(), 32).settings)
    others = [
        AccuracyEvaluator(Supernet(net.space, rng=1), data, data, 32),
        AccuracyEvaluator(net, blobs(seed=1), data, 32),
        AccuracyEvaluator(net, data, blobs(seed=1), 32),
        AccuracyEvaluator(net, data, data, 33),
        AccuracyEvaluator(net, data, data, 32, seed=1),
    ]
    assert len({digest(base), *(digest(other.settings) for other in others)}) == 6


def test_no_architectures() -> None:
    net, data = Supernet(tiny_space(classes=3)), blobs()
    assert AccuracyEvaluator(net, data, data)([]).shape == (0,)
