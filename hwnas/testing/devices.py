"""Rules for devices: `hwnas.latency.measure.Device`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from hwnas.errors import DeviceError
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Device, Plan, time_models
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.plugins import is_factory
from hwnas.spaces import NetworkSpace, Operator, get_space
from hwnas.testing.rules import NotApplicable, Suite, check_rules, require, require_error

DeviceLike = str | Device | Callable[..., Device]


@dataclass(frozen=True)
class Subject:
    """A device under test."""

    plugin: DeviceLike

    @property
    def takes_threads(self) -> bool:
        """Whether a device can be made for a number of threads."""
        return isinstance(self.plugin, str) or is_factory(self.plugin, Device)

    def make(self, threads: int = 1) -> Device:
        """Return the device; NotApplicable for an object if other threads than its own are asked for."""
        if isinstance(self.plugin, str):
            return get_device(self.plugin, threads)
        if is_factory(self.plugin, Device):
            device: Device = self.plugin(threads=threads)
            return device
        if threads != 1:
            raise NotApplicable("an object has a number of threads of its own")
        return cast(Device, self.plugin)


def check_device(device: DeviceLike) -> None:
    """Check that a device keeps the rules that `hwnas.profile` relies on.

    Args:
        device: An object; or a class or function that makes one of the argument `threads`; or a name, such
            as "onnxruntime" or "ssh://user@host".

    Raises:
        ConformanceError: If the device breaks a rule; the message names the rule and the values.
        MissingExtraError: If the device needs a package that is not installed.
    """
    check_rules(DEVICE_RULES, device)


suite = Suite(Subject)


def conv(channels: int, size: int) -> bytes:
    """Return the ONNX model of a convolution of as many input as output channels."""
    shape = (channels, size, size)
    operator = Operator("conv", shape, shape, (("k", 3), ("s", 1), ("act", "relu")))
    return bytes(onnx_model([operator], [random_weights(operator, 0)]).SerializeToString())


def failing() -> bytes:
    """Return a model that loads in ONNX Runtime, but fails when it runs."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["input", "rows"], ["out"], name="to_rows")],
        "failing",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 4, 4, 4))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (5, 7))],
        [numpy_helper.from_array(np.array([5, 7]), "rows")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def many_kinds() -> NetworkSpace:
    """Return a small space with dense, depthwise and squeeze-and-excite blocks."""
    stage = {"width": [8, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [1, 2]}
    depthwise = {"block": "mbconv", "width": [16], "depth": [1, 2], "kernel": [3], "expand": [1, 2]}
    return get_space(
        "mobilenetv3",
        resolutions=(8, 12),
        channels=1,
        classes=4,
        stem={"width": [8], "activation": "relu"},
        head={"width": 16, "activation": "relu"},
        stages=[{"block": "fused", **stage, "stride": 2}, {**depthwise, "se": True}],
    )


def _identity(subject: Subject, threads: int) -> Any:
    return subject.make(threads).identity


# ---- rules ---------------------------------------------------------------------------------------


@suite.rule
def has_an_identity_of_plain_data(subject: Subject) -> None:
    """Says the machine, the runtime and the statistic, and always the same."""
    identity = subject.make().identity
    require(
        set(identity.device) == {"name", "cpu", "cores"}, f"the keys of device are {list(identity.device)}."
    )
    missing = {"name", "version", "threads", "graph_optimization"} - set(identity.runtime)
    require(not missing, f"runtime lacks {', '.join(sorted(missing))}.")
    threads = identity.runtime["threads"]
    require(threads == 1 or not subject.takes_threads, f"made for 1 thread, runtime says {threads}.")
    require(identity == subject.make().identity, "a second device has another identity.")
    require("mean" in identity.statistic, f"the statistic is {identity.statistic!r}; it is a mean.")


@suite.rule
def samples_follow_the_plan(subject: Subject) -> None:
    """Gives one row of positive times for each model of each visit, in the order of the plan."""
    models = [conv(8, 8), conv(16, 8), conv(8, 4)]
    samples = subject.make().measure(models, Plan(((0,), (2, 1, 2), (1,)), warmup_runs=1, kept_runs=4))
    require(samples.model.tolist() == [0, 2, 1, 2, 1], f"the models are {samples.model.tolist()}.")
    for name in ("time_ns", "wall_ns", "preempted"):
        shape = getattr(samples, name).shape
        require(shape == (5, 4), f"{name} has shape {shape}, not (5, 4).")
    require((samples.time_ns > 0).all(), f"a time is {samples.time_ns.min()} ns.")
    require(samples.preempted.dtype == bool, f"preempted is of type {samples.preempted.dtype}.")
    require(samples.cold_ns.shape == (3,), f"cold_ns has shape {samples.cold_ns.shape}, not (3,).")
    require((samples.cold_ns > 0).all(), f"a first call took {samples.cold_ns.min()} ns.")


@suite.rule
def more_work_takes_longer(subject: Subject) -> None:
    """A model of some ten thousand times the multiply-accumulates takes longer."""
    small, large = time_models([conv(4, 4), conv(64, 32)], subject.make(), rounds=4)
    require(large.ms > small.ms, f"the large model took {large.ms:.4g} ms, the small one {small.ms:.4g} ms.")


@suite.rule
def a_time_limit_drops_visits(subject: Subject) -> None:
    """Drops the visits that are left after the time limit."""
    plan = Plan(((0,),) * 100, time_limit_s=0.0)
    visits = len(subject.make().measure([conv(4, 4)], plan).model)
    require(visits < 100, f"within 0 seconds {visits} of 100 visits were made.")
    require_error(
        DeviceError,
        "visited",
        lambda: time_models([conv(4, 4)], subject.make(), rounds=4, time_limit_s=0.0),
        "a measurement of no time",
    )


@suite.rule
def progress_ends_at_its_total(subject: Subject) -> None:
    """Reports progress up to its total, with a text."""
    seen: list[tuple[int, int, str]] = []
    subject.make().measure(
        [conv(4, 4)], Plan(((0,),) * 3), lambda done, total, text="": seen.append((done, total, text))
    )
    require(seen, "no progress was reported.")
    done, total, text = seen[-1]
    require(done == total > 0 and text, f"the last progress is {done} of {total}, {text!r}.")


@suite.rule
def runs_every_kind_of_operator(subject: Subject) -> None:
    """Times every kind of operator."""
    operators = many_kinds().all_operators()
    models = [onnx_model([op], [random_weights(op, 0)]).SerializeToString() for op in operators]
    timings = time_models(models, subject.make(), rounds=2)
    require(len(timings) == len(operators), f"{len(timings)} timings of {len(operators)} operators.")
    for operator, timing in zip(operators, timings, strict=True):
        require(np.isfinite(timing.ms) and timing.ms > 0, f"{operator.key} took {timing.ms} ms.")


@suite.each({"fails": failing, "unreadable": lambda: b"not a model"})
def names_the_model_that_fails(subject: Subject, make: Callable[[], bytes]) -> None:
    """Raises a DeviceError with the index of a model that cannot be loaded or run."""
    error = require_error(
        DeviceError,
        r"cannot load|fails when it runs",
        lambda: subject.make().measure([conv(4, 4), make()], Plan(((0, 1),))),
        "a measurement with a wrong second model",
    )
    index = getattr(error, "model", None)
    require(index == 1, f"the model of the error is {index}, not 1.")


@suite.rule
def refuses_wrong_models_and_threads(subject: Subject) -> None:
    """Raises a DeviceError for what is no model, and for threads that the machine does not have."""
    wrong = Plan(((0,),))
    require_error(
        DeviceError, "cannot load", lambda: subject.make().measure([b"not a model"], wrong), "no model"
    )
    for threads in (0, 100_000) if subject.takes_threads else ():
        require_error(DeviceError, "threads", partial(_identity, subject, threads), f"{threads} threads")


@suite.rule
def leaves_the_process_as_it_was(subject: Subject) -> None:
    """Leaves garbage collection and the cores of the process as they were."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    subject.make().measure([conv(4, 4)], Plan(((0,),)))
    require_error(
        DeviceError,
        "",
        lambda: subject.make().measure([b"not a model"], Plan(((0,),))),
        "a measurement of no model",
    )
    require(gc.isenabled(), "garbage collection is off.")
    if affinity is not None:
        after = os.sched_getaffinity(0)
        require(after == affinity, f"the process may use the cores {after}, before {affinity}.")


@suite.rule
def two_threads_have_another_statistic(subject: Subject) -> None:
    """Says for two threads that another time is measured: wall time, not the time of one thread."""
    if (os.cpu_count() or 1) < 2:
        raise NotApplicable("this machine has one core")
    device = subject.make(2)
    one, two = subject.make(1).identity, device.identity
    require(two.runtime["threads"] == 2, f"made for 2 threads, runtime says {two.runtime['threads']}.")
    require(two.statistic != one.statistic, f"the statistic of 1 and of 2 threads is {one.statistic!r}.")
    times = device.measure([conv(4, 4)], Plan(((0,),))).time_ns
    require((times > 0).all(), f"a time is {times.min()} ns.")


DEVICE_RULES = tuple(suite.rules)
