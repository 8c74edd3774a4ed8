"""Bytes of weights and of activations, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.spaces import Operator, get_space


def test_a_plain_block_holds_the_input_and_output_of_its_widest_layer() -> None:
    operator = Operator.parse("mbconv-in:8x8x4-out:4x4x6-mid:16-k:3-s:2-act:relu-se:0-res:0-p:fp32")
    expand, depthwise = 8 * 8 * (4 + 16), 8 * 8 * 16 + 4 * 4 * 16
    assert operator.activation_bytes == 4 * max(expand, depthwise)
    weights, biases = 4 * 16 + 9 * 16 + 16 * 6, 16 + 16 + 6
    assert operator.weight_bytes == 4 * (weights + biases)


@pytest.mark.parametrize(("precision", "value", "bias"), [("fp32", 4, 4), ("fp16", 2, 2), ("int8", 1, 4)])
def test_the_input_of_a_residual_block_waits_for_the_sum(precision: str, value: int, bias: int) -> None:
    operator = Operator.parse(f"mbconv-in:8x8x4-out:8x8x4-mid:16-k:3-s:1-act:relu-se:1-res:1-p:{precision}")
    depthwise = 8 * 8 * (16 + 16)
    assert operator.activation_bytes == value * (depthwise + 8 * 8 * 4)
    weights = 4 * 16 + 9 * 16 + 2 * 16 * 8 + 16 * 4
    assert operator.weight_bytes == value * weights + bias * (16 + 16 + 8 + 16 + 4)


def test_the_output_of_a_path_waits_for_the_shortcut() -> None:
    operator = Operator.parse("bottleneck-in:8x8x64-out:4x4x16-mid:4-k:3-s:2-act:relu-res:0-p:fp32")
    entry, pooled, result = 8 * 8 * 64, 4 * 4 * 64, 4 * 4 * 16
    reduce, conv = entry + 8 * 8 * 4, 8 * 8 * 4 + 4 * 4 * 4 + entry
    shortcut = entry + pooled + result
    assert operator.activation_bytes == 4 * max(reduce, conv, shortcut) == 4 * shortcut


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_network_holds_what_its_operators_hold(precision: str) -> None:
    space = get_space("mobilenetv3", width=0.5, classes=7, resolutions=(40, 56))
    archs = space.sample(20, 0)
    sums, peaks = space.model_bytes(archs, precision), space.peak_activation_bytes(archs, precision)
    for arch, weights, held in zip(archs, sums, peaks, strict=True):
        operators = space.operators(arch, precision)
        assert weights == sum(operator.weight_bytes for operator in operators)
        assert held == max(operator.activation_bytes for operator in operators)
    assert np.array_equal(space.peak_activation_bytes(list(archs), precision), peaks)


def test_in_8_bits_a_network_is_a_quarter_of_its_weights() -> None:
    space = get_space("mobilenetv3", width=0.5, classes=7, resolutions=(40,), precisions=["fp32", "int8"])
    (arch,) = space.sample(1, 0)
    small, large = (space.architecture({**arch.values, "precision": p}) for p in ("int8", "fp32"))
    assert 0.25 < space.model_bytes([small])[0] / space.model_bytes([large])[0] < 0.3
    assert space.peak_activation_bytes([small])[0] * 4 == space.peak_activation_bytes([large])[0]
