"""Mobile blocks: the inverted bottleneck, without expansion, and fused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwnas.ops.blocks.joined import chain_or_residual
from hwnas.ops.conv import Conv
from hwnas.ops.rounding import make_divisible
from hwnas.ops.squeeze_excite import SqueezeExcite

if TYPE_CHECKING:
    from hwnas.ops.base import Op
    from hwnas.ops.graph import Graph
    from hwnas.ops.operator import Operator

SQUEEZE_RATIO = 4


def mbconv(op: Operator) -> Graph:
    """Inverted bottleneck, https://arxiv.org/abs/1905.02244. Attributes mid, k, s, act, se, res."""
    mid = op.integer("mid")
    expand = Conv("expand", op.in_shape[0], mid, activation=str(op["act"]))
    return chain_or_residual(op, [expand, *_separable_tail(op, mid)])


def dsconv(op: Operator) -> Graph:
    """An MBConv that does not expand. Attributes k, s, act, se, res."""
    return chain_or_residual(op, _separable_tail(op, op.in_shape[0]))


def fused(op: Operator) -> Graph:
    """Fused MBConv, dense k×k then 1×1, https://arxiv.org/abs/2104.00298. Attributes as mbconv."""
    activation, mid = str(op["act"]), op.integer("mid")
    expand = Conv("expand", op.in_shape[0], mid, op.integer("k"), op.integer("s"), activation=activation)
    return chain_or_residual(op, [expand, *_squeeze(op, mid), Conv("project", mid, op.out_shape[0])])


def _separable_tail(op: Operator, mid: int) -> list[Op]:
    """Depthwise convolution, squeeze-and-excite, linear projection."""
    activation, kernel, stride = str(op["act"]), op.integer("k"), op.integer("s")
    depthwise = Conv("depthwise", mid, mid, kernel, stride, depthwise=True, activation=activation)
    return [depthwise, *_squeeze(op, mid), Conv("project", mid, op.out_shape[0])]


def _squeeze(op: Operator, mid: int) -> list[Op]:
    return [SqueezeExcite("se", mid, make_divisible(mid // SQUEEZE_RATIO))] if op["se"] else []
