from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hwnas.training.losses import LARGEST_RATIO, alpha, alpha_divergence, kd


def logits(seed: int, scale: float = 1.0, n: int = 5, classes: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, classes, dtype=torch.float64, generator=generator)


def gradient(values: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), student, retain_graph=True)[0]


def divergence(student: Tensor, teacher: Tensor, a: float) -> Tensor:
    """D_α as it is defined, (n,), with torch's own gradient."""
    p, q = teacher.softmax(1), student.softmax(1)
    if a == 1.0:
        return (p * (p / q).log()).sum(1)
    return ((q * (p / q) ** a).sum(1) - 1) / (a * (a - 1))


@pytest.mark.parametrize("a", [-1.0, 0.5, 1.0])
def test_value_and_gradient_are_those_of_the_divergence(a: float) -> None:
    teacher, student = logits(0, 0.3), logits(1, 0.3).requires_grad_()  # no ratio reaches the bound
    value, surrogate = alpha_divergence(student, teacher, a)
    expected = divergence(student, teacher, a)
    assert torch.allclose(value, expected)
    assert torch.allclose(gradient(surrogate, student), gradient(expected, student))


def test_a_large_ratio_is_bounded() -> None:
    """A student sure of a class that the teacher excludes."""
    teacher = torch.tensor([[8.0, -8.0]], dtype=torch.float64)
    student = torch.tensor([[-8.0, 8.0]], dtype=torch.float64, requires_grad=True)
    value, surrogate = alpha_divergence(student, teacher, -1.0)
    assert value.item() == pytest.approx((LARGEST_RATIO - 1) / 2, rel=1e-3)
    assert gradient(surrogate, student).abs().max() <= LARGEST_RATIO


def test_alpha_is_the_larger_of_both_for_each_image() -> None:
    teacher, student = logits(0, 0.4, n=40), logits(1, 0.4, n=40).requires_grad_()
    both = torch.stack([divergence(student, teacher, a) for a in (-1.0, 1.0)])
    assert set(both.argmax(0).tolist()) == {0, 1}
    expected = both.max(0).values.mean()
    found = alpha(student, teacher)
    assert torch.allclose(found, expected)
    assert torch.allclose(gradient(found, student), gradient(expected, student))


def test_kd_is_the_kl_divergence_up_to_the_teachers_entropy() -> None:
    teacher, student = logits(0), logits(1).requires_grad_()
    assert torch.allclose(
        gradient(kd(student, teacher), student),
        gradient(divergence(student, teacher, 1.0).mean(), student),
    )
