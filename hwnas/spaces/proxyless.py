"""Once-for-All's ProxylessNAS space (https://arxiv.org/abs/1908.09791, https://arxiv.org/abs/1812.00332).

Five stages of 2 to 4 MBConv blocks and a sixth of one, kernels 3, 5, 7 and expansions 3, 4, 6, ReLU6
throughout, no squeeze-and-excite. Choices are called as in `stages`: `stage1.depth`, `stage1.layer1.kernel`,
… `stage6.layer1.expand`. It was trained at width 1.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.spaces.stages import StageTableSpace


def _stage(width: int, stride: int, depth: Sequence[int] = (2, 3, 4)) -> dict[str, Any]:
    return {
        "block": "mbconv",
        "width": [width],
        "depth": depth,
        "kernel": [3, 5, 7],
        "expand": [3, 4, 6],
        "stride": stride,
        "activation": "relu6",
    }


STEM = {"width": [32], "activation": "relu6"}
STAGES = [
    {**_stage(16, 1), "depth": [1], "kernel": [3], "expand": [1], "name": "first"},
    _stage(24, 2),
    _stage(40, 2),
    _stage(80, 2),
    _stage(96, 1),
    _stage(192, 2),
    _stage(320, 1, depth=[1]),
]
HEAD = {"width": 1280, "activation": "relu6"}


class ProxylessSpace(StageTableSpace):
    """See the module. `width` multiplies every width; channels are rounded to multiples of 8."""

    norm_eps = 1e-3  # that of Once-for-All's ProxylessNAS

    def __init__(
        self,
        width: float = 1.3,
        resolutions: Sequence[int] = (224,),
        classes: int = 1000,
        channels: int = 3,
    ) -> None:
        """`resolutions` in pixels, `classes` and `channels` of the data; SpaceError for wrong ones."""
        super().__init__("proxyless", width, resolutions, STEM, STAGES, HEAD, classes, channels)
        self.width = float(width)

    @property
    def definition(self) -> dict[str, Any]:
        """The keyword arguments that make this space again, with its name."""
        return {
            "name": self.name,
            "width": self.width,
            "resolutions": list(self.resolutions),
            "classes": self.classes,
            "channels": self.channels,
        }
