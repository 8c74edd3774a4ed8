"""Blocks: functions from an operator to the graph of its ops. `BLOCKS` has those of hwnas by kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hwnas.ops.blocks.conv import conv, convpool
from hwnas.ops.blocks.head import classifier, head
from hwnas.ops.blocks.mbconv import dsconv, fused, mbconv
from hwnas.ops.blocks.residual import basic, bottleneck

if TYPE_CHECKING:
    from hwnas.ops.graph import Graph
    from hwnas.ops.operator import Operator

BLOCKS: dict[str, Callable[[Operator], Graph]] = {
    "conv": conv,
    "convpool": convpool,
    "mbconv": mbconv,
    "dsconv": dsconv,
    "fused": fused,
    "basic": basic,
    "bottleneck": bottleneck,
    "head": head,
    "classifier": classifier,
}

__all__ = ["BLOCKS"]
