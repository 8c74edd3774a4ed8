"""ONNX Runtime on this machine's CPU."""

from __future__ import annotations

import gc
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import psutil

from hwnas.errors import DeviceError
from hwnas.latency.measure import Identity, Plan, Samples
from hwnas.progress import Progress, silent

FREE_MEMORY = 0.25  # share of the machine's memory that open sessions leave free
PREEMPTED_RATIO = 1.5  # wall time to CPU time of one thread

Run = Callable[[], object]


class OnnxRuntimeDevice:
    """Times models in this process, with all graph optimisations.

    With one thread the statistic is CPU time of the thread, which other processes disturb least; with more
    it is wall time. The calling thread is pinned to as many cores as there are threads while it measures.
    """

    def __init__(self, threads: int = 1) -> None:
        """`threads` of ONNX Runtime's intra-op pool; DeviceError for more than there are cores."""
        cores = psutil.cpu_count() or 1
        if not 1 <= threads <= cores:
            raise DeviceError(f"threads is {threads}; this machine has {cores} cores, give 1 to {cores}")
        self.threads = threads

    @property
    def identity(self) -> Identity:
        return Identity(
            device={"name": platform.node(), "cpu": _cpu_name(), "cores": psutil.cpu_count() or 1},
            runtime={
                "name": "onnxruntime",
                "version": onnxruntime.__version__,
                "threads": self.threads,
                "graph_optimization": "all",
            },
            statistic="cpu-trimmed-mean" if self.threads == 1 else "wall-trimmed-mean",
        )

    def session(self, model: bytes) -> onnxruntime.InferenceSession:
        """A session with the settings that are timed; DeviceError if ONNX Runtime refuses the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class
            raise DeviceError(f"ONNX Runtime cannot load a model: {error}") from None

    def measure(self, models: Sequence[bytes], plan: Plan, progress: Progress = silent) -> Samples:
        cold_ns = np.zeros(len(models), dtype=np.int64)
        ready: dict[int, Run] = {}
        visited: list[int] = []
        times: list[list[tuple[int, int, int]]] = []  # (time, wall time, context switches) a kept run
        with _pinned(self.threads), _without_gc():
            for i, model in enumerate(models):
                run = self._run(model)
                start = time.perf_counter_ns()
                run()
                cold_ns[i] = time.perf_counter_ns() - start
                if _memory_left():
                    ready[i] = run
                progress(i + 1, len(models), "opening models")
            deadline = time.monotonic() + plan.time_limit_s
            for number, visit in enumerate(plan.visits, 1):
                if time.monotonic() > deadline:
                    break
                runs = [ready[i] if i in ready else self._run(models[i]) for i in visit]
                visited += visit
                times += self._visit(runs, plan)
                if number % 100 == 0 or number == len(plan.visits):
                    progress(number, len(plan.visits), "timing")
        time_ns, wall_ns, switches = np.array(times, dtype=np.int64).reshape(-1, plan.kept_runs, 3).T
        preempted = switches > 0
        if self.threads == 1:
            preempted |= wall_ns > PREEMPTED_RATIO * time_ns
        return Samples(np.array(visited, dtype=np.int64), time_ns.T, wall_ns.T, preempted.T, cold_ns)

    def _visit(self, runs: Sequence[Run], plan: Plan) -> list[list[tuple[int, int, int]]]:
        clock = time.thread_time_ns if self.threads == 1 else time.perf_counter_ns
        for _ in range(plan.warmup_runs):
            for run in runs:
                run()
        kept: list[list[tuple[int, int, int]]] = [[] for _ in runs]
        for _ in range(plan.kept_runs):
            for run, row in zip(runs, kept, strict=True):
                switches, wall = _switches(), time.perf_counter_ns()
                start = clock()
                run()
                stop = clock()
                row.append((stop - start, time.perf_counter_ns() - wall, _switches() - switches))
        return kept

    def _run(self, model: bytes) -> Run:
        session = self.session(model)
        (argument,) = session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in argument.shape]
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        outputs, feed = [output.name for output in session.get_outputs()], {argument.name: x}
        return lambda: session.run(outputs, feed)


def _memory_left() -> bool:
    """Whether further sessions may stay open; otherwise they are opened anew at each visit."""
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
    """Keep the calling thread, and those it starts, on the least loaded cores, where the system allows it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    load = psutil.cpu_percent(0.1, percpu=True)
    cores = sorted(before, key=lambda core: load[core])[:threads]
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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
