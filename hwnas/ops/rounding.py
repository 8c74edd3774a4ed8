"""Rounding of channels to multiples that hardware computes well."""

from __future__ import annotations


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round a number of channels to the nearest multiple that is at most 10 % below it.

    Source: MobileNetV2's reference implementation, https://arxiv.org/abs/1801.04381.

    Args:
        channels: The number to round.
        divisor: The multiple to round to.

    Returns:
        A positive multiple of `divisor`.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
