"""What every device keeps. A new one joins by being registered in DEVICES."""

from __future__ import annotations

import os

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import DeviceError, MissingExtraError
from hwnas.latency.devices import DEVICES, get_device
from hwnas.latency.measure import Plan, time_models
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.spaces import Operator
from tests.latency.devices.board import running_board
from tests.latency.fakes import small_space


def conv(channels: int, size: int) -> bytes:
    shape = (channels, size, size)
    operator = Operator("conv", shape, shape, (("k", 3), ("s", 1), ("act", "relu")))
    return onnx_model([operator], [random_weights(operator, 0)]).SerializeToString()


@pytest.fixture(scope="module")
def board_address(tmp_path_factory):
    """The address of a board with an sshd of its own; skips where there is none."""
    with (
        pytest.MonkeyPatch.context() as patch,
        running_board(tmp_path_factory.mktemp("board"), patch) as board,
    ):
        yield f"ssh://{board.address()}"


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.gpu) if "cuda" in n else n for n in DEVICES])
def name(request):
    if request.param == "ssh":
        return request.getfixturevalue("board_address")
    try:
        get_device(request.param)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return request.param


def test_identity_is_plain_data(name):
    identity = get_device(name).identity
    assert set(identity.device) == {"name", "cpu", "cores"}
    assert {"name", "version", "threads", "graph_optimization"} <= set(identity.runtime)
    assert identity.runtime["name"] == ("onnxruntime" if name.startswith("ssh://") else name)
    assert identity.runtime["threads"] == 1
    assert identity == get_device(name).identity
    assert "mean" in identity.statistic


def test_samples_follow_the_plan(name):
    models = [conv(8, 8), conv(16, 8), conv(8, 4)]
    plan = Plan(((0,), (2, 1, 2), (1,)), warmup_runs=1, kept_runs=4)
    samples = get_device(name).measure(models, plan)
    assert samples.model.tolist() == [0, 2, 1, 2, 1]
    for array in (samples.time_ns, samples.wall_ns, samples.preempted):
        assert array.shape == (5, 4)
    assert (samples.time_ns > 0).all()
    assert samples.preempted.dtype == bool
    assert samples.cold_ns.shape == (3,)
    assert (samples.cold_ns > 0).all()


def test_more_work_takes_longer(name):
    """A thousand times the multiply-accumulates: no machine is so disturbed that the order turns."""
    small, large = time_models([conv(4, 4), conv(64, 32)], get_device(name), rounds=4)
    assert large.ms > small.ms


def test_a_time_limit_drops_visits(name):
    plan = Plan(((0,),) * 100, time_limit_s=0.0)
    samples = get_device(name).measure([conv(4, 4)], plan)
    assert len(samples.model) < 100
    with pytest.raises(DeviceError, match="visited"):
        time_models([conv(4, 4)], get_device(name), rounds=4, time_limit_s=0.0)


def test_progress_ends_at_its_total(name):
    seen = []
    plan = Plan(((0,),) * 3)
    get_device(name).measure(
        [conv(4, 4)], plan, lambda done, total, text="": seen.append((done, total, text))
    )
    done, total, text = seen[-1]
    assert done == total > 0
    assert text


def test_every_kind_of_operator_runs(name):
    operators = small_space().all_operators()
    models = [onnx_model([op], [random_weights(op, 0)]).SerializeToString() for op in operators]
    found = time_models(models, get_device(name), rounds=2)
    assert len(found) == len(operators)
    assert all(np.isfinite(timing.ms) and timing.ms > 0 for timing in found)


def failing() -> bytes:
    """A model that loads in ONNX Runtime, but fails when it runs."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["input", "rows"], ["out"], name="to_rows")],
        "failing",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 4, 4, 4))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (5, 7))],
        [numpy_helper.from_array(np.array([5, 7]), "rows")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def test_the_error_of_a_model_that_fails_has_its_index(name):
    for bad in (failing(), b"not a model"):
        with pytest.raises(DeviceError, match=r"cannot load|fails when it runs") as caught:
            get_device(name).measure([conv(4, 4), bad], Plan(((0, 1),)))
        assert caught.value.model == 1


def test_wrong_models_and_threads_are_refused(name):
    with pytest.raises(DeviceError, match="cannot load"):
        get_device(name).measure([b"not a model"], Plan(((0,),)))
    for threads in (0, 100_000):
        with pytest.raises(DeviceError, match="threads"):
            get_device(name, threads).identity  # noqa: B018


def test_measuring_leaves_the_process_as_it_was(name):
    import gc

    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    get_device(name).measure([conv(4, 4)], Plan(((0,),)))
    with pytest.raises(DeviceError):
        get_device(name).measure([b"not a model"], Plan(((0,),)))
    assert gc.isenabled()
    if affinity is not None:
        assert os.sched_getaffinity(0) == affinity


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_more_threads_say_which_time_they_measure(name):
    if name == "torch-cuda":
        pytest.skip("one thread launches; more are refused")
    one, two = get_device(name, 1).identity, get_device(name, 2).identity
    assert two.runtime["threads"] == 2
    assert two.statistic != one.statistic
    assert (get_device(name, 2).measure([conv(4, 4)], Plan(((0,),))).time_ns > 0).all()
