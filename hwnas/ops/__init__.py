"""Ops and operators: the computation of each layer, described once. No torch in here."""

from __future__ import annotations

from hwnas.ops.activation import ACTIVATIONS, Activation
from hwnas.ops.add import Add
from hwnas.ops.base import Op, TensorSpec, WeightSpec
from hwnas.ops.blocks import BLOCKS
from hwnas.ops.conv import NORM_EPS, Conv
from hwnas.ops.graph import Graph, Node
from hwnas.ops.linear import Linear
from hwnas.ops.network import InputSpec, Network
from hwnas.ops.operator import PRECISIONS, Operator
from hwnas.ops.pool import AveragePool, GlobalPool, MaxPool
from hwnas.ops.rounding import make_divisible
from hwnas.ops.squeeze_excite import SqueezeExcite

__all__ = [
    "ACTIVATIONS",
    "BLOCKS",
    "NORM_EPS",
    "PRECISIONS",
    "Activation",
    "Add",
    "AveragePool",
    "Conv",
    "GlobalPool",
    "Graph",
    "InputSpec",
    "Linear",
    "MaxPool",
    "Network",
    "Node",
    "Op",
    "Operator",
    "SqueezeExcite",
    "TensorSpec",
    "WeightSpec",
    "make_divisible",
]
