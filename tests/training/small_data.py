"""A small space and little data, for trainings of seconds."""

from __future__ import annotations

import torch

from hwnas.spaces import NetworkSpace, get_space
from hwnas.training.data import Dataset, Held

STAGE = {"block": "fused", "depth": [1, 2], "kernel": [3], "expand": [1, 2]}


def tiny_space(classes: int = 10, channels: int = 1) -> NetworkSpace:
    """Two stages, two resolutions, well under a million MACs."""
    return get_space(
        "mobilenetv3",
        resolutions=(16, 24),
        channels=channels,
        classes=classes,
        stem={"width": [8], "activation": "relu"},
        stages=[{**STAGE, "width": [8, 16], "stride": 2}, {**STAGE, "width": [16, 24], "stride": 2}],
        head={"width": 32, "activation": "relu"},
    )


def blobs(n: int = 96, seed: int = 0) -> Dataset:
    """Noise whose brightness is the class: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randn(n, 1, 24, 24, generator=generator) * 0.5 + (labels - 1.0)[:, None, None, None]
    described = {"name": "blobs", "seed": seed}
    return Dataset(Held(images), labels, ("dark", "grey", "bright"), (0.0,), (1.0,), described, "noise")
