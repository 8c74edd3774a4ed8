from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import DataError
from hwnas.networks.calibration import calibrate
from hwnas.ops import Conv

from .small_spaces import SPACES, batches, lively_supernet

NETS = {name: lively_supernet(space) for name, space in SPACES.items()}


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_statistics_are_those_of_the_batches(name: str, seed: int) -> None:
    """Mean and unbiased variance of each batch, averaged, in a plain network with the same weights."""
    net = NETS[name]
    arch = net.space.sample(1, rng=seed)[0]
    data = batches(net.space, net.space.resolution(arch))
    moments: list[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def batch_norm(x, mean, var, scale, shift, training, momentum, eps):
        """Normalise by the statistics of the batch, and record them."""
        moments[-1].append((x.mean((0, 2, 3)), x.var((0, 2, 3))))
        centred = x - x.mean((0, 2, 3), keepdim=True)
        normal = centred / torch.sqrt(x.var((0, 2, 3), correction=0, keepdim=True) + eps)
        return normal * scale[:, None, None] + shift[:, None, None]

    network = net.extract(arch, calibrate(net, arch, data[:1])).train()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "batch_norm", batch_norm)
        for batch in data:
            moments.append([])
            network(batch)
    found = calibrate(net, arch, data).moments
    assert len(found) == len(moments[0])
    for calibrated, *batchwise in zip(found.values(), *moments, strict=True):
        for statistic, *of_batches in zip(calibrated, *batchwise, strict=True):
            torch.testing.assert_close(statistic, torch.stack(of_batches).mean(0), rtol=1e-3, atol=1e-4)


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
    ops = [op for operator in net.space.operators(arch) for op in operator.ops]
    norms = sum(op.norm for op in ops if isinstance(op, Conv))
    assert norms > 10
    assert len(calibrate(net, arch, batches(net.space, 20)).moments) == norms


def test_no_batches_and_too_small_batches_are_refused() -> None:
    net = NETS["fused"]
    arch = net.space.sample(1, rng=0)[0]
    with pytest.raises(DataError, match="no batches"):
        calibrate(net, arch, [])
    with pytest.raises(DataError, match="at least 2 images"):
        calibrate(net, arch, [torch.zeros(1, 1, 1, 1)])
