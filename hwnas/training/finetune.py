"""What `train` needs to train one architecture on, from the weights that it inherits.

net = inherited(supernet, arch)
train(net, …, finetuning(settings, epochs, images), …, teacher=supernet, strategy=Alone(net.space, steps))
"""

from __future__ import annotations

import numpy as np
import torch

from hwnas.config import Named, Training
from hwnas.errors import TrainingError
from hwnas.networks.base import ElasticWeights, WeightSharing
from hwnas.networks.supernet import Supernet
from hwnas.spaces import Architecture
from hwnas.spaces.fixed import FixedSpace
from hwnas.training.strategies import BatchLoss, Strategy, Subnet


class Alone(Strategy):
    """The one architecture of a space in every step, on labels and on what a teacher says."""

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: BatchLoss) -> list[Subnet]:
        return [Subnet(self.space.largest(), labels=1, teacher=1)]


def finetuning(settings: Training, epochs: int, images: int, learning_rate: float | None = None) -> Training:
    """The settings of a supernet's training, for so many epochs of so many images of one of its subnets.

    The warm-up keeps its share of the steps; the peak learning rate is a tenth, unless it is given.
    """
    steps = epochs * (images // settings.batch_size)
    changes = {
        "strategy": Named(name="alone"),
        "teacher": None,
        "steps": steps,
        "warmup_steps": round(settings.warmup_steps * steps / settings.steps),
        "learning_rate": settings.learning_rate / 10 if learning_rate is None else learning_rate,
    }
    return settings.model_copy(update=changes)


def inherited(net: WeightSharing, arch: Architecture) -> Supernet:
    """Copy the weights of one architecture into a supernet of its own.

    Args:
        net: The supernet with the weights.
        arch: An architecture of its space.

    Returns:
        The supernet of that architecture alone.

    Raises:
        TrainingError: if the weights of each op cannot be cut from those of `net`.
    """
    if not isinstance(net, ElasticWeights):
        raise TrainingError(
            f"a subnet of {type(net).__name__} cannot be fine-tuned: only those of ElasticWeights can; train "
            "the network that its extract(arch, statistics) returns in a loop of your own"
        )
    space = FixedSpace(net.space, arch)
    made = Supernet(space)
    with torch.no_grad():
        for slot, operator in net.space.lower(arch).items():
            for op in operator.ops:
                weights = net.op(slot, op.name).cut(op)
                for name, weight in made.op(slot, op.name).cut(op).items():
                    weight.copy_(weights[name])
    return made
