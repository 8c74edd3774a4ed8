"""The connection that several blocks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwnas.ops.graph import Graph

if TYPE_CHECKING:
    from hwnas.ops.base import Op
    from hwnas.ops.operator import Operator


def chain_or_residual(operator: Operator, ops: Sequence[Op]) -> Graph:
    """Connect ops one after another, and add the input where the attribute `res` is 1."""
    if dict(operator.attributes).get("res", 0):
        return Graph.residual(operator.in_shape, ops)
    return Graph.chain(operator.in_shape, ops)
