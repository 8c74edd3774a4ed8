from __future__ import annotations

import builtins
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import MissingExtraError
from hwnas.latency.devices import get_device
from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.ops.onnx import onnx_model, random_weights
from tests.latency.fakes import small_space


@pytest.fixture
def device():
    try:
        return get_device("openvino")
    except MissingExtraError as error:
        pytest.skip(str(error))


def model(batch_size: int | None = 1) -> bytes:
    operators = small_space().operators(small_space().sample(1, 3)[0])
    return onnx_model(operators, [random_weights(op, 3) for op in operators], batch_size).SerializeToString()


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'hwnas\[openvino\]'"):
        get_device("openvino")


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_computes_in_single_precision_what_onnxruntime_computes(device, batch_size):
    """To 1e-4: in bf16, which it would choose on some processors, outputs differ by a hundred times that."""
    actual = next(iter(device.open(model(batch_size))().values()))
    (expected,) = OnnxRuntimeDevice().open(model(batch_size))()
    assert actual.shape == (batch_size or 1, 4)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_one_thread_computes_in_the_calling_thread(device):
    """Otherwise CPU time of the thread would say nothing."""
    run = device.open(model())
    for _ in range(20):
        run()
    process, thread = time.process_time_ns(), time.thread_time_ns()
    for _ in range(200):
        run()
    thread, process = time.thread_time_ns() - thread, time.process_time_ns() - process
    assert thread > 0.8 * process


def test_first_use_while_pinned_does_not_limit_later_threads(device):
    """OpenVINO counts cores once in a process, hence the fresh one."""
    if device.identity.device["cores"] < 2:
        pytest.skip("needs two cores")
    code = (
        "from hwnas.latency.devices import get_device\n"
        "from hwnas.latency.measure import Plan\n"
        "from tests.latency.devices.test_openvino import model\n"
        "for threads in (1, 2):\n"
        "    samples = get_device('openvino', threads).measure([model()], Plan(((0,),)))\n"
        "    assert (samples.time_ns > 0).all()\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
