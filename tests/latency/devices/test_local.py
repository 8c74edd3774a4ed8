from __future__ import annotations

import os
import threading

import pytest

from hwnas.errors import DeviceError
from hwnas.latency.devices import get_device
from hwnas.latency.devices.local import LocalDevice
from hwnas.latency.measure import Plan
from hwnas.testing.devices import conv


class Starting(LocalDevice):
    """Opening a model starts a thread that lives on, as runtimes' pools do."""

    def __init__(self) -> None:
        super().__init__()
        self.end = threading.Event()
        self.pinned: list[set[int]] = []
        self.worker: threading.Thread | None = None

    @property
    def runtime(self):
        return {"name": "starting", "version": "1", "threads": 1, "graph_optimization": "none"}

    def open(self, model):
        self.worker = threading.Thread(target=self.end.wait)
        self.worker.start()
        self.pinned.append(os.sched_getaffinity(self.worker.native_id))
        return lambda: sum(range(1000))


class Small(LocalDevice):
    """A machine whose memory has room for no model of more than 10 bytes."""

    runtime = Starting.runtime

    def open(self, model):
        if len(model) > 10:
            raise MemoryError
        return lambda: sum(range(1000))


def test_a_model_for_which_memory_is_short_is_refused():
    with pytest.raises(DeviceError, match="not enough memory to open the model") as caught:
        Small().measure([b"", bytes(11)], Plan(((0, 1),)))
    assert caught.value.model == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_threads_that_a_runtime_starts_are_let_go():
    before = os.sched_getaffinity(0)
    device = Starting()
    try:
        device.measure([b""], Plan(((0,),)))
        assert [len(cores) for cores in device.pinned] == [1]
        assert os.sched_getaffinity(device.worker.native_id) == before
    finally:
        device.end.set()
        device.worker.join()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_a_device_runs_on_the_chosen_cores_and_says_so():
    core = max(os.sched_getaffinity(0))
    for chosen, kept in (((core,), ()), (None, (core,))):
        samples = get_device("onnxruntime", cores=chosen).measure([conv(4, 4)], Plan(((0,),), cores=kept))
        assert samples.cores == (core,)
    assert len(get_device("onnxruntime").measure([conv(4, 4)], Plan(((0,),))).cores) == 1


def test_cores_that_the_system_refuses_are_named(monkeypatch):
    def refused(process, cores):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refused, raising=False)
    core = min(os.sched_getaffinity(0))
    with pytest.raises(
        DeviceError, match=rf"run on cores {core} \(Invalid argument\); give others \(--cores"
    ):
        get_device("onnxruntime", cores=(core,)).measure([conv(4, 4)], Plan(((0,),)))
