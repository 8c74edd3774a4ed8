"""Networks whose parts all do something, and inputs for them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hwnas.networks.supernet import Supernet
from hwnas.ops.network import random_inputs
from hwnas.spaces import Architecture, NetworkSpace

Module = TypeVar("Module", bound=nn.Module)


@torch.no_grad()
def perturbed(net: Module, seed: int = 0) -> Module:
    """Move batch norms away from 1, 0, 0, 1, and kernel matrices away from the identity, in place.

    Args:
        net: A network or supernet.
        seed: Seed of the values.

    Returns:
        The same network.
    """
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


def perturbed_supernet(space: NetworkSpace, seed: int = 0, kernel_transform: bool = False) -> Supernet:
    """Return a supernet in eval mode whose residual blocks and kernel matrices do something.

    Args:
        space: The space.
        seed: Seed of all weights.
        kernel_transform: As for `Supernet`.
    """
    return perturbed(Supernet(space, rng=seed, kernel_transform=kernel_transform), seed).eval()


def random_batches(space: NetworkSpace, size: int, n: int = 3, images: int = 8) -> list[Tensor]:
    """Return batches of noise, (images, channels, size, size) each.

    Args:
        space: The space, which gives the channels.
        size: Height and width.
        n: Number of batches.
        images: Number of images of a batch.
    """
    generator = torch.Generator().manual_seed(n + size)
    return [torch.randn(images, space.input_shape[0], size, size, generator=generator) for _ in range(n)]


def input_batches(
    space: NetworkSpace, arch: Architecture, n: int = 3, samples: int = 8, seed: int = 0
) -> list[dict[str, Tensor]]:
    """Return batches of the inputs that a space declares for an architecture.

    Args:
        space: The space.
        arch: One of its architectures.
        n: Number of batches.
        samples: Number of samples of a batch.
        seed: Seed of the values.

    Returns:
        For each batch, tensors (samples, …) by the names of the inputs: floats from the normal distribution,
        integers uniform in their range.
    """
    generator, specs = np.random.default_rng(seed), space.inputs(arch)
    drawn = [random_inputs(specs, samples, generator) for _ in range(n)]
    return [{name: torch.from_numpy(array) for name, array in batch.items()} for batch in drawn]
