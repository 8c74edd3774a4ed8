"""What every training strategy and every loss of a teacher keeps to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.config import Training
from hwnas.networks.supernet import Supernet
from hwnas.spaces import SPACES, Architecture, get_space
from hwnas.training.loop import train
from hwnas.training.losses import LOSSES
from hwnas.training.strategies import STRATEGIES, get_strategy

from ..training.small_data import blobs, tiny_space

STEPS = 100


def no_loss(arch: Architecture) -> float:
    return 0.0


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_steps_of_every_space(name: str, space: str) -> None:
    strategy = get_strategy(name, get_space(space), STEPS)
    starts, ends = [phase.start for phase in strategy.phases], [phase.end for phase in strategy.phases]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == STEPS
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    for step in (0, 50, STEPS - 1):
        found = strategy.subnets(step, np.random.default_rng(step), no_loss)
        kept = any(phase.keep_teacher and phase.start <= step for phase in strategy.phases)
        # The first has labels, and a teacher only if one is there that is not itself.
        assert found[0].labels > 0
        assert found[0].teacher == 0 or kept
        for subnet in found:
            assert subnet.arch.space == strategy.space.id
            assert min(subnet.labels, subnet.teacher) >= 0
            assert max(subnet.labels, subnet.teacher) > 0
            assert strategy.taught or subnet.teacher == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_follows_from_its_number_and_generator_alone(name: str) -> None:
    one, other = (get_strategy(name, tiny_space(), STEPS) for _ in range(2))
    for step in (0, 99, 3, 50):
        other.subnets((step + 7) % STEPS, np.random.default_rng(1), no_loss)
        found = [s.subnets(step, np.random.default_rng(step), no_loss) for s in (one, other)]
        assert found[0] == found[1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_trains(name: str, tmp_path: Path) -> None:
    """Three classes that differ in brightness: more than chance after a few seconds."""
    settings = Training.model_validate(
        {
            "strategy": name,
            "steps": 60,
            "batch_size": 32,
            "warmup_steps": 5,
            "precision": "fp32",
            "threads": 1,
        }
    )
    net = Supernet(tiny_space(classes=3))
    result = train(net, blobs(960), blobs(150, seed=1), settings, tmp_path)
    assert result.reports[-1].largest_accuracy > 60


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_that_says_what_the_teacher_says_has_nothing_to_learn(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, other = torch.randn(2, 5, 4, generator=generator).unbind()
    student = (teacher + 3.0).requires_grad_()  # the same probabilities
    loss = LOSSES[name](student, teacher)
    loss.backward()
    assert loss.shape == ()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6
    assert LOSSES[name](other, teacher) > loss + 0.01
