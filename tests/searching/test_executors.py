"""Where tasks are evaluated makes no difference to what a search finds."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas import Evaluation, SearchResult, search
from hwnas.errors import DataError, MissingExtraError, SearchError
from hwnas.searching.executors import (
    Outcome,
    ProcessExecutor,
    RayExecutor,
    SerialExecutor,
    Task,
    get_executor,
)
from hwnas.searching.strategies import STRATEGIES
from hwnas.store import Store
from tests.searching.problems import CountingAccuracy, accuracy, at_most, objectives, toy_space

ROOT = Path(__file__).parents[2]


class Shuffled(SerialExecutor):
    """Finishes any of its tasks next; dies (as a kill does) after so many."""

    def __init__(self, seed: int, die_at: int | None = None) -> None:
        self._rng = np.random.default_rng(seed)
        self._left = die_at

    def next(self) -> tuple[Task, Outcome]:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left = None if self._left is None else self._left - 1
        chosen = int(self._rng.integers(len(self._tasks)))
        self._tasks[0], self._tasks[chosen] = self._tasks[chosen], self._tasks[0]
        _, task = self._tasks.pop(0)
        rest, self._tasks = self._tasks, [(0, task)]
        try:
            return super().next()
        finally:
            self._tasks = rest


def run(executor: object = "serial", evaluate: object = None, **arguments: object) -> SearchResult:
    evaluate = evaluate or CountingAccuracy(fails=("3",))
    arguments = {"evaluations": 45, "executor": executor, **arguments}
    return search(toy_space(), objectives(evaluate), at_most(9), **arguments)


def found(*given: object, **arguments: object) -> tuple[Evaluation, ...]:
    return run(*given, **arguments).evaluations


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10), lag=st.integers(0, 3), die_at=st.integers(0, 44))
def test_the_order_of_completion_makes_no_difference(strategy: str, seed: int, lag: int, die_at: int) -> None:
    arguments = {"strategy": strategy, "lag": lag, "batch" if strategy != "nsga2" else "population": 6}
    serial, store = found(**arguments), Store()
    assert found(Shuffled(seed), **arguments) == serial
    with pytest.raises(KeyboardInterrupt):
        run(Shuffled(seed, die_at), store=store, **arguments)
    assert found(Shuffled(seed + 1), store=store, **arguments) == serial


def test_a_batch_knows_all_but_the_last_of_its_lag() -> None:
    """Batch k follows from what batches up to k − lag found: the values of later ones make no difference."""

    def spoilt(from_: int) -> object:
        known = {arch.id for arch in archs[:from_]}
        return lambda asked: accuracy(asked) - (0 if asked[0].id in known else 10 * (asked[0].id < "8"))

    for lag in (0, 1, 2):
        arguments = {"strategy": "linas", "lag": lag, "start": 12, "batch": 6, "evaluations": 36}
        archs = [e.architecture for e in run(evaluate=accuracy, **arguments).evaluations]
        other = [e.architecture for e in run(evaluate=spoilt(12), **arguments).evaluations]
        same = 12 + 6 * (1 + lag)  # the start, the batch that follows from it, and those of the lag
        assert other[:same] == archs[:same]
        assert other[same:] != archs[same:]


def test_a_lag_keeps_more_batches_out() -> None:
    class Greedy(SerialExecutor):
        most = 0

        def submit(self, task: Task) -> None:
            super().submit(task)
            self.most = max(self.most, len(self._tasks))

    for lag in (0, 1, 2):
        executor = Greedy()
        run(executor, strategy="random", lag=lag)
        assert executor.most == 10 * (1 + lag)


def test_a_stored_search_of_another_lag_is_refused() -> None:
    store = Store()
    run(store=store, lag=1)
    with pytest.raises(Exception, match="has lag 1, now it is None"):
        run(store=store)


# ---- processes ----------------------------------------------------------------------------------


class Here:
    """The accuracy; notes in a folder which processes evaluate, and waits until there are two of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, archs: object) -> np.ndarray:
        (self.folder / str(os.getpid())).touch()
        while len(os.listdir(self.folder)) < 2:
            time.sleep(0.01)
        return accuracy(archs)


@pytest.mark.parametrize("lag", [0, 1])
def test_processes_find_what_serial_finds_and_are_gone_afterwards(tmp_path: Path, lag: int) -> None:
    assert found("process", Here(tmp_path), workers=2, lag=lag) == found(evaluate=accuracy, lag=lag)
    evaluators = {file.name for file in tmp_path.iterdir()}
    assert len(evaluators) == 2
    assert str(os.getpid()) not in evaluators
    assert not multiprocessing.active_children()
    assert not [t for t in threading.enumerate() if t.name.startswith("Thread-") and "_work" in t.name]


def test_a_finished_search_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    whole = found(store=store)
    monkeypatch.setattr(ProcessExecutor, "_open", None)
    assert found("process", store=store, workers=2) == whole


class Mortal:
    """The accuracy; its process is killed the first `deaths` times that one architecture is asked for."""

    def __init__(self, victim: str, folder: Path, deaths: int) -> None:
        self.victim = victim
        self.folder = folder
        self.deaths = deaths

    def __call__(self, archs: object) -> np.ndarray:
        died = len(list(self.folder.iterdir()))
        if archs[0].id == self.victim and died < self.deaths:
            (self.folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return accuracy(archs)


def test_what_a_lost_worker_was_at_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = found(evaluate=accuracy)
    victim = whole[7].architecture.id
    with caplog.at_level(logging.WARNING, "hwnas"):
        assert found("process", Mortal(victim, tmp_path, 2), workers=2) == whole
    lost = f"a worker was lost with {victim}: it was killed by SIGKILL (out of memory?)"
    assert [record.getMessage() for record in caplog.records] == [lost, lost]


def test_what_loses_every_worker_has_failed(tmp_path: Path) -> None:
    victim = found(evaluate=accuracy)[7].architecture.id
    result = run("process", Mortal(victim, tmp_path, 99), workers=2)
    (failed,) = [e for e in result.evaluations if e.status == "failed"]
    assert failed.architecture.id == victim
    assert "accuracy: its worker was lost 3 times, the last time: it was killed by SIGKILL" in failed.error
    assert len(result.evaluations) == 45
    assert failed not in result.front


def test_most_failing_stops_processes_too() -> None:
    with pytest.raises(SearchError, match=r"10 of 10 evaluations failed.*out of memory"):
        run("process", CountingAccuracy(fails=tuple("0123456789abcdef")), workers=2)
    assert not multiprocessing.active_children()


class Lacks:
    def __call__(self, archs: object) -> np.ndarray:
        raise MissingExtraError("ray", "ray") if archs[0].id[0] == "3" else DataError("the images are gone")


def test_an_error_of_hwnas_in_a_worker_ends_the_search() -> None:
    with pytest.raises((DataError, MissingExtraError), match=r"images are gone|pip install"):
        run("process", Lacks(), workers=2)
    assert not multiprocessing.active_children()


def test_an_interrupted_search_ends_its_workers_and_goes_on(tmp_path: Path) -> None:
    whole = found(evaluate=accuracy, lag=1)
    quick = {e.architecture.id for e in whole[:10]}

    def slowly(archs: object) -> np.ndarray:
        if archs[0].id not in quick:
            (tmp_path / f"asleep-{os.getpid()}").touch()
            time.sleep(600)
        return accuracy(archs)

    def interrupted(done: int, total: int, text: str) -> None:
        if done == 10:
            while len(list(tmp_path.glob("asleep-*"))) < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt

    store = Store()
    with pytest.raises(KeyboardInterrupt):
        run("process", slowly, workers=2, lag=1, store=store, progress=interrupted)
    assert not multiprocessing.active_children()
    assert len(store.measurements("accuracy", "search search")) == 10
    assert found(evaluate=accuracy, lag=1, store=store) == whole


ORPHANS = """
import os, sys, time
from pathlib import Path
from hwnas import search
from tests.searching.problems import accuracy, objectives, toy_space

folder = sys.argv[1]

def slowly(archs):
    Path(folder, str(os.getpid())).touch()
    time.sleep(0.2)
    return accuracy(archs)

search(toy_space(), objectives(slowly), evaluations=100, executor="process", workers=1)
"""


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_do_not_outlive_a_search_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHANS, tmp_path]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as searching:
        while not (pids := list(tmp_path.iterdir())):
            time.sleep(0.01)
        searching.kill()
        _, said = searching.communicate()
    (worker,) = pids
    while alive(int(worker.name)):
        time.sleep(0.01)
    assert said == b""


def test_what_cannot_be_sent_is_named() -> None:
    lock = threading.Lock()

    def locked(archs: object) -> np.ndarray:
        with lock:
            return accuracy(archs)

    with pytest.raises(SearchError, match=r"'accuracy'.*cannot be sent.*lock.*executor='serial'"):
        run("process", locked, workers=2)


SCRIPT = """
import hwnas
from tests.searching.problems import at_most, objectives, toy_space

def accuracy(archs):
    return [float(len(arch.id)) for arch in archs]

{guard}
    result = hwnas.search(toy_space(), objectives(accuracy), evaluations=5, executor="process", workers=1)
    print(len(result.evaluations))
"""


def test_a_script_searches_in_processes_if_it_is_guarded(tmp_path: Path) -> None:
    def done(guard: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(guard=guard))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, script],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )

    assert done('if __name__ == "__main__":').stdout == "5\n"
    bare = done("if True:")
    assert bare.returncode != 0
    assert 'under `if __name__ == "__main__":`' in bare.stderr.splitlines()[-1]


def test_the_threads_of_a_worker_are_its_share() -> None:
    def threads(archs: object) -> list[float]:
        import os

        from threadpoolctl import threadpool_info

        shares = {info["num_threads"] for info in threadpool_info()} | {int(os.environ["OMP_NUM_THREADS"])}
        return [float(max(shares))]

    result = run("process", threads, workers=64, evaluations=2)
    assert [e.metrics["accuracy"] for e in result.evaluations] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"executor": "slurm"}, r"unknown executor 'slurm'; known: serial, process, ray"),
        ({"executor": "process", "workers": 0}, "workers is a whole number of at least 1, got 0"),
        ({"executor": "serial", "workers": 4}, "'serial' has one worker, not 4"),
        ({"executor": SerialExecutor(), "workers": 4}, "an Executor has its own"),
        ({"lag": -1}, "lag is a whole number of at least 0, got -1"),
    ],
)
def test_wrong_executors_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SearchError, match=message):
        run(**arguments)
    with pytest.raises(SearchError, match=r"address \(1.2.3.4\) goes with executor 'ray'"):
        get_executor("process", address="1.2.3.4")


# ---- ray ----------------------------------------------------------------------------------------


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray is not installed; run: pip install 'hwnas\[ray\]'"):
        RayExecutor()


RAY = """
import logging, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from hwnas import search
from tests.searching.problems import CountingAccuracy, accuracy, at_most, objectives, toy_space

logging.basicConfig()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
other = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)

folder, doomed = Path(sys.argv[1]), other.node_id

def slowly(archs):
    node = ray.get_runtime_context().get_node_id()
    running = folder / f"{node}-{archs[0].id}"
    running.touch()
    time.sleep(600 if node == doomed else 0.05)  # until its node is taken away
    running.unlink()
    return accuracy(archs)

def take_away(done, total, text):
    global other
    if done >= 6 and other is not None:
        while not list(folder.glob(f"{doomed}-*")):
            time.sleep(0.01)
        cluster.remove_node(other, allow_graceful=False)
        other = None

arguments = dict(constraints=at_most(9), strategy="random", evaluations=30, lag=1)
result = search(toy_space(), objectives(slowly), executor="ray", workers=2, progress=take_away, **arguments)
assert result.evaluations == search(toy_space(), objectives(accuracy), **arguments).evaluations
assert other is None
failing = objectives(CountingAccuracy(fails=("3", "4")))
result = search(toy_space(), failing, executor="ray", workers=2, **arguments)
assert result.evaluations == search(toy_space(), failing, **arguments).evaluations
assert any(e.status == "failed" for e in result.evaluations)
print("equal")
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_of_a_ray_cluster_is_taken_away(tmp_path: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("the extra ray is not installed")
    done = subprocess.run(
        [sys.executable, "-c", RAY, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert "equal" in done.stdout.splitlines(), done.stderr
    (unfinished,) = tmp_path.iterdir()
    assert f"a worker was lost with {unfinished.name.split('-')[1]}" in done.stderr
