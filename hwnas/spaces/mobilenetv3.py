"""Once-for-All's MobileNetV3 space (https://arxiv.org/abs/1908.09791), and any other of a stage table.

The default table is the one that Once-for-All was trained with, at widths 1.0 and 1.2: five stages of 2 to 4
MBConv blocks, kernels 3, 5, 7 and expansions 3, 4, 6. Other tables make smaller or fused spaces; see `stages`
for how they are written and what their choices are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwnas.spaces.stages import StageTableSpace


def _ofa_stage(width: int, stride: int, activation: str, se: bool) -> dict[str, Any]:
    return {
        "block": "mbconv",
        "width": [width],
        "depth": [2, 3, 4],
        "kernel": [3, 5, 7],
        "expand": [3, 4, 6],
        "stride": stride,
        "activation": activation,
        "se": se,
    }


OFA_STEM = {"width": [16]}
OFA_STAGES = [
    {"block": "mbconv", "width": [16], "depth": [1], "kernel": [3], "expand": [1], "name": "first"},
    _ofa_stage(24, 2, "relu", False),
    _ofa_stage(40, 2, "relu", True),
    _ofa_stage(80, 2, "hswish", False),
    _ofa_stage(112, 1, "hswish", True),
    _ofa_stage(160, 2, "hswish", True),
]
OFA_HEAD = {"width": 960, "features": 1280}


class MobileNetV3Space(StageTableSpace):
    """See the module. `width` multiplies every width; channels are rounded to multiples of 8."""

    def __init__(
        self,
        width: float = 1.0,
        resolutions: Sequence[int] = (224,),
        stem: Mapping[str, Any] = OFA_STEM,
        stages: Sequence[Mapping[str, Any]] = OFA_STAGES,
        head: Mapping[str, Any] = OFA_HEAD,
        classes: int = 1000,
        channels: int = 3,
    ) -> None:
        """`resolutions` in pixels, `classes` and `channels` of the data; SpaceError for a wrong table."""
        super().__init__("mobilenetv3", width, resolutions, stem, stages, head, classes, channels)
