"""A small space and little data, for trainings of seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hwnas.spaces import NetworkSpace, get_space
from hwnas.training.data import Dataset, Held

STAGE = {"block": "fused", "depth": [1, 2], "expand": [1, 2]}


def tiny_space(classes: int = 10, channels: int = 1, kernels: Sequence[int] = (3,)) -> NetworkSpace:
    """Two stages, two resolutions, well under a million MACs."""
    return get_space(
        "mobilenetv3",
        resolutions=(16, 24),
        channels=channels,
        classes=classes,
        stem={"width": [8], "activation": "relu"},
        stages=[
            {**STAGE, "kernel": list(kernels), "width": widths, "stride": 2} for widths in ([8, 16], [16, 24])
        ],
        head={"width": 32, "activation": "relu"},
    )


def blobs(n: int = 96, seed: int = 0) -> Dataset:
    """Noise whose brightness is the class: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randn(n, 1, 24, 24, generator=generator) * 0.5 + (labels - 1.0)[:, None, None, None]
    described = {"name": "blobs", "seed": seed}
    return Dataset(Held(images), labels, ("dark", "grey", "bright"), (0.0,), (1.0,), described, "noise")
