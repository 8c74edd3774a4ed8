"""What devices of this machine share: the processor pinned and counted, models visited as the plan says."""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hwnas.errors import DeviceError
from hwnas.latency.measure import Identity, Plan, Samples
from hwnas.progress import Progress, silent

FREE_MEMORY = 0.25  # share of the machine's memory that open models leave free
PREEMPTED_RATIO = 1.5  # wall time to CPU time of one thread

Run = Callable[[], object]
Row = list[
    tuple[int, int, bool]
]  # time and wall time in nanoseconds, and whether preempted, of each kept run


class LocalDevice(ABC):
    """Times models in this process. A runtime says what it is and how a model is opened.

    With one thread, in which the runtime must run the model, the statistic is CPU time of the thread, which
    other processes disturb least; with more it is wall time. The calling thread is pinned to as many cores
    as there are threads while it measures.
    """

    def __init__(self, threads: int = 1) -> None:
        """`threads` of the runtime; DeviceError for more than there are cores."""
        cores = psutil.cpu_count() or 1
        if not 1 <= threads <= cores:
            raise DeviceError(f"threads is {threads}; this machine has {cores} cores, give 1 to {cores}")
        self.threads = threads

    @property
    @abstractmethod
    def runtime(self) -> dict[str, Any]:
        """The runtime of the identity: name, version, threads, graph_optimization, and what else matters."""

    @abstractmethod
    def open(self, model: bytes) -> Run:
        """A call that runs a serialised ONNX model once; DeviceError if the runtime refuses it."""

    def settings(self) -> AbstractContextManager[object]:
        """What must hold in this process while models are opened and run, and is undone afterwards."""
        return nullcontext()

    def wall_ns(self, run: Run) -> int:
        """Wall time of one run in nanoseconds, from its call to its end."""
        start = time.perf_counter_ns()
        run()
        return time.perf_counter_ns() - start

    @property
    def statistic(self) -> str:
        """Which time of a run is the latency."""
        return "cpu-trimmed-mean" if self.threads == 1 else "wall-trimmed-mean"

    @property
    def identity(self) -> Identity:
        machine = {"name": platform.node(), "cpu": _cpu_name(), "cores": psutil.cpu_count() or 1}
        return Identity(machine, self.runtime, self.statistic)

    def measure(self, models: Sequence[bytes], plan: Plan, progress: Progress = silent) -> Samples:
        cold_ns = np.zeros(len(models), dtype=np.int64)
        ready: dict[int, Run] = {}
        visited: list[int] = []
        rows: list[Row] = []
        with _pinned(self.threads), _without_gc(), self.settings():
            for i, model in enumerate(models):
                run = self.open(model)
                cold_ns[i] = self.wall_ns(run)
                if _memory_left():
                    ready[i] = run
                progress(i + 1, len(models), "opening models")
            deadline = time.monotonic() + plan.time_limit_s
            for number, visit in enumerate(plan.visits, 1):
                if time.monotonic() > deadline:
                    break
                runs = [ready[i] if i in ready else self.open(models[i]) for i in visit]
                visited += visit
                rows += self.visit(runs, plan)
                if number % 100 == 0 or number == len(plan.visits):
                    progress(number, len(plan.visits), "timing")
        time_ns, wall_ns, preempted = np.array(rows, dtype=np.int64).reshape(-1, plan.kept_runs, 3).T
        return Samples(
            np.array(visited, dtype=np.int64), time_ns.T, wall_ns.T, preempted.T.astype(bool), cold_ns
        )

    def visit(self, runs: Sequence[Run], plan: Plan) -> list[Row]:
        """The kept runs of each model of a visit."""
        clock = time.thread_time_ns if self.threads == 1 else time.perf_counter_ns
        for _ in range(plan.warmup_runs):
            for run in runs:
                run()
        kept: list[Row] = [[] for _ in runs]
        for _ in range(plan.kept_runs):
            for run, row in zip(runs, kept, strict=True):
                switches, wall = _switches(), time.perf_counter_ns()
                start = clock()
                run()
                time_ns = clock() - start
                wall_ns = time.perf_counter_ns() - wall
                preempted = _switches() > switches
                if self.threads == 1:
                    preempted |= wall_ns > PREEMPTED_RATIO * time_ns
                row.append((time_ns, wall_ns, preempted))
        return kept


def random_input(shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The input that models are timed on."""
    return np.random.default_rng(0).standard_normal(tuple(shape), dtype=np.float32)


def _memory_left() -> bool:
    """Whether further models may stay open; otherwise they are opened anew at each visit."""
    memory = psutil.virtual_memory()
    return bool(memory.available > FREE_MEMORY * memory.total)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _switches() -> int:
    """Involuntary context switches so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


@contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """Keep the calling thread, and those it starts, on the least loaded cores, where the system allows it.

    Threads that a runtime starts outlive the measurement in its pool; they too are let go at the end.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    others = _thread_ids()
    load = psutil.cpu_percent(0.1, percpu=True)
    cores = sorted(before, key=lambda core: load[core])[:threads]
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        for thread in _thread_ids() - others:
            with suppress(ProcessLookupError):  # it ended in the meantime
                os.sched_setaffinity(thread, before)


def _thread_ids() -> set[int]:
    return {thread.id for thread in psutil.Process().threads()}


@contextmanager
def _without_gc() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
