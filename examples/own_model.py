"""A model of your own: any torch module, searched for accuracy and for latency on this machine.

hwnas knows nothing of it but what can be chosen; each one that the search asks for is trained, exported and
timed as a whole.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import hwnas
from hwnas.latency.devices import get_device
from hwnas.latency.measure import time_models

OPTIONS = {"depth": (1, 2, 3), "width": (8, 16, 32), "kernel": (3, 5, 7)}


def build(depth, width, kernel):
    layers = [nn.Conv2d(1, width, 4, 4)]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width), nn.GroupNorm(1, width)]
        layers += [nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def main(steps=300, evaluations=12, device=None):
    train, test = (hwnas.load_dataset("cluttered-digits", s, train=4000) for s in ("train", "validation"))

    @cache
    def trained(arch):
        torch.manual_seed(0)
        model = build(**arch.values)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
        for _ in range(steps):
            batch = torch.randint(len(train), (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.images[batch]), train.labels[batch]).backward()
            optimizer.step()
        return model.eval().requires_grad_(False)

    def accuracy(archs):
        return [float((trained(a)(test.images).argmax(1) == test.labels).float().mean()) for a in archs]

    def latency_ms(archs):
        with TemporaryDirectory() as folder:
            files = [hwnas.export_onnx(trained(a), Path(folder) / a.id, (1, 1, 24, 24)) for a in archs]
            models = [file.read_bytes() for file in files]
        return [timing.ms for timing in time_models(models, device or get_device("onnxruntime"))]

    space = hwnas.SearchSpace("mine", [hwnas.Choice(name, values) for name, values in OPTIONS.items()])
    quality = hwnas.Objective("accuracy", "max", accuracy, expensive=True)
    speed = hwnas.Objective("latency_ms", "min", latency_ms, expensive=True)
    return hwnas.search(space, [quality, speed], evaluations=evaluations).front


if __name__ == "__main__":
    print(main().to_frame())
