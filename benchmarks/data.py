"""What data costs: decoding CIFAR-10 once, the share of a training step spent on data, streaming files.

python benchmarks/data.py DIR                  # a folder with CIFAR-10
python benchmarks/data.py DIR --photos PHOTOS  # and an image folder, held and streamed
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hwnas import Supernet, get_space, load_config, load_dataset
from hwnas.training.augmentation import augment
from hwnas.training.data import Dataset
from hwnas.training.data.stored import Indices
from hwnas.training.loop import train

CONFIG = Path(__file__).parents[1] / "configs" / "cifar10.yaml"


@dataclass(frozen=True, eq=False)
class Timed(Dataset):
    """A dataset that notes when each batch was asked for, and when it came."""

    times: list[tuple[float, float]] = field(default_factory=list)

    def stream(self, chosen: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor]]:
        stream = super().stream(chosen)
        while True:
            asked = time.perf_counter()
            if (batch := next(stream, None)) is None:
                return
            self.times.append((asked, time.perf_counter()))
            yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cifar10", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()

    experiment = load_config(CONFIG)
    splits = {}
    for split in ("train", "validation"):
        seconds, cpu, splits[split] = taken(
            lambda s=split: load_dataset("cifar10", s, path=arguments.cifar10)
        )
        print(
            f"decoding {len(splits[split])} images of CIFAR-10: {seconds:.1f} s, "
            f"{cpu:.1f} s of processor time"
        )

    data, settings = (
        Timed(**{f.name: getattr(splits["train"], f.name) for f in fields(Dataset)}),
        experiment.training,
    )
    steps = arguments.steps
    settings = settings.model_copy(update={"steps": steps, "report_every": steps, "precision": "bf16"})
    parameters = {**experiment.space.parameters, "classes": len(data.classes), "channels": 3}
    net = Supernet(get_space(experiment.space.name, **parameters))
    few = splits["validation"].subset(64, rng=0)
    with tempfile.TemporaryDirectory() as folder:
        train(net, data, few, settings, folder)
    asked, came = np.array(
        data.times[5 : arguments.steps]
    ).T  # the first warm up; the last are of the judging
    step, fetching = np.median(np.diff(came)), np.median(came - asked)
    images, labels = next(splits["train"].stream([np.arange(settings.batch_size)]))
    rng = np.random.default_rng(0)

    def augmented() -> None:
        for _ in range(100):
            augment(images, labels, len(data.classes), data.mean, data.std, settings, rng)

    augmenting = taken(augmented)[0] / 100
    print(
        f"a step: {1e3 * step:.1f} ms, of which fetching {1e3 * fetching:.2f} ms and augmenting "
        f"{1e3 * augmenting:.2f} ms, {100 * (fetching + augmenting) / step:.1f} %"
    )
    if arguments.photos is not None:
        for how, memory_mb in (("held, decoded by threads", 2**20), ("streamed, by processes", 1)):
            seconds, _, n = taken(lambda m=memory_mb: read(arguments.photos, arguments.size, m))
            print(f"{n} photos at {arguments.size} pixels, {how}: {n / seconds:.0f} images a second")


def read(photos: Path, size: int, memory_mb: int) -> int:
    """All training images once; how many they are."""
    data = load_dataset("imagefolder", "train", path=photos, size=size, memory_mb=memory_mb)
    return sum(len(labels) for _, labels in data.batches(64))


def taken(work: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds, seconds of processor time, and what the work returns."""
    start, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - start, time.process_time() - cpu, found


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
