"""Where expensive objectives are evaluated: here, in processes of this machine, or on a Ray cluster.

An executor finishes its tasks in any order. The search tells the strategy in the order in which it asked, and
alone writes the store; so what comes of it does not depend on the executor. Workers are sent the functions
once, then genotypes, and send back plain numbers.
"""

from __future__ import annotations

import heapq
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import cloudpickle
import numpy as np
from threadpoolctl import threadpool_limits

from hwnas.errors import (
    EvaluationError,
    HwnasError,
    MissingExtraError,
    SearchError,
    TimingError,
    known_names,
)
from hwnas.latency.runner import max_threads
from hwnas.searching.objectives import Evaluate, real_values, whole
from hwnas.spaces import Architecture, Architectures, SearchSpace
from hwnas.store import digest

log = logging.getLogger("hwnas")

RETRIES = 2  # of a task whose worker was lost

Functions = Mapping[str, Evaluate]  # by objective's name


@dataclass(frozen=True)
class Task:
    """One expensive objective of one architecture. The one with the lowest number goes first."""

    number: int
    objective: str
    architecture: Architecture


@dataclass(frozen=True)
class Outcome:
    """The value of a task, or why there is none."""

    value: float | None
    error: str | None
    seconds: float


class Executor(Protocol):
    """Evaluates tasks, at most one search's at a time."""

    def start(self, space: SearchSpace, functions: Functions) -> None:
        """Get ready to evaluate. SearchError if the functions cannot be had where they are needed."""
        ...

    def submit(self, task: Task) -> None:
        """Take on a task; returns at once."""
        ...

    def next(self) -> tuple[Task, Outcome]:
        """Wait until one of the tasks is done. An HwnasError that its function raised is raised here."""
        ...

    def stop(self) -> None:
        """End the work. Tasks that are not done are dropped."""
        ...


def evaluated(space: SearchSpace, functions: Functions, objective: str, genotype: Any) -> Outcome:
    """The value of an objective for a genotype, (g,), or the error that stood in its way.

    An HwnasError says that something lacks which every task needs: it is raised. Unusable timings and
    outputs that are not finite concern one architecture only: its evaluation fails.
    """
    begin = time.perf_counter()
    value, error = None, None
    try:
        raw = functions[objective](Architectures(space, np.array([genotype])))
        value = float(real_values(objective, raw, 1)[0])
        if not np.isfinite(value):
            value, error = None, f"the value is {value}"
    except (TimingError, EvaluationError) as problem:
        error = str(problem)
    except HwnasError:
        raise
    except (Exception, SystemExit) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Outcome(value, error, time.perf_counter() - begin)


class SerialExecutor:
    """One task after the other, in this process."""

    def start(self, space: SearchSpace, functions: Functions) -> None:
        self._space, self._functions = space, functions
        self._tasks: list[tuple[int, Task]] = []

    def submit(self, task: Task) -> None:
        heapq.heappush(self._tasks, (task.number, task))

    def next(self) -> tuple[Task, Outcome]:
        _, task = heapq.heappop(self._tasks)
        return task, evaluated(self._space, self._functions, task.objective, task.architecture.genotype)

    def stop(self) -> None:
        self._tasks.clear()


# ---- workers -------------------------------------------------------------------------------------


class WorkerLost(Exception):
    """A worker died with its task; the message says how."""


class WorkerExecutor(ABC):
    """Tasks spread over workers, a thread that waits for each. A task whose worker is lost is tried again.

    Workers start with the first task: a search that only replays what is stored needs none.
    """

    def start(self, space: SearchSpace, functions: Functions) -> None:
        self._payload = _packed(space, functions)
        self._tasks: queue.PriorityQueue[tuple[int, Task | None]] = queue.PriorityQueue()
        self._done: queue.SimpleQueue[tuple[Task, Outcome | Exception]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy: set[int] = set()
        self._stopping = False
        self._lock = threading.Lock()

    def submit(self, task: Task) -> None:
        if not self._threads:
            for slot in range(self._open()):
                self._threads.append(threading.Thread(target=self._work, args=(slot,), daemon=True))
                self._threads[-1].start()
        self._tasks.put((task.number, task))

    def next(self) -> tuple[Task, Outcome]:
        task, outcome = self._done.get()
        if isinstance(outcome, Exception):
            raise outcome
        return task, outcome

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            for slot in self._busy:
                self._abort(slot)
        for slot in range(len(self._threads)):
            self._tasks.put((-1 - slot, None))
        for thread in self._threads:
            thread.join()
        if self._threads:
            self._close()

    def _work(self, slot: int) -> None:
        while (task := self._tasks.get()[1]) is not None:
            try:
                outcome: Outcome | Exception = self._evaluated(slot, task)
            except Exception as error:  # raised where it is waited for
                outcome = error
            self._done.put((task, outcome))
        self._end(slot)

    def _evaluated(self, slot: int, task: Task) -> Outcome:
        reason = "stopped"
        for _ in range(1 + RETRIES):
            with self._lock:
                if self._stopping:
                    break
                self._busy.add(slot)
            try:
                return self._evaluate(slot, task)
            except WorkerLost as lost:
                reason = str(lost)
                if not self._stopping:
                    log.warning("a worker was lost with %s: %s", task.architecture.id, reason)
            finally:
                with self._lock:
                    self._busy.discard(slot)
        return Outcome(None, f"its worker was lost {1 + RETRIES} times, the last time: {reason}", 0.0)

    @abstractmethod
    def _open(self) -> int:
        """Get ready for tasks; how many workers there are."""

    @abstractmethod
    def _evaluate(self, slot: int, task: Task) -> Outcome:
        """The outcome of a task from a worker, started if need be; WorkerLost if it died."""

    @abstractmethod
    def _abort(self, slot: int) -> None:
        """Make a worker give up its task, by WorkerLost. Called under the lock."""

    @abstractmethod
    def _end(self, slot: int) -> None:
        """Let an idle worker go."""

    @abstractmethod
    def _close(self) -> None:
        """Give back what `_open` took. No worker is there any more."""


Reply = Outcome | tuple[type[HwnasError], str]  # what a worker sends back


def _replied(reply: Reply) -> Outcome:
    """The outcome in a reply; the HwnasError in it is raised."""
    if isinstance(reply, Outcome):
        return reply
    kind, message = reply
    error = kind.__new__(kind)
    error.args = (message,)
    raise error


def _reply(space: SearchSpace, functions: Functions, objective: str, genotype: Any) -> Reply:
    try:
        return evaluated(space, functions, objective, genotype)
    except HwnasError as error:
        return type(error), str(error)


def _packed(space: SearchSpace, functions: Functions) -> bytes:
    """A space and functions as bytes; SearchError names the function that cannot be sent."""
    try:
        return bytes(cloudpickle.dumps((space, dict(functions))))
    except Exception:
        for name, function in functions.items():
            try:
                cloudpickle.dumps(function)
            except Exception as error:
                raise SearchError(
                    f"objective {name!r}: its evaluate function cannot be sent to a worker ({error}); open "
                    "files, connections, locks and generators within the function, not outside it, or "
                    "evaluate here: executor='serial'"
                ) from None
        raise


class ProcessExecutor(WorkerExecutor):
    """Processes of this machine, by default one a core; they share the cores' threads.

    One whose task is not done after `time_limit_s` seconds is killed; the task has failed.
    """

    def __init__(self, workers: int | None = None, time_limit_s: float | None = None) -> None:
        self.workers = max_threads() if workers is None else whole("workers", workers, 1)
        self.time_limit_s = time_limit_s
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._processes: dict[int, tuple[Any, Connection]] = {}

    def _open(self) -> int:
        return self.workers

    def _evaluate(self, slot: int, task: Task) -> Outcome:
        if slot not in self._processes:
            self._start_process(slot)
        connection = self._processes[slot][1]
        try:
            connection.send((task.objective, task.architecture.genotype))
            if connection.poll(self.time_limit_s):  # without a limit it waits
                return _replied(connection.recv())
        except (EOFError, OSError):
            raise WorkerLost(self._forget(slot)) from None
        assert self.time_limit_s is not None
        self._processes[slot][0].kill()
        self._forget(slot)
        return Outcome(None, f"not done after {self.time_limit_s:g} s, the time limit", self.time_limit_s)

    def _start_process(self, slot: int) -> None:
        here, there = self._context.Pipe()
        with self._lock:
            if self._stopping:
                raise WorkerLost("stopped")
            threads = max(1, max_threads() // self.workers)
            process = self._context.Process(target=_serve, args=(there, threads), name=f"hwnas-{slot}")
            process.start()
            self._processes[slot] = process, here
        there.close()
        try:
            here.send_bytes(self._payload)
            trouble = here.recv()
        except (EOFError, OSError):
            trouble = f"{self._forget(slot)}; what it said is above"
        if trouble is not None and not self._stopping:
            raise SearchError(
                f"a worker process cannot start: {trouble}. A script that searches in processes does so "
                'under `if __name__ == "__main__":`, and what evaluates must be importable or defined in it; '
                "or evaluate here: executor='serial'"
            )

    def _forget(self, slot: int) -> str:
        """Drop a dead process; how it ended."""
        process, connection = self._processes.pop(slot)
        connection.close()
        process.join()
        if process.exitcode >= 0:
            return f"it exited with code {process.exitcode}"
        name = signal.Signals(-process.exitcode).name
        return f"it was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def _abort(self, slot: int) -> None:
        if slot in self._processes:
            self._processes[slot][0].kill()

    def _end(self, slot: int) -> None:
        if slot in self._processes:
            self._processes[slot][1].close()  # on which it ends by itself
            self._processes.pop(slot)[0].join()

    def _close(self) -> None:
        assert not self._processes


def _serve(connection: Connection, threads: int) -> None:
    """A worker process: the functions, then an outcome for every task, until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that searches
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)  # of what is loaded from here on
    try:
        space, functions = cloudpickle.loads(connection.recv_bytes())
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send(None)
    with threadpool_limits(threads):  # of what is loaded already
        while True:
            try:
                objective, genotype = connection.recv()
                connection.send(_reply(space, functions, objective, genotype))
            except (EOFError, OSError):  # nobody is there any more who would ask
                return


class RayExecutor(WorkerExecutor):
    """Tasks of one CPU each on a Ray cluster, by default as many at a time as it has CPUs.

    `address` is that of a running cluster, "auto" the one of this machine; without one, and where Ray is not
    connected already, it is RAY_ADDRESS or else a cluster of this machine alone. hwnas, and what evaluates,
    must be installed on every node.
    """

    def __init__(self, workers: int | None = None, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtraError("ray", "ray") from None
        self._ray = ray
        self.workers = None if workers is None else whole("workers", workers, 1)
        self.address = address
        self._connected = False  # by this
        self._running: dict[int, Any] = {}

    def _open(self) -> int:
        ray = self._ray
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise SearchError(
                    f"cannot reach a Ray cluster at {self.address}: {str(error).splitlines()[0]}; "
                    "start one with: ray start --head"
                ) from None
            self._connected = True
        self._reference = ray.put(self._payload)
        self._key = digest(self._reference.hex())
        self._remote: Callable[..., Any] = ray.remote(num_cpus=1, max_retries=0)(_on_ray).remote
        return self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _evaluate(self, slot: int, task: Task) -> Outcome:
        errors = self._ray.exceptions
        with self._lock:
            if self._stopping:
                raise WorkerLost("stopped")
            genotype = task.architecture.genotype
            self._running[slot] = self._remote([self._reference], self._key, task.objective, genotype)
        try:
            return _replied(self._ray.get(self._running[slot]))
        except errors.RayTaskError as error:
            raise SearchError(f"a Ray worker cannot evaluate: {str(error).splitlines()[-1]}") from None
        except errors.RayError as error:
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise WorkerLost(f"{type(error).__name__}: {reason}") from None

    def _abort(self, slot: int) -> None:
        if slot in self._running:
            self._ray.cancel(self._running[slot], force=True)

    def _end(self, slot: int) -> None:
        self._running.pop(slot, None)

    def _close(self) -> None:
        del self._reference  # Ray keeps what it refers to until then
        if self._connected:
            self._ray.shutdown()
            self._connected = False


_unpacked: dict[str, tuple[SearchSpace, Functions]] = {}  # what a Ray worker has loaded, by key


def _on_ray(reference: list[Any], key: str, objective: str, genotype: Any) -> Reply:
    """A task in a Ray worker. The reference is in a list: Ray would fetch it for every task otherwise."""
    import ray

    if key not in _unpacked:
        _unpacked.clear()
        _unpacked[key] = cloudpickle.loads(ray.get(reference[0]))
    return _reply(*_unpacked[key], objective, genotype)


EXECUTORS = ("serial", "process", "ray")


def get_executor(
    name: str,
    workers: int | None = None,
    address: str | None = None,
    time_limit_s: float | None = None,
) -> Executor:
    """The executor of this name; SearchError for an unknown one or what does not go with it."""
    if name not in EXECUTORS:
        raise SearchError(f"unknown executor {name!r}; {known_names(name, EXECUTORS)}")
    if name != "ray" and address is not None:
        raise SearchError(f"a Ray address ({address}) goes with executor 'ray', not with {name!r}")
    if time_limit_s is not None and (name != "process" or not 0 < time_limit_s < float("inf")):
        raise SearchError(
            f"an evaluation's time limit is {time_limit_s:g} s, on executor {name!r}: only a process can be "
            "stopped whatever it does; give a positive number, and executor 'process'"
        )
    if name == "serial":
        if workers not in (None, 1):
            raise SearchError(f"executor 'serial' has one worker, not {workers}; choose 'process' or 'ray'")
        return SerialExecutor()
    return ProcessExecutor(workers, time_limit_s) if name == "process" else RayExecutor(workers, address)
