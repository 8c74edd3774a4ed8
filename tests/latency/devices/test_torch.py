from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from hwnas.errors import DeviceError
from hwnas.latency.devices import get_device
from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.latency.devices.torch import TorchDevice, _network
from hwnas.latency.measure import Plan
from hwnas.latency.profiling import profile
from hwnas.networks.blocks import build_network, folded_weights
from hwnas.ops.onnx import onnx_model, random_weights
from tests.latency.fakes import small_space


def model_of(batch_size: int | None = 1) -> onnx.ModelProto:
    operators = small_space().operators(small_space().sample(1, 3)[0])
    return onnx_model(operators, [random_weights(op, 3) for op in operators], batch_size)


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_computes_what_onnxruntime_computes(batch_size):
    """Both devices draw the same input; what is timed gives the same outputs."""
    data = model_of(batch_size).SerializeToString()
    device = TorchDevice()
    with device.settings():
        actual = device.open(data)().numpy()
    (expected,) = OnnxRuntimeDevice().open(data)()
    assert actual.shape == (batch_size or 1, 4)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_times_the_network_that_was_exported():
    """With its batch norms, and the outputs of the original."""
    space = small_space()
    network = build_network(space, space.sample(1, 5)[0])
    data = onnx_model(network.operators, folded_weights(network)).SerializeToString()
    device = TorchDevice()
    with device.settings():
        actual = device.open(data)()
        rebuilt, images = _network(data)
        expected = network(images)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert [type(module) for module in rebuilt.modules()] == [type(module) for module in network.modules()]


def test_other_models_are_refused():
    model = model_of()
    model.ClearField("metadata_props")
    with pytest.raises(DeviceError, match="hwnas made"):
        TorchDevice().measure([model.SerializeToString()], Plan(((0,),)))
    changed = model_of()
    changed.graph.node[0].attribute.pop()
    with pytest.raises(DeviceError, match="changed"):
        TorchDevice().measure([changed.SerializeToString()], Plan(((0,),)))


def test_threads_and_grad_mode_are_given_back():
    before = torch.get_num_threads()
    seen = []

    class Spy(TorchDevice):
        def open(self, model):
            run = super().open(model)

            def spied():
                seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
                return run()

            return spied

    Spy().measure([model_of().SerializeToString()], Plan(((0,),)))
    assert set(seen) == {(1, True)}
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


def test_a_table_end_to_end():
    table = profile(small_space(), "torch", rounds=3, calibration_networks=4, held_out_networks=3)
    space = small_space()
    assert (table.latency_ms(space.sample(20, 0)) > 0).all()
    assert table.runtime["name"] == "torch"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said_clearly():
    with pytest.raises(DeviceError, match="no CUDA GPU"):
        get_device("torch-cuda")


def test_torch_is_loaded_only_when_used():
    code = (
        "import sys\n"
        "from hwnas.latency.devices import get_device\n"
        "get_device('torch')\n"
        "assert 'torch' not in sys.modules and 'openvino' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_cuda_computes_in_single_precision():
    data = model_of().SerializeToString()
    with get_device("torch-cuda").settings():
        network, images = _network(data)
        expected = network(images)
        actual = network.cuda()(images.cuda()).cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.gpu
def test_cuda_graphs_are_timed_by_events():
    device = get_device("torch-cuda")
    data = model_of().SerializeToString()
    plan = Plan(((0,), (0, 1)), kept_runs=7)
    for _ in range(2):  # the memory that graphs share is let go and taken again
        samples = device.measure([data, data], plan)
        assert samples.time_ns.shape == (3, 7)
        assert (samples.time_ns > 0).all()
        assert (samples.wall_ns > 0).all()
        assert not samples.preempted.any()
    assert device.identity.statistic == "device-trimmed-mean"
    assert device.identity.runtime["gpu"] == torch.cuda.get_device_name()
    with pytest.raises(DeviceError, match="threads"):
        get_device("torch-cuda", 2)
