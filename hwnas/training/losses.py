"""What a subnet learns from a teacher: one function a loss, of logits (n, classes) each, to a scalar.

The teacher's logits carry no gradient. A new loss is one function, one line in `LOSSES`, and its name in
`config.Training`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ALPHAS = (-1.0, 1.0)
LARGEST_RATIO = 5.0

DistillationLoss = Callable[[Tensor, Tensor], Tensor]


def kd(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy towards what the teacher says: https://arxiv.org/abs/1503.02531."""
    return F.cross_entropy(student, teacher.softmax(1))


def alpha(student: Tensor, teacher: Tensor) -> Tensor:
    """α-divergence, for each image the larger of those of α = -1 and 1: https://arxiv.org/abs/2102.07954.

    α = 1 (the KL divergence) punishes a student that says too little of what the teacher says, α = -1 one
    that says more.
    """
    values, surrogates = zip(*(alpha_divergence(student, teacher, a) for a in ALPHAS), strict=True)
    chosen = torch.stack(values).argmax(0, keepdim=True)
    value, surrogate = (torch.stack(parts).gather(0, chosen).mean() for parts in (values, surrogates))
    return surrogate + (value - surrogate).detach()


def alpha_divergence(student: Tensor, teacher: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """D_α of teacher p and student q of each image, (n,), and a term, (n,), whose gradient is that of D_α.

    D_α = (Σ q w - 1) / (α (α - 1)) with w = (p / q)^α, and its gradient is -Σ q w ∇log q / α. w is bounded
    by 5 in both, so that where a student says much that the teacher does not, steps stay small. For α = 1,
    the limit, D is Σ p log (p / q) and q w is p, which needs no bound.
    """
    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    fixed = log_q.detach()
    if alpha == 1.0:
        weighted = log_p.exp()
        value = (weighted * (log_p - fixed)).sum(1)
    else:
        weighted = fixed.exp() * (alpha * (log_p - fixed)).exp().clamp(max=LARGEST_RATIO)
        value = (weighted.sum(1) - 1) / (alpha * (alpha - 1))
    return value, -(weighted * log_q).sum(1) / alpha


LOSSES: dict[str, DistillationLoss] = {"kd": kd, "alpha": alpha}
