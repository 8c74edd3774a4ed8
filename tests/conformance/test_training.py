"""Every named training strategy keeps the published rules, and every loss of a teacher its own."""

from __future__ import annotations

import pytest
import torch

from hwnas.testing import TRAINING_STRATEGY_RULES, Rule
from hwnas.training.losses import LOSSES
from hwnas.training.strategies import STRATEGIES


@pytest.mark.parametrize("rule", TRAINING_STRATEGY_RULES, ids=str)
@pytest.mark.parametrize("name", STRATEGIES)
def test_rule(name: str, rule: Rule) -> None:
    rule(name)


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
