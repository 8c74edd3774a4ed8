"""Work that fails: it is counted and shown, never on the front, and what was good stays."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from copy import copy as copy_of
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas import search
from hwnas.config import Training
from hwnas.errors import DeviceError, SearchError, StoreError, TimingError, TrainingError
from hwnas.export.compare import compare
from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.latency.measure import Plan, Samples, time_models
from hwnas.pipeline import load_run
from hwnas.progress import Progress, silent
from hwnas.searching.executors import Outcome, ProcessExecutor, Task
from hwnas.store import Store
from hwnas.training import loop
from hwnas.training.checkpoint import CHECKPOINT_FILE
from hwnas.training.evaluation import AccuracyEvaluator
from hwnas.training.loop import train
from tests.conftest import Command, write_config
from tests.latency.fakes import FakeDevice
from tests.searching.problems import accuracy, at_most, objectives, toy_space
from tests.training.small_data import blobs
from tests.training.test_loop import SETTINGS, reporting, tiny_net

# ---- training -------------------------------------------------------------------------------------


def diverging(above: float) -> Callable[..., float]:
    """The learning rate of a step, but without bound from the 7th step on if its peak is above this."""

    def learning_rate_at(step: int, settings: Training, phase: Any) -> float:
        wild = step >= 6 and settings.learning_rate > above
        return 1e30 if wild else settings.learning_rate

    return learning_rate_at


def test_a_training_that_diverges_goes_on_with_a_lower_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "learning_rate_at", diverging(0.05))
    net = tiny_net()
    said = r"^step 7: loss .* at learning rate 1e\+30 .*; lower training.learning_rate, .* from step 6; "
    for _ in range(2):  # the same again ends in the same
        with pytest.raises(TrainingError, match=said):
            train(net, blobs(), blobs(60), reporting(2), tmp_path)
        net = tiny_net()
    for refused in ({"learning_rate": 0.2}, {"learning_rate": 0.05, "momentum": 0.5}):
        with pytest.raises(TrainingError, match="is of another training"):
            train(net, blobs(), blobs(60), SETTINGS.model_copy(update=refused), tmp_path)
    slower, taken = reporting(2).model_copy(update={"learning_rate": 0.05}), []
    found = train(
        net,
        blobs(),
        blobs(60),
        slower,
        tmp_path,
        progress=lambda done, *_: taken.append(done),
    )
    assert taken[0] == 7
    assert found.earlier == ({"learning_rate": 0.1, "until_step": 6},)
    assert [report.step for report in found.reports][:3] == [2, 4, 6]
    assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())
    assert train(tiny_net(), blobs(), blobs(60), slower, tmp_path).earlier == found.earlier  # finished
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.05, is 0\.1"):
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path)


def test_a_run_whose_training_diverges_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command
) -> None:
    monkeypatch.setattr(loop, "learning_rate_at", diverging(0.05))
    config = write_config(tmp_path, training={"steps": 8})
    command = ("train", config, "--run-dir", tmp_path / "run", "--json")
    code, _, err = hwnas_command(*command)
    assert code == 1
    assert "lower training.learning_rate, and the same command goes on from step 0" in err
    assert not (tmp_path / "run" / "supernet" / "model.safetensors").exists()
    assert (tmp_path / "run" / "supernet" / CHECKPOINT_FILE).exists()
    code, _, err = hwnas_command(*command, "--set", "training.learning_rate=0.02")
    assert code == 0
    metadata = json.loads((tmp_path / "run" / "supernet" / "supernet.json").read_text())["metadata"]
    assert metadata["diverged"] == [{"learning_rate": 0.1, "until_step": 0}]


def test_a_training_that_cannot_be_removed_is_not_taken_for_a_new_one(copy: Path) -> None:
    elsewhere = Path(shutil.move(copy / "supernet", copy.parent / "elsewhere"))
    with closing(load_run(copy)) as run:
        (copy / "supernet").symlink_to(elsewhere)
        with pytest.raises(StoreError, match=r"cannot remove .*supernet: .*; remove it by hand"):
            run.make(["train"], restart="train")
    assert (elsewhere / "model.safetensors").exists()


# ---- evaluations ----------------------------------------------------------------------------------


class Faulty:
    """The accuracy, but what `fault` does for some architectures."""

    def __init__(self, fault: Callable[[], Any], some: str = "3") -> None:
        self.fault = fault
        self.some = some

    def __call__(self, archs: object) -> Any:
        return self.fault() if archs[0].id[0] in self.some else accuracy(archs)


def raises() -> None:
    raise RuntimeError("not a subnet")


def out_of_memory() -> None:
    bytearray(1 << 60)


def unsayable() -> None:
    raise OSError("no file \udc80\x1b[31m\nof that name")


def no_timing() -> None:
    raise TimingError("a time of 0 ns")


def hangs() -> None:
    while True:
        time.sleep(1)


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (raises, "accuracy: RuntimeError: not a subnet"),
    "memory": (out_of_memory, "accuracy: MemoryError"),
    "exits": (sys.exit, "accuracy: SystemExit"),
    "name": (unsayable, "accuracy: OSError: no file"),
    "nan": (lambda: [float("nan")], "accuracy: the value is nan"),
    "infinite": (lambda: [float("inf")], "accuracy: the value is inf"),
    "timing": (no_timing, "accuracy: a time of 0 ns"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_is_counted_and_never_on_the_front(fault: str, tmp_path: Path) -> None:
    faulty, said = FAULTS[fault]
    with closing(Store(tmp_path / "search.db")) as store:
        found = search(toy_space(), objectives(Faulty(faulty)), at_most(9), evaluations=40, store=store)
    failed = [e for e in found.evaluations if e.status == "failed"]
    assert 0 < len(failed) < 20
    assert all(e.error.startswith(said) for e in failed)
    assert {e.architecture.id[0] for e in failed} == {"3"}
    assert not any(e in found.front for e in failed)
    assert len(found.evaluations) == 40
    assert found.rounds_frame()["failed"].iloc[-1] == len(failed)
    with closing(Store(tmp_path / "search.db")) as store:  # nothing is asked for again
        again = search(toy_space(), objectives(Faulty(hangs, "3")), at_most(9), evaluations=40, store=store)
    assert [e.status for e in again.evaluations] == [e.status for e in found.evaluations]


def test_what_never_returns_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"constraints": at_most(9), "evaluations": 24}
    victim = search(toy_space(), objectives(), **arguments).evaluations[7].architecture.id

    def evaluate(archs: Any) -> Any:  # within this function, so that a worker need not load this module
        while archs[0].id == victim:
            time.sleep(1)
        return accuracy(archs)

    limited = ProcessExecutor._evaluate

    def evaluate_without_limit(self: ProcessExecutor, slot: int, task: Task) -> Outcome:
        """Leave the limit to the victim: on a busy machine any evaluation may take long."""
        if task.architecture.id != victim:
            self = copy_of(self)
            self.time_limit_s = None
        return limited(self, slot, task)

    monkeypatch.setattr(ProcessExecutor, "_evaluate", evaluate_without_limit)
    processes: dict[str, Any] = {"executor": "process", "workers": 2, "evaluation_time_limit_s": 0.5}
    found = search(toy_space(), objectives(evaluate), **arguments, **processes)
    (failed,) = (e for e in found.evaluations if e.status == "failed")
    assert (failed.architecture.id, failed.error) == (
        victim,
        "accuracy: not done after 0.5 s, the time limit",
    )
    assert failed not in found.front
    assert len(found.evaluations) == 24


@pytest.mark.parametrize(("executor", "limit"), [("serial", 5.0), ("ray", 5.0), ("process", 0.0)])
def test_a_time_limit_that_cannot_be_kept_is_refused(executor: str, limit: float) -> None:
    with pytest.raises(SearchError, match="only a process can be stopped whatever it does"):
        search(toy_space(), objectives(), executor=executor, evaluation_time_limit_s=limit)


@pytest.mark.parametrize("evaluations", [3, 12, 40])
def test_a_search_of_which_over_half_fails_is_none(evaluations: int) -> None:
    store, most = Store(), Faulty(raises, "0123456789ab")
    for _ in range(2):
        with pytest.raises(SearchError, match=r"evaluations failed, the last with .*RuntimeError: not a sub"):
            search(toy_space(), objectives(most), evaluations=evaluations, store=store)
    found = search(toy_space(), objectives(), evaluations=evaluations, store=store)  # once it is mended
    assert found.evaluations == search(toy_space(), objectives(), evaluations=evaluations).evaluations


def spoilt(share: int) -> Callable[..., float]:
    """Accuracies, but for one of so many architectures, or more."""
    whole = AccuracyEvaluator.accuracy

    def evaluate(self: AccuracyEvaluator, arch: Any) -> float:
        if int(arch.id, 16) % 4 < share:
            raise RuntimeError("a layer is\x1b[31m broken")
        return whole(self, arch)

    return evaluate


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_a_run_shows_what_failed(copy: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command) -> None:
    monkeypatch.setattr(AccuracyEvaluator, "accuracy", spoilt(1))
    other = ("--set", "search.calibration_images=64", "--set", "search.random_baseline=false")
    code, out, err = hwnas_command("search", copy, "--restart", *other)
    with closing(load_run(copy)) as run:
        failed = [e for e in run.searched.evaluations if e.status == "failed"]
        assert run.outputs("search")["failed"] == len(failed) > 0
        assert not {e.architecture.id for e in failed} & set(run.outputs("search")["front"])
    assert code == 0
    assert f"Failed: {len(failed)} of 24 evaluations, the last with: accuracy: RuntimeError: a layer" in out
    assert "\x1b" not in out + err
    monkeypatch.setattr(AccuracyEvaluator, "accuracy", spoilt(3))
    code, out, err = hwnas_command(
        "search", copy, "--restart", "--set", "search.calibration_images=32", *other[2:]
    )
    assert code == 1
    assert "evaluations failed, the last with" in err


# ---- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0.0, -5.0, np.nan, np.inf])
def test_latencies_that_are_none_are_refused(wrong: float) -> None:
    def disturb(times: np.ndarray) -> np.ndarray:
        disturbed = times.astype(float)
        disturbed[len(times) // 2] = wrong
        return disturbed

    device, model = FakeDevice(cost=lambda model: 0, disturb=disturb), ModelProto().SerializeToString()
    with pytest.raises(TimingError, match=rf"a time of {wrong} ns, which is no positive number"):
        time_models([model, model], device)
    with pytest.raises(TimingError, match="no positive number"):
        compare({"a": (model, model)}, device, 8)


class Leaving:
    """A device that is gone after so many passes."""

    def __init__(self, passes: int) -> None:
        self.left = passes
        self.measure_well = OnnxRuntimeDevice.measure

    def __call__(
        self, device: OnnxRuntimeDevice, models: Any, plan: Plan, progress: Progress = silent
    ) -> Samples:
        if self.left == 0:
            raise DeviceError("the board is gone; connect it again")
        self.left -= 1
        return self.measure_well(device, models, plan, progress)


def test_a_device_that_disappears_while_it_is_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command
) -> None:
    config = write_config(tmp_path)
    command = ("profile", config, "--run-dir", tmp_path / "run", "--json")
    leaving = Leaving(1)
    monkeypatch.setattr(OnnxRuntimeDevice, "measure", lambda *arguments: leaving(*arguments))
    code, _, err = hwnas_command(*command)
    assert (code, err.splitlines()[-1]) == (1, "error: the board is gone; connect it again")
    assert len(list((tmp_path / "run").glob("latency_table.unfinished/pass-*"))) == 1
    assert not (tmp_path / "run" / "latency_table.json").exists()
    monkeypatch.undo()
    assert hwnas_command(*command)[0] == 0


def test_a_device_that_disappears_while_models_are_verified(
    copy: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command
) -> None:
    leaving = Leaving(3)
    monkeypatch.setattr(OnnxRuntimeDevice, "measure", lambda *arguments: leaving(*arguments))
    code, out, err = hwnas_command("verify", copy, "--restart", "--json")
    assert (code, out, err.splitlines()[-1]) == (1, "", "error: the board is gone; connect it again")
    with closing(load_run(copy)) as run:
        assert not run.summary()["verified"]  # no latency of that verification is anywhere
        assert all(len(entry["verifications"]) == 1 for entry in run.models)
    assert "stopped: DeviceError: the board is gone" in (copy / "hwnas.log").read_text().splitlines()[-1]
    monkeypatch.undo()
    code, out, err = hwnas_command("verify", copy, "--json")
    assert code == 0
    assert json.loads(out)["verified"]
