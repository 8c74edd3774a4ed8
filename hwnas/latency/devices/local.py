"""What devices of this machine share: models are opened and visited by the timing loop of the runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from hwnas.errors import DeviceError
from hwnas.latency import runner
from hwnas.latency.jobs import samples_of
from hwnas.latency.measure import Identity, Plan, Samples
from hwnas.progress import Progress, silent

Run = Callable[[], object]
Row = list[tuple[int, int, bool]]  # time and wall time in ns, and whether preempted, of each kept run


class LocalDevice(ABC):
    """Times models in this process. A runtime says what it is and how a model is opened.

    With one thread, in which the runtime must run the model, the statistic is CPU time of the thread, which
    other processes disturb least; with more it is wall time. The calling thread is pinned to as many cores
    of one kind as there are threads while it measures.
    """

    def __init__(self, threads: int = 1, cores: Sequence[int] | None = None) -> None:
        """Check threads and cores.

        Args:
            threads: number of threads of the runtime.
            cores: numbers of the cores that may be used, by default those of the highest capacity.

        Raises:
            DeviceError: if the threads have no core each that this process may use.
        """
        try:
            runner.candidate_cores(threads, cores)
        except runner.RunnerError as error:
            raise DeviceError(str(error)) from None
        self.threads, self.cores = threads, cores

    @property
    @abstractmethod
    def runtime(self) -> dict[str, Any]:
        """The runtime of the identity: name, version, threads, graph_optimization, and what else matters."""

    @abstractmethod
    def open(self, model: bytes) -> Run:
        """A call that runs a serialised ONNX model once.

        DeviceError or RunnerError if the runtime refuses the model.
        """

    def settings(self) -> AbstractContextManager[object]:
        """What must hold in this process while models are opened and run, and is undone afterwards."""
        return nullcontext()

    def wall_ns(self, run: Run) -> int:
        """Wall time of one run in nanoseconds, from its call to its end."""
        return runner.wall_ns(run)

    @property
    def statistic(self) -> str:
        """Which time of a run is the latency."""
        return runner.statistic(self.threads)

    @property
    def identity(self) -> Identity:
        return Identity(runner.machine(), self.runtime, self.statistic)

    def measure(self, models: Sequence[bytes], plan: Plan, progress: Progress = silent) -> Samples:
        try:
            cores = runner.choose_cores(self.threads, self.cores, plan.cores)
            samples = self._measure(models, plan, cores, progress)
        except runner.RunnerError as error:
            raise DeviceError(str(error)) from None
        return replace(samples, cores=tuple(cores))

    def _measure(
        self, models: Sequence[bytes], plan: Plan, cores: Sequence[int], progress: Progress
    ) -> Samples:
        found: list[dict[str, Any]] = []
        with runner.pinned(cores), runner.without_gc(), self.settings():
            records = runner.records(
                len(models),
                plan.visits,
                plan.time_limit_s,
                lambda i: self.open(models[i]),
                self.wall_ns,
                lambda runs: self.visit(runs, plan),
            )
            try:
                for record in records:
                    found.append(record)
                    visited = len(found) - len(models)
                    if visited <= 0:
                        progress(len(found), len(models), "opening models")
                    elif visited % 100 == 0 or visited == len(plan.visits):
                        progress(visited, len(plan.visits), "timing")
            except runner.RunnerError as error:
                raise DeviceError(str(error), error.model) from error.__cause__
        return samples_of(found, len(models), plan.visits, plan.kept_runs)

    def visit(self, runs: Sequence[Run], plan: Plan) -> list[Row]:
        """The kept runs of each model of a visit."""
        return runner.timed_visit(runs, plan.warmup_runs, plan.kept_runs, self.threads)
