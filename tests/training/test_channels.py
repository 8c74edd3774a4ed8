from __future__ import annotations

import pytest
import torch

from hwnas.networks.calibration import calibrate
from hwnas.spaces import get_space
from hwnas.training.channels import sort_channels

from ..networks.small_spaces import SPACES, batches, lively_supernet

BOTTLENECKS = get_space(
    "resnet50", widths=[0.1], ratios=[0.25, 0.5], depths=[0, 1], resolutions=[32], classes=7
)
ALL_SPACES = {**SPACES, "bottlenecks": BOTTLENECKS}


@pytest.mark.parametrize("name", ALL_SPACES)
def test_sorting_leaves_the_largest_as_it_is_and_changes_smaller_ones(name: str) -> None:
    space = ALL_SPACES[name]
    net = lively_supernet(space)
    big, small = space.largest(), space.smallest()
    outputs = []
    for _ in range(2):
        found = []
        for arch in (big, small):
            images = batches(space, space.resolution(arch))
            with torch.no_grad():
                found.append(net(images[0], arch, calibrate(net, arch, images)))
        outputs.append(found)
        sort_channels(net)
    assert torch.allclose(outputs[0][0], outputs[1][0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(outputs[0][1], outputs[1][1], atol=1e-2)


def test_what_is_read_most_comes_first() -> None:
    space = SPACES["mbconv"]
    net = lively_supernet(space)
    sort_channels(net)
    project = net.op("stage2.layer1", "project")
    importance = project.weight("conv.weight").detach().abs().sum((0, 2, 3))
    assert torch.equal(importance, importance.sort(descending=True).values)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sort_channels(net)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_sorting_again_leaves_every_subnet_as_it_is_that_was_open() -> None:
    """As before the second phase of expansions; the one that is opened next gets other channels."""
    stage = {
        "block": "mbconv",
        "width": [16],
        "depth": [2],
        "kernel": [3, 5],
        "expand": [2, 4, 6],
        "se": True,
    }
    space = get_space(
        "mobilenetv3",
        resolutions=(16,),
        classes=4,
        stem={"width": [16]},
        stages=[{**stage, "stride": 2}],
        head={"width": 32},
    )
    net = lively_supernet(space, seed=2)
    opened = [[1, 2] if c.name.endswith("expand") else range(len(c.values)) for c in space.choices]
    archs = list(space.sample(30, rng=0))
    images = batches(space, 16)
    found = []
    for _ in range(2):
        with torch.no_grad():
            found.append([net(images[0], arch, calibrate(net, arch, images)) for arch in archs])
        sort_channels(net, opened)
    for arch, before, after in zip(archs, *found, strict=True):
        expansions = {value for name, value in arch.values.items() if name.endswith("expand")}
        assert torch.allclose(before, after, atol=1e-4, rtol=1e-4) == (2 not in expansions)
    narrow = net.op("stage1.layer2", "project")
    importance = narrow.weight("conv.weight").detach().abs().sum((0, 2, 3))
    for part in (importance[:64], importance[64:]):
        assert torch.equal(part, part.sort(descending=True).values)
