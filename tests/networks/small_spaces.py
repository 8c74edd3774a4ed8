"""Small spaces that together use every kind of operator and layer, and networks with lively batch norms."""

from __future__ import annotations

from hwnas.spaces import NetworkSpace, get_space
from hwnas.testing.networks import perturbed as lively
from hwnas.testing.networks import perturbed_supernet as lively_supernet
from hwnas.testing.networks import random_batches as batches

__all__ = ["SPACES", "batches", "lively", "lively_supernet"]

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
