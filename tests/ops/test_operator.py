"""Operators, and blocks that users define."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import SpaceError
from hwnas.ops import Graph, Operator
from hwnas.ops.conv import Conv
from tests.ops.plugin import ShiftedSpace, macs_and_keys, shifted


def test_a_block_of_a_user_names_the_kind() -> None:
    operator = Operator(shifted, (1, 8, 8), (4, 8, 8), (("k", 3),))
    assert operator.kind == "shifted"
    assert operator.key == "shifted-in:8x8x1-out:8x8x4-k:3-p:fp32"
    assert operator.macs == 4 * 9 * 64
    assert operator.params == 4 * 9 + 2 * 4 + 4
    assert Operator.parse(operator.key) == operator


def test_a_block_of_a_user_is_known_in_spawned_workers() -> None:
    """A worker gets the space by pickle, and nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(macs_and_keys, ShiftedSpace()).result() == macs_and_keys(ShiftedSpace())


def test_a_primitive_of_a_user_is_trained_extracted_and_exported(tmp_path: Path) -> None:
    import onnxruntime
    import torch

    import hwnas

    space = ShiftedSpace()
    net = hwnas.Supernet(space, rng=1)
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    net.train()(images, space.enumerate()[3]).square().sum().backward()
    assert net.get_parameter("slots.body.shift.shift").grad is not None
    net.eval()
    for arch in space.enumerate():
        statistics = hwnas.calibrate(net, arch, [images])
        with torch.no_grad():
            expected = net(images, arch, statistics)
            network = net.extract(arch, statistics)
            torch.testing.assert_close(network(images), expected)
        hwnas.export_onnx(network, tmp_path / "net.onnx", (6, 1, 8, 8))
        (found,) = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(None, {"input": images.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def conv(op: Operator) -> Graph:
    """A block that takes the name of one of hwnas."""
    return Graph.chain(op.in_shape, [Conv("conv", 1, 1)])


def test_a_block_may_not_take_a_name_that_is_taken() -> None:
    with pytest.raises(SpaceError, match=r"'conv' is already a kind of operator, hwnas\.ops\.blocks\.conv"):
        Operator(conv, (1, 8, 8), (1, 8, 8), ())
    with pytest.raises(SpaceError, match="a function with a name of its own, got '<lambda>'"):
        Operator(lambda op: conv(op), (1, 8, 8), (1, 8, 8), ())


def test_an_unknown_kind_is_refused_when_its_ops_are_needed() -> None:
    with pytest.raises(SpaceError, match=r"unknown kind of operator 'mbcnov'.*mbconv.*Operator\(function"):
        _ = Operator("mbcnov", (1, 8, 8), (1, 8, 8), ()).graph
