"""A space of your own: plain convolutions, searched for accuracy and for latency on this machine.

Its operators are of kinds that hwnas knows (`hwnas.spaces.operators.KINDS`), so that it is timed, trained as
one supernet, built and exported without further code.
"""

import numpy as np
import torch

import hwnas
from hwnas.spaces import NetworkSpace, Slot


class PlainSpace(NetworkSpace):
    def __init__(self):
        self.slots = (
            Slot("conv1", ("width1", "kernel1")),
            Slot("conv2", ("width1", "width2", "kernel2")),  # the choices that its operator depends on
            Slot("conv3", ("width2", "width3", "kernel3")),
            Slot("head", ("width3",)),
        )
        widths = [hwnas.Choice(f"width{i}", (8, 16, 32)) for i in (1, 2, 3)]
        super().__init__("plain", [*widths, *(hwnas.Choice(f"kernel{i}", (3, 5)) for i in (1, 2, 3))])

    def operator(self, slot, values, precision="fp32"):
        if slot == "head":
            return hwnas.Operator("classifier", (values["width3"], 3, 3), (10,), (), precision)
        i = int(slot[-1])
        channels, size = (values[f"width{i - 1}"] if i > 1 else 1), 48 // 2**i
        shapes = (channels, size, size), (values[f"width{i}"], size // 2, size // 2)
        attributes = (("k", values[f"kernel{i}"]), ("s", 2), ("act", "relu"))
        return hwnas.Operator("conv", *shapes, attributes, precision)


def main(steps=600, evaluations=60, device="onnxruntime"):
    space, rng = PlainSpace(), np.random.default_rng(0)
    table, net = hwnas.profile(space, device), hwnas.Supernet(space)
    train, test = (hwnas.load_dataset("cluttered-digits", s, train=4000) for s in ("train", "validation"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        batch = rng.integers(len(train), size=64)
        optimizer.zero_grad()
        for arch in space.sample(2, rng):  # their gradients add up
            torch.nn.functional.cross_entropy(net(train.images[batch], arch), train.labels[batch]).backward()
        optimizer.step()

    def accuracy(arch):
        statistics = hwnas.calibrate(net, arch, train.images[:1024].split(128))
        with torch.no_grad():
            return float((net.eval()(test.images, arch, statistics).argmax(1) == test.labels).float().mean())

    quality = hwnas.Objective("accuracy", "max", lambda archs: [accuracy(a) for a in archs], expensive=True)
    objectives = [quality, hwnas.Objective("latency_ms", "min", table.latency_ms)]
    return hwnas.search(space, objectives, evaluations=evaluations).front


if __name__ == "__main__":
    print(main().to_frame())
