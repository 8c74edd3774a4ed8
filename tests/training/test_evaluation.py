from __future__ import annotations

import numpy as np
import pytest

from hwnas.networks.supernet import Supernet
from hwnas.store import digest
from hwnas.training import evaluation
from hwnas.training.evaluation import AccuracyEvaluator, accuracy_of

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


def test_batches_too_many_to_keep_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Supernet(tiny_space(classes=3))
    archs = net.space.sample(4, rng=0)
    kept, anew = (AccuracyEvaluator(net, blobs(seed=1), blobs(300, seed=2), 64) for _ in range(2))
    expected = kept(archs)
    monkeypatch.setattr(evaluation, "KEPT_MIB", 0)
    assert np.array_equal(anew(archs), expected)
    assert kept._kept
    assert not anew._kept


def test_what_is_kept_is_bounded_over_all_resolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "KEPT_MIB", 1)
    net = Supernet(tiny_space(classes=3))  # of two resolutions
    archs = net.space.sample(8, rng=0)
    evaluator = AccuracyEvaluator(net, blobs(seed=1), blobs(300, seed=2), 64)
    evaluator(archs)
    pairs = [pair for batches in evaluator._kept.values() for pair in batches]
    held = sum(images.nbytes for images, _ in pairs)
    assert {net.space.resolution(arch) for arch in archs} == {16, 24}
    assert len(evaluator._kept) == 3  # of two datasets at two resolutions
    assert held == evaluator._kept_bytes <= 2**20


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
