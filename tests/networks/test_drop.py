from __future__ import annotations

import torch

from hwnas.networks.drop import Drop

from .small_spaces import SPACES, batches, lively_supernet


def drop(features: float = 0.0, connect: float = 0.0, seed: int = 0) -> Drop:
    return Drop(features, connect, torch.Generator().manual_seed(seed))


def test_what_stays_keeps_the_mean() -> None:
    x = torch.ones(20000, 3, 1, 1)
    features, branches = drop(0.2).of_features(x), drop(connect=0.4).of_branch(x, 0.5)
    for found, share in ((features, 0.2), (branches, 0.2)):
        assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / (1 - share)).item()}
        assert abs(found.mean() - 1) < 0.02
    assert torch.equal(branches[:, 0], branches[:, 1])  # a whole image or none of it
    assert not torch.equal(features[:, 0], features[:, 1])


def test_only_training_leaves_out() -> None:
    space = SPACES["mbconv"]
    net, arch = lively_supernet(space), space.largest()
    images = batches(space, 32)[0]
    net.train()
    whole = net(images, arch)
    assert torch.equal(net(images, arch, drop=drop()), whole)
    assert not torch.allclose(net(images, arch, drop=drop(features=0.5)), whole)
    one, again, other = (net(images, arch, drop=drop(connect=0.9, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert not torch.allclose(one, whole)
    net.eval()
    net.has_statistics = True
    assert torch.equal(net(images, arch, drop=drop(0.5, 0.5)), net(images, arch))
