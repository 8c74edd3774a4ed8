"""A space of your own with a primitive of its own, searched for accuracy and latency on this machine.

Static and elastic modules, ONNX graphs, MACs and parameters follow from the op and the block.
"""

from dataclasses import dataclass

import hwnas
from hwnas.ops import Conv, Graph, Op, WeightSpec
from hwnas.spaces import NetworkSpace, Slot


@dataclass(frozen=True)
class Scale(Op):
    """Multiply each channel by a weight, https://arxiv.org/abs/2103.17239."""

    name: str
    channels: int

    def output(self, x):
        return x

    def weights(self):
        return {"scale": WeightSpec((self.channels, 1, 1), ("through", "", ""), initial=0.1)}

    def forward(self, weights, x, momentum=0.0):
        return x * weights["scale"]

    def to_onnx(self, graph, name, x):
        return graph.node("Mul", name, x, f"{name}.scale")


def residual(op):
    """Two convolutions and a scale, to which the input is added. Attribute k."""
    channels, k = op.in_shape[0], op.integer("k")
    convs = [Conv("first", channels, channels, k, activation="relu"), Conv("second", channels, channels, k)]
    return Graph.residual(op.in_shape, [*convs, Scale("scale", channels)], activation="relu")


class PlainSpace(NetworkSpace):
    def __init__(self):
        slots, choices = [], []
        for stage, widths in ("stage1", ("stage1.width",)), ("stage2", ("stage1.width", "stage2.width")):
            choices += [hwnas.Choice(f"{stage}.width", (8, 16, 32)), hwnas.Choice(f"{stage}.depth", (1, 2))]
            slots.append(Slot(f"{stage}.down", widths))  # the choices that its operator depends on
            for block, requires in (f"{stage}.block1", ()), (f"{stage}.block2", ((f"{stage}.depth", (2,)),)):
                choices.append(hwnas.Choice(f"{block}.kernel", (3, 5), requires))
                slots.append(Slot(block, (f"{stage}.width", f"{stage}.depth", f"{block}.kernel")))
        self.slots = (*slots, Slot("head", ("stage2.width",)))
        super().__init__("plain", choices)

    def operator(self, slot, values, precision="fp32"):
        if slot == "head":
            return hwnas.Operator("classifier", (values["stage2.width"], 6, 6), (10,), (), precision)
        stage, part = slot.split(".")
        size, before = (12, 1) if stage == "stage1" else (6, values.get("stage1.width"))
        shape, larger = (values[f"{stage}.width"], size, size), (before, 2 * size, 2 * size)
        if part == "down":
            return hwnas.Operator("conv", larger, shape, (("k", 3), ("s", 2), ("act", "relu")), precision)
        if part == "block2" and values[f"{stage}.depth"] == 1:
            return None
        return hwnas.Operator(residual, shape, shape, (("k", values[f"{slot}.kernel"]),), precision)


def main(steps=1500, evaluations=60, device="onnxruntime", folder="runs/own_space"):
    table = hwnas.profile(PlainSpace(), device)
    data = [hwnas.load_dataset("cluttered-digits", s, train=4000) for s in ("train", "validation")]
    net = hwnas.train(PlainSpace(), *data, steps=steps, directory=folder).supernet  # or resumes there
    net.save(folder)
    evaluator = hwnas.AccuracyEvaluator(hwnas.load_supernet(folder, space=PlainSpace()), *data)
    objectives = [hwnas.Objective("accuracy", "max", evaluator, expensive=True)]
    objectives.append(hwnas.Objective("latency_ms", "min", table.latency_ms))
    return hwnas.search(net.space, objectives, evaluations=evaluations).front


if __name__ == "__main__":
    print(main().to_frame())
