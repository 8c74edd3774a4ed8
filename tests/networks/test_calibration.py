from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwnas.errors import DataError
from hwnas.networks.blocks import build_network
from hwnas.networks.calibration import calibrate
from hwnas.networks.elastic import ElasticNorm

from .small_spaces import SPACES, batches, lively_supernet

NETS = {name: lively_supernet(space) for name, space in SPACES.items()}


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_statistics_are_those_of_torch(name: str, seed: int) -> None:
    """Torch's own cumulative average (momentum None) over a plain network with the same weights."""
    net = NETS[name]
    arch = net.space.sample(1, rng=seed)[0]
    data = batches(net.space, net.space.resolution(arch))
    network = net.extract(arch, calibrate(net, arch, data[:1]))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    with torch.no_grad():
        for batch in data:
            network(batch)
    expected = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    found = calibrate(net, arch, data).moments
    assert len(found) == len(expected)
    for (mean, var), module in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(mean, module.running_mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(var, module.running_var, rtol=1e-3, atol=1e-4)


def test_every_image_counts_alike() -> None:
    """A batch's weight is its number of images, in the mean as in the variance."""
    net = NETS["fused"]
    arch = net.space.sample(1, rng=0)[0]
    images = torch.cat(batches(net.space, net.space.resolution(arch)))
    parts = images[:1], images[1:]
    found = calibrate(net, arch, parts).moments
    alone = [calibrate(net, arch, [part]).moments for part in parts]
    for name, moments in found.items():
        for i, value in enumerate(moments):
            expected = sum(len(p) * a[name][i] for p, a in zip(parts, alone, strict=True)) / len(images)
            torch.testing.assert_close(value, expected)
    again = calibrate(net, arch, (images[:4], images[4:])).moments
    # What the first norm sees depends on no other norm: its mean is that of all images, however divided.
    torch.testing.assert_close(again["stem.conv"][0], found["stem.conv"][0])


def test_pairs_of_images_and_labels_serve_and_nothing_else_changes() -> None:
    net = NETS["fused"]
    arch = net.space.sample(1, rng=0)[0]
    data = batches(net.space, 16)
    checksum = net.checksum
    for training in (True, False):
        net.train(training)
        plain = calibrate(net, arch, data)
        pairs = calibrate(net, arch, ((batch, torch.zeros(len(batch))) for batch in data))
        assert net.training is training
        assert all(module.training is training for module in net.modules())
        for name, (mean, var) in plain.moments.items():
            assert torch.equal(mean, pairs.moments[name][0])
            assert torch.equal(var, pairs.moments[name][1])
            assert not mean.requires_grad
    assert net.checksum == checksum
    net.eval()


def test_every_norm_has_moments() -> None:
    net = NETS["mbconv"]
    arch = net.space.sample(1, rng=0)[0]
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in build_network(net.space, arch).modules())
    assert len(calibrate(net, arch, batches(net.space, 20)).moments) == norms
    assert sum(isinstance(m, ElasticNorm) for m in net.modules()) >= norms


def test_no_batches_and_too_small_batches_are_refused() -> None:
    net = NETS["fused"]
    arch = net.space.sample(1, rng=0)[0]
    with pytest.raises(DataError, match="no batches"):
        calibrate(net, arch, [])
    with pytest.raises(DataError, match="at least 2 images"):
        calibrate(net, arch, [torch.zeros(1, 1, 1, 1)])
