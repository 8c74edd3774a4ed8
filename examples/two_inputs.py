"""A space of encoder-decoder networks with two inputs, token ids of a source and of a target sentence.

The decoder's blocks read two values: the result of the block before, and that of the encoder. Supernet, ONNX
graph and latency table follow from the ops, the blocks and the slots.
"""

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch

import hwnas
from hwnas.ops import Add, Graph, InputSpec, Node, Op, TensorSpec, WeightSpec
from hwnas.spaces import NetworkSpace, Slot

VOCABULARY, TARGET = 1000, 12  # number of tokens, and length of a target sentence


@dataclass(frozen=True)
class Embedding(Op):
    """Look up a vector of each token: (length,) int64 to (length, width)."""

    name: str
    width: int

    def output(self, ids):
        return TensorSpec((*ids.shape, self.width))

    def weights(self):
        return {"table": WeightSpec((VOCABULARY, self.width), ("", "out"))}

    def forward(self, weights, ids, momentum=0.0):
        return torch.nn.functional.embedding(ids, weights["table"])

    def to_onnx(self, graph, name, ids):
        return graph.node("Gather", name, f"{name}.table", ids)


@dataclass(frozen=True)
class Dense(Op):
    """Multiply the vector of each token by a matrix, then ReLU: (length, inputs) to (length, outputs)."""

    name: str
    inputs: int
    outputs: int

    def output(self, x):
        return TensorSpec((x.shape[0], self.outputs))

    def weights(self):
        return {"matrix": WeightSpec((self.inputs, self.outputs), ("in", "out"))}

    def macs(self, x):
        return x.shape[0] * self.inputs * self.outputs

    def forward(self, weights, x, momentum=0.0):
        return torch.relu(x @ weights["matrix"])

    def to_onnx(self, graph, name, x):
        return graph.node("Relu", f"{name}.relu", graph.node("MatMul", name, x, f"{name}.matrix"))


@dataclass(frozen=True)
class CrossAttention(Op):
    """Mean of the memory's vectors, weighted by their similarity to each token; without weights."""

    name: str

    def output(self, x, memory):
        return x

    def macs(self, x, memory):
        return 2 * x.size * memory.shape[0]

    def forward(self, weights, x, memory, momentum=0.0):
        return torch.softmax(x @ memory.transpose(1, 2), -1) @ memory

    def to_onnx(self, graph, name, x, memory):
        columns = graph.node("Transpose", f"{name}.columns", memory, perm=[0, 2, 1])
        scores = graph.node("Softmax", f"{name}.scores", graph.node("MatMul", name, x, columns), axis=-1)
        return graph.node("MatMul", f"{name}.mean", scores, memory)


def embed(op):
    ids = TensorSpec(op.in_shape, "int64", VOCABULARY)
    return Graph({"ids": ids}, (Node(Embedding("embedding", op.out_shape[1]), ("ids",)),))


def dense(op):
    return Graph.chain(op.in_shape, [Dense("dense", op.in_shape[1], op.out_shape[1])])


def decode(op):
    """Add what is read from the encoder's result, of the length `memory` (an attribute), then Dense."""
    width = op.in_shape[1]
    inputs = {"x": TensorSpec(op.in_shape), "memory": TensorSpec((op.integer("memory"), width))}
    nodes = [Node(CrossAttention("attention"), ("x", "memory")), Node(Add("sum"), ("attention", "x"))]
    return Graph(inputs, (*nodes, Node(Dense("dense", width, width), ("sum",))))


class Translator(NetworkSpace):
    size_name = "length"  # names the sizes that a latency table is calibrated for

    def __init__(self):
        both = ("length", "width")
        self.slots = (
            Slot("source", both, ("source_ids",)),  # the choices of an operator, and what it reads
            Slot("encoder", both),  # reads the slot before
            Slot("target", ("width",), ("target_ids",)),
            Slot("decoder1", both, ("target", "encoder")),
            Slot("decoder2", (*both, "depth"), ("decoder1", "encoder")),
            Slot("head", ("width",)),
        )
        choices = {"length": (8, 16), "width": (16, 32, 48, 64), "depth": (1, 2)}
        super().__init__("translator", [hwnas.Choice(*item) for item in choices.items()])

    def inputs(self, arch):
        source = InputSpec("source_ids", (arch.values["length"],), "int64", VOCABULARY)
        return source, InputSpec("target_ids", (TARGET,), "int64", VOCABULARY)

    def operator(self, slot, values, precision="fp32"):
        length, width = values.get("length"), values["width"]
        source, target = (length, width), (TARGET, width)
        block, in_shape, out_shape, attributes = {
            "source": (embed, (length,), source, ()),
            "encoder": (dense, source, source, ()),
            "target": (embed, (TARGET,), target, ()),
            "head": (dense, target, (TARGET, VOCABULARY), ()),
        }.get(slot, (decode, target, target, (("memory", length),)))
        if slot == "decoder2" and values["depth"] == 1:
            return None  # its first input, decoder1, is passed on
        return hwnas.Operator(block, in_shape, out_shape, attributes, precision)


def main(device="onnxruntime", file="runs/translator.onnx"):
    space = Translator()
    net = hwnas.Supernet(space).eval()
    arch = space.sample(1, rng=0)[0]
    inputs = {spec.name: torch.randint(spec.high, (1, *spec.shape)) for spec in space.inputs(arch)}
    with torch.no_grad():
        expected = net(inputs, arch)
        network = net.extract(arch)
        assert torch.equal(network(inputs), expected)
    session = onnxruntime.InferenceSession(hwnas.export_onnx(network, file))
    (found,) = session.run(["logits"], {name: ids.numpy() for name, ids in inputs.items()})
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    table = hwnas.profile(space, device, rounds=4, calibration_networks=6, held_out_networks=2)
    archs = space.enumerate()
    return table, archs, table.latency_ms(archs)


if __name__ == "__main__":
    latency_table, architectures, latency_ms = main()
    print(latency_table.summary())
    fastest = architectures[int(latency_ms.argmin())]
    print(f"{fastest.values} takes {latency_ms.min():.4f} ms")
