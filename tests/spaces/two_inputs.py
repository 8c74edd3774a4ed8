"""A small space of networks that are no chains: token ids and a mask, read by blocks of two inputs.

An encoder of convolutions, whose result and mask one or two blocks read beside the value before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hwnas.ops import Add, Conv, Graph, InputSpec, Node, Op, Operator, TensorSpec, WeightSpec
from hwnas.spaces import Architecture, Choice, NetworkSpace, Slot

VOCABULARY, CLASSES = 50, 5


@dataclass(frozen=True)
class Embedding(Op):
    """A vector of each token, (length,) to (width, length, 1)."""

    name: str
    vocabulary: int
    width: int

    def output(self, *inputs):
        (ids,) = inputs
        return TensorSpec((self.width, *ids.shape, 1))

    def weights(self):
        return {"table": WeightSpec((self.vocabulary, self.width), ("vocabulary", "out"))}

    def forward(self, weights, *inputs, momentum=0.0):
        (ids,) = inputs
        return weights["table"][ids].transpose(1, 2).unsqueeze(-1)

    def to_onnx(self, graph, name, *inputs):
        (ids,) = inputs
        rows = graph.node("Gather", f"{name}.gather", f"{name}.table", ids)
        columns = graph.node("Transpose", f"{name}.transpose", rows, perm=[0, 2, 1])
        return graph.node("Unsqueeze", name, columns, graph.constant("last", np.array([-1])))


@dataclass(frozen=True)
class Masked(Op):
    """The tokens of a value (width, length, 1) that a mask (length,) keeps, the others zero."""

    name: str
    in_place = True

    def output(self, *inputs):
        x, _ = inputs
        return x

    def forward(self, weights, *inputs, momentum=0.0):
        x, mask = inputs
        return x * mask[:, None, :, None]

    def to_onnx(self, graph, name, *inputs):
        x, mask = inputs
        columns = graph.node("Unsqueeze", f"{name}.mask", mask, graph.constant("around", np.array([1, 3])))
        return graph.node("Mul", name, x, columns)


def embed_tokens(op: Operator) -> Graph:
    """The embedding of token ids. No attributes."""
    ids = TensorSpec(op.in_shape, "int64", VOCABULARY)
    return Graph({"ids": ids}, (Node(Embedding("embedding", VOCABULARY, op.out_shape[0]), ("ids",)),))


def masked_sum(op: Operator) -> Graph:
    """A convolution of the value before, and the masked memory through another, added. Attribute k."""
    width, length, _ = op.in_shape
    values = {"x": TensorSpec(op.in_shape), "memory": TensorSpec(op.in_shape), "mask": TensorSpec((length,))}
    nodes = (
        Node(Conv("conv", width, width, op.integer("k"), activation="relu"), ("x",)),
        Node(Conv("read", width, width), ("memory",)),
        Node(Masked("masked"), ("read", "mask")),
        Node(Add("sum"), ("conv", "masked")),
    )
    return Graph(values, nodes)


class TwoInputs(NetworkSpace):
    """See the module. The length is a choice where there are several."""

    size_name = "length"

    def __init__(self, lengths: tuple[int, ...] = (6, 8)) -> None:
        self.slots = (
            Slot("embed", ("length", "width"), ("ids",)),
            Slot("encoder", ("length", "width", "encoder.kernel")),
            Slot("decoder1", ("length", "width", "decoder1.kernel"), ("embed", "encoder", "mask")),
            Slot(
                "decoder2",
                ("length", "width", "depth", "decoder2.kernel"),
                ("decoder1", "encoder", "mask"),
            ),
            Slot("head", ("length", "width")),
        )
        kernels = [Choice(f"{name}.kernel", (1, 3)) for name in ("encoder", "decoder1")]
        kernels.append(Choice("decoder2.kernel", (1, 3), {"depth": 2}))
        super().__init__(
            "two-inputs",
            [Choice("length", lengths), Choice("width", (4, 8)), Choice("depth", (1, 2)), *kernels],
        )

    def inputs(self, arch: Architecture) -> tuple[InputSpec, ...]:
        shape = (arch.values["length"],)
        return InputSpec("ids", shape, "int64", VOCABULARY), InputSpec("mask", shape)

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        shape = (values["width"], values["length"], 1)
        if slot == "embed":
            return Operator(embed_tokens, (values["length"],), shape, (), precision)
        if slot == "encoder":
            attributes = (("k", values["encoder.kernel"]), ("s", 1), ("act", "relu"))
            return Operator("conv", shape, shape, attributes, precision)
        if slot == "head":
            return Operator("classifier", shape, (CLASSES,), (), precision)
        if slot == "decoder2" and values["depth"] == 1:
            return None
        return Operator(masked_sum, shape, shape, (("k", values[f"{slot}.kernel"]),), precision)


def token_batch(length: int, n: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs of n samples, by name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "ids": torch.randint(VOCABULARY, (n, length), generator=generator),
        "mask": torch.rand(n, length, generator=generator),
    }
