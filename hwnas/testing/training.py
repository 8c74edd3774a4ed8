"""Rules for training strategies: `hwnas.training.strategies.Strategy`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from hwnas.config import Training
from hwnas.networks.supernet import Supernet
from hwnas.spaces import SPACES, Architecture, NetworkSpace, get_space
from hwnas.testing.rules import Suite, check_rules, require
from hwnas.training.data import Dataset, Held
from hwnas.training.loop import train
from hwnas.training.strategies import Strategy, get_strategy

STEPS = 100
Make = Callable[[NetworkSpace, int], Strategy]


def check_training_strategy(strategy: str | Callable[..., Strategy], **parameters: Any) -> None:
    """Check that a training strategy keeps the rules that `hwnas.train` relies on.

    Args:
        strategy: A class or function that makes a strategy of a space and a number of steps; or a name.
        **parameters: Further arguments of the class or function.

    Raises:
        ConformanceError: If the strategy breaks a rule; the message names the rule and the values.
    """
    check_rules(TRAINING_STRATEGY_RULES, strategy, **parameters)


def _make(
    strategy: str | Callable[..., Strategy], parameters: dict[str, Any], space: NetworkSpace, steps: int
) -> Strategy:
    return get_strategy(strategy, space, steps, parameters=parameters)


suite = Suite(lambda strategy, **parameters: partial(_make, strategy, parameters))


def tiny_space(classes: int = 10, channels: int = 1, kernels: Sequence[int] = (3,)) -> NetworkSpace:
    """Return a space of two stages and two resolutions, well under a million MACs.

    Args:
        classes: Number of classes.
        channels: Number of channels of the images.
        kernels: Sizes of kernels to choose from.
    """
    stage = {"block": "fused", "depth": [1, 2], "expand": [1, 2], "kernel": list(kernels), "stride": 2}
    return get_space(
        "mobilenetv3",
        resolutions=(16, 24),
        channels=channels,
        classes=classes,
        stem={"width": [8], "activation": "relu"},
        stages=[{**stage, "width": widths} for widths in ([8, 16], [16, 24])],
        head={"width": 32, "activation": "relu"},
    )


def blobs(n: int = 96, seed: int = 0) -> Dataset:
    """Return images of noise whose brightness is the class: learnable in a few steps.

    Args:
        n: Number of images.
        seed: Seed of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randn(n, 1, 24, 24, generator=generator) * 0.5 + (labels - 1.0)[:, None, None, None]
    described = {"name": "blobs", "seed": seed}
    return Dataset(Held(images), labels, ("dark", "grey", "bright"), (0.0,), (1.0,), described, "noise")


def no_loss(arch: Architecture) -> float:
    """Return 0 in place of the loss of a subnet on a batch."""
    return 0.0


# ---- rules ---------------------------------------------------------------------------------------


@suite.each({name: name for name in SPACES})
def names_the_subnets_of_each_step(make: Make, space: str) -> None:
    """Has phases that together are all steps, and subnets of the space with weights of losses."""
    strategy = make(get_space(space), STEPS)
    bounds = [(phase.start, phase.end) for phase in strategy.phases]
    ends = [0, *(end for _, end in bounds)]
    whole = [start for start, _ in bounds] == ends[:-1] and ends[-1] == STEPS
    require(whole and all(start < end for start, end in bounds), f"of {STEPS} steps the phases are {bounds}.")
    for step in (0, 50, STEPS - 1):
        subnets = strategy.subnets(step, np.random.default_rng(step), no_loss)
        require(subnets, f"step {step} has no subnets.")
        kept = any(phase.keep_teacher and phase.start <= step for phase in strategy.phases)
        first = subnets[0]
        require(first.labels > 0, f"step {step}: the first subnet has weight {first.labels} on labels.")
        require(
            first.teacher == 0 or kept,
            f"step {step}: the first subnet has weight {first.teacher} on a teacher, and none is kept.",
        )
        for subnet in subnets:
            own = subnet.arch.space
            require(own == strategy.space.id, f"step {step}: a subnet is of {own}, not {strategy.space.id}.")
            weights = (subnet.labels, subnet.teacher)
            require(min(weights) >= 0 < max(weights), f"step {step}: weights of losses are {weights}.")
            require(
                strategy.taught or subnet.teacher == 0,
                f"step {step}: taught is False, and the weight on a teacher is {subnet.teacher}.",
            )


@suite.rule
def follows_from_step_and_generator(make: Make) -> None:
    """The subnets of a step follow from its number and generator, not from earlier steps."""
    one, other = (make(tiny_space(), STEPS) for _ in range(2))
    for step in (0, 99, 3, 50):
        other.subnets((step + 7) % STEPS, np.random.default_rng(1), no_loss)
        subnets = [s.subnets(step, np.random.default_rng(step), no_loss) for s in (one, other)]
        require(subnets[0] == subnets[1], f"step {step} has other subnets after another step.")


@suite.rule
def trains(make: Make) -> None:
    """Trains a small supernet to more than chance in 60 steps."""
    settings = Training(steps=60, batch_size=32, warmup_steps=5, precision="fp32", threads=1)
    net = Supernet(tiny_space(classes=3))
    with tempfile.TemporaryDirectory() as folder:
        data, strategy = (blobs(960), blobs(150, seed=1)), make(net.space, settings.steps)
        result = train(net, *data, settings, folder, strategy=strategy)
    accuracy = result.reports[-1].largest_accuracy
    require(accuracy > 60, f"the largest subnet classifies {accuracy:.1f} % of 3 classes; more than 60 %.")


TRAINING_STRATEGY_RULES = tuple(suite.rules)
