"""Small spaces that together use every kind of operator and layer, and networks with lively batch norms."""

from __future__ import annotations

import torch
from torch import nn

from hwnas.networks.supernet import Supernet
from hwnas.spaces import NetworkSpace, get_space

STAGE = {"width": [16], "depth": [1, 2], "kernel": [3], "expand": [2]}

SPACES: dict[str, NetworkSpace] = {
    "mbconv": get_space(
        "mobilenetv3",
        resolutions=(20, 32),
        classes=7,
        stem={"width": [8, 16]},
        stages=[
            {**STAGE, "block": "mbconv", "expand": [1]},
            {
                **STAGE,
                "block": "mbconv",
                "width": [16, 24],
                "kernel": [3, 5, 7],
                "expand": [2, 3],
                "stride": 2,
            },
            {
                **STAGE,
                "block": "mbconv",
                "width": [24, 40],
                "kernel": [3, 5],
                "expand": [2, 6],
                "stride": 2,
                "activation": "hswish",
                "se": True,
            },
        ],
        head={"width": 48, "features": 64},
    ),
    "fused": get_space(
        "mobilenetv3",
        resolutions=(16, 24),
        channels=1,
        classes=10,
        stem={"width": [8, 16], "activation": "relu"},
        stages=[
            {**STAGE, "block": "fused", "width": [8, 16], "expand": [1, 2]},
            {**STAGE, "block": "fused", "width": [16, 24], "kernel": [3, 5], "stride": 2, "se": True},
        ],
        head={"width": 32, "activation": "relu6"},
    ),
    "basic": get_space(
        "mobilenetv3",
        resolutions=(16, 21),
        channels=1,
        classes=10,
        stem={"width": [8, 16], "stride": 1, "activation": "relu"},
        stages=[
            {**STAGE, "block": "basic", "width": [8, 16], "depth": [2], "expand": [1, 2], "stride": 2},
            {**STAGE, "block": "basic", "width": [16, 24], "depth": [1, 2, 3], "kernel": [3, 5]},
        ],
        head={"width": 32, "activation": "relu"},
    ),
}


@torch.no_grad()
def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network with batch norms away from 1, 0, 0, 1 and kernel matrices away from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if hasattr(module, "running_mean"):
            for name, tensor in module.state_dict().items():
                if tensor.dim():
                    low = -0.5 if name in ("bias", "running_mean") else 0.5
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    for name, parameter in net.named_parameters():
        if ".kernel_" in name:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def lively_supernet(space: NetworkSpace, seed: int = 0, kernel_transform: bool = False) -> Supernet:
    """A supernet in eval mode whose residual blocks, and kernel matrices if it has some, do something."""
    net = Supernet(space, rng=seed, kernel_transform=kernel_transform)
    lively(net, seed)
    return net.eval()


def batches(space: NetworkSpace, size: int, n: int = 3, images: int = 8) -> list[torch.Tensor]:
    """n batches of seeded noise."""
    generator = torch.Generator().manual_seed(n + size)
    return [torch.randn(images, space.input_shape[0], size, size, generator=generator) for _ in range(n)]
