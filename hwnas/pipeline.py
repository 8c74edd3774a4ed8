"""The whole job as one story: profile → train → search → export → verify → report.

The table comes first because it is cheap and says at once whether the budgets can be met. A stage leaves its
artefacts in the run's folder and a row in run.db that says what it was made from; it is skipped while both
stand, and refused, with the difference spelled out, when they were made from something else.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import psutil
import yaml

from hwnas.config import GIVEN_DATA, Experiment, Named, load_config, overridden, parse_config
from hwnas.errors import (
    ConfigError,
    DataError,
    DeviceError,
    InfeasibleError,
    StoreError,
    TableError,
)
from hwnas.export.card import model_card
from hwnas.export.compare import compare
from hwnas.export.verify import (
    Verdict,
    added,
    last_on,
    measure_models,
    most_accurate,
    same_device,
    stable,
    verdict,
)
from hwnas.latency.devices import DEVICES, get_device
from hwnas.latency.measure import Device
from hwnas.latency.predictor import LatencyPredictor, MeasuredLatency, learn_latency, measured_on
from hwnas.latency.profiling import profile
from hwnas.latency.table import LatencyTable
from hwnas.predictors import get_predictor
from hwnas.progress import Progress, silent
from hwnas.report.data import ReportData, operator_times
from hwnas.report.html import write_report
from hwnas.searching.executors import Executor, SerialExecutor, get_executor
from hwnas.searching.feasible import check_feasible, extreme
from hwnas.searching.loop import SearchResult, Status, search
from hwnas.searching.objectives import Constraint, Evaluate, Evaluation, Objective, Problem
from hwnas.searching.pareto import ParetoFront
from hwnas.searching.strategies import check_strategy
from hwnas.searching.tensorboard import TensorBoard
from hwnas.spaces import Architecture, NetworkSpace, get_space
from hwnas.store import (
    Store,
    digest,
    file_digest,
    read_bytes,
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from hwnas.training.strategies import check_strategy as check_training_strategy

if TYPE_CHECKING:  # torch is loaded by the stages that need it
    from hwnas.networks.blocks import StaticNetwork
    from hwnas.networks.supernet import Supernet
    from hwnas.training.data import Dataset
    from hwnas.training.evaluation import AccuracyEvaluator
    from hwnas.training.loop import TrainingResult

log = logging.getLogger("hwnas")

TABLE_FILE = "latency_table.json"
UNFINISHED_TABLE = "latency_table.unfinished"  # folder of an interrupted profile's passes
# What the profile stage leaves, by latency.source.
LATENCY_FILES = {
    "table": TABLE_FILE,
    "predictor": "latency_predictor.json",
    "measured": "latency_device.json",
}
SPLITS = ("train", "validation", "test")
OPTIONAL = ("model.xml", "model.bin", "model.int8.onnx")  # of a model's files, made where they are asked for
CHECKED_IMAGES = 64  # real images on which every export is compared with torch
FOLDS = 5  # of the cross-validation behind predicted accuracies
SPARES = 5  # further models that are measured when one misses its budget
NO_MATTER = {"executor", "workers", "ray_address", "tensorboard"}  # of the search's settings, to its result
PREDICTOR = "gp"  # behind predicted accuracies where the search names none

# Each stage and those that are made from what it makes.
FOLLOWERS: dict[str, tuple[str, ...]] = {
    "profile": ("search", "export", "verify", "report"),
    "train": ("search", "export", "verify", "report"),
    "search": ("export", "verify", "report"),
    "export": ("verify", "report"),
    "verify": ("report",),
    "report": (),
}

Display = Callable[[str], Progress]
Watch = Callable[[Mapping[str, str]], None]  # what there is to know of a running search, by name


def no_display(stage: str) -> Progress:
    """A Display that shows nothing."""
    return silent


def run(
    config: str | Path | Experiment,
    *,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: Mapping[str, Dataset] | None = None,
    restart: str | None = None,
    display: Display = no_display,
) -> Run:
    """The whole job of an experiment file; goes on where an earlier call stopped.

    `run_dir` is the run's folder, by default the experiment's name; relative ones are under ``runs/``.
    `overrides` sets fields by dotted key. `data`, in place of what the experiment says of data, are the
    splits train, validation and test, as `from_loader` makes them; a call that goes on gives them again.
    `restart` names a stage to make again, with what follows from it, or is "all". HwnasError when something
    cannot be done; what is finished stays.
    """
    job = open_run(config, run_dir=run_dir, overrides=overrides, data=data)
    job.make(tuple(STAGES), display, restart)
    return job


def open_run(
    config: str | Path | Experiment,
    *,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: Mapping[str, Dataset] | None = None,
) -> Run:
    """The run of an experiment file, its folder made if need be; DataError if `data` lacks a split."""
    if data is not None:
        if set(data) != set(SPLITS) or len({split.classes for split in data.values()}) > 1:
            raise DataError(
                f"data has {', '.join(data) or 'nothing'}; give {', '.join(SPLITS)}, all of the same classes"
            )
        overrides = {**(overrides or {}), "data": {"name": GIVEN_DATA}}
    if isinstance(config, Experiment):
        experiment = parse_config(overridden(config.model_dump(mode="json"), overrides or {}))
    else:
        experiment = load_config(config, overrides)
    return Run(run_folder(run_dir if run_dir is not None else experiment.name), _absolute(experiment), data)


def load_run(run_dir: str | Path, overrides: Mapping[str, Any] | None = None) -> Run:
    """The run in an existing folder; StoreError if there is none."""
    directory = Path(run_dir) if (Path(run_dir) / "run.db").is_file() else run_folder(run_dir)
    if not (directory / "config.yaml").is_file():
        raise StoreError(
            f"{directory} is not the folder of a run: it has no config.yaml; see hwnas run --help"
        )
    return Run(directory, _absolute(load_config(directory / "config.yaml", overrides)))


def run_for_device(run: Run, table: str | Path, run_dir: str | Path) -> Run:
    """The run of another device, that of a latency table, in a folder of its own, for `run`'s supernet.

    It refers to that supernet by checksum, holds no weights, and knows every accuracy that `run` knows.
    StoreError if `run` has no supernet, or the folder is that of a run with another one.
    """
    from hwnas.networks.supernet import refer_to_supernet

    directory = run_folder(run_dir)
    if directory.resolve() == run.directory.resolve():
        raise ConfigError(f"{directory} is the run itself; give the other device another --run-dir")
    trained = run.store.stage("train")
    if trained is None:
        raise StoreError(f"{run.directory} has no supernet yet; run: hwnas train {run.directory}/config.yaml")
    outputs = trained["outputs"]
    latency = run.config.latency.model_copy(update={"source": "table", "table": str(Path(table).resolve())})
    job = Run(directory, run.config.model_copy(update={"latency": latency}), run._data)
    stands = job.store.stage("train")
    if stands is None:
        known = job.store.copy_measurements(run.store, "accuracy", run.accuracy_source)
        refer_to_supernet(directory / "supernet", run.directory / "supernet", outputs["checksum"])
        files = {"supernet/supernet.json": file_digest(directory / "supernet" / "supernet.json")}
        outputs |= {"files": files, "accuracies": known}
        job.store.finish_stage("train", trained["inputs"], outputs)
    elif stands["outputs"]["checksum"] != outputs["checksum"]:
        raise StoreError(f"{directory} is of another supernet than {run.directory}; choose another --run-dir")
    return job


def run_folder(run_dir: str | Path) -> Path:
    """Where a run lives: as given if that is absolute or under ``runs/``, otherwise under ``runs/``."""
    path = Path(run_dir)
    if path.is_absolute() or (path.parts[:1] == ("runs",) and len(path.parts) > 1):
        return path
    if ".." in path.parts:
        raise ConfigError(f"run folder {path} climbs out of runs/; give an absolute path")
    return Path("runs") / path


def _absolute(experiment: Experiment) -> Experiment:
    """The experiment with the paths in it absolute, so that it means the same from any folder."""
    latency, data, training = experiment.latency, experiment.data, experiment.training
    if training.teacher is not None:
        training = training.model_copy(update={"teacher": str(Path(training.teacher).resolve())})
    if latency.table is not None:
        latency = latency.model_copy(update={"table": str(Path(latency.table).resolve())})
    further = {name: str(Path(table).resolve()) for name, table in latency.further_tables.items()}
    latency = latency.model_copy(update={"further_tables": further})
    if isinstance(path := data.parameters.get("path"), str):
        data = Named.model_validate({**data.model_dump(), "path": str(Path(path).resolve())})
    return experiment.model_copy(update={"latency": latency, "data": data, "training": training})


@dataclass(frozen=True)
class Stage:
    """What a stage is made from, plain data that is compared, and how it is made.

    `make` returns plain data on what it made and the artefacts it left, relative to the run's folder.
    """

    inputs: Callable[[Run], dict[str, Any]]
    make: Callable[[Run, Progress], tuple[dict[str, Any], list[str]]]


# What a Run keeps once it was asked for, and must forget when a stage is made again.
DERIVED = (
    "table",
    "latency",
    "further_tables",
    "supernet",
    "evaluator",
    "objectives",
    "searched",
    "predicted_accuracy",
)


class Run:
    """A run's folder: its experiment, and what the finished stages left there."""

    def __init__(
        self, directory: Path, config: Experiment, data: Mapping[str, Dataset] | None = None
    ) -> None:
        """`data` are splits that need not be loaded."""
        self.directory = directory
        self.config = config
        self._data = dict(data or {})
        self.store = Store(directory / "run.db")
        self.watch: Watch | None = None  # called while a search is running
        self.device: str | None = None  # where the run's own device is, if not where the experiment says

    # ---- stages ---------------------------------------------------------------------------------

    def make(
        self,
        names: Sequence[str],
        display: Display = no_display,
        restart: str | None = None,
        extend: bool = False,
    ) -> None:
        """Make stages in order, unless they stand.

        `restart` names one of them that is made again even so, with what follows from it, or is "all" of
        them. With `extend` a finished search goes on from where it was if the experiment has more evaluations
        now. StoreError if a stage, or one that it is made from, was made from something else or was
        changed since, and if another process is at work in the folder.
        """
        if restart not in (None, "all", *names):
            raise ConfigError(f"--restart {restart}: this makes {', '.join(names)}, or all of it, again")
        section = self.config.search
        check_strategy(section.strategy, section.objectives, self.bounds, **self._options)
        if "search" in names:  # what is missing is said before the training
            get_executor(section.executor, section.workers, section.ray_address)
        if "export" in names and self.config.export.openvino:
            from hwnas.export.openvino import load_openvino

            load_openvino()
        training = self.config.training.strategy
        check_training_strategy(training.name, training.parameters)
        if os.environ.get("WORLD_SIZE", "1") != "1" and list(names) != ["train"]:
            raise ConfigError(
                f"several processes only train: torchrun … -m hwnas train; {', '.join(names)} in one process"
            )
        if self.follows:
            if restart is not None or self.store.stage("train") is None:
                _train_supernet(self, silent)
            return
        with locked(self.directory):
            for name in names:
                if extend and name == "search" and restart is None:
                    self._extend()
                self._make(name, display, restart in (name, "all"))

    def close(self) -> None:
        """Close run.db."""
        self.store.close()

    @property
    def follows(self) -> bool:
        """Whether this is one of torchrun's processes, and not the first: it trains along, no more."""
        return os.environ.get("RANK", "0") != "0"

    def _make(self, name: str, display: Display, again: bool) -> None:
        stage = STAGES[name]
        for needed in STAGES:
            if name in FOLLOWERS[needed]:
                self._stands(needed, name)
        if name in ("train", "search") and self.store.stage("profile") is not None:
            check_budgets(self)
            check_bounds(self)
            check_int8(self)
        done = self.store.stage(name)
        if done is not None and not again:
            self._stands(name, name)
            log.info("%s: done before", name)
            return
        if again:
            self._reset(name)
        inputs = self._inputs(name)
        self._describe()
        with _logging_to(self.directory / "hwnas.log"):
            log.info("%s: started", name)
            start = time.perf_counter()
            outputs, files = stage.make(self, display(name))
            seconds = time.perf_counter() - start
            digests = {file: file_digest(self.directory / file) for file in files}
            self.store.finish_stage(name, inputs, {**outputs, "files": digests, "seconds": seconds})
            log.info("%s: finished in %.1f s", name, seconds)

    def outputs(self, name: str) -> dict[str, Any]:
        """What a finished stage made; StoreError if it is not finished."""
        done = self.store.stage(name)
        if done is None:
            raise StoreError(f"{self.directory}: {name} is not finished; run: {self._command}")
        return dict(done["outputs"])

    def _reset(self, name: str) -> None:
        """Forget a stage and what follows from it."""
        self._reopen(name)
        for stage in (name, *FOLLOWERS[name]):
            if stage in RESETS:
                RESETS[stage](self)

    def _reopen(self, name: str) -> None:
        """Mark a stage, and what follows from it, as unfinished."""
        self.store.reopen_stages([name, *FOLLOWERS[name]])
        for derived in DERIVED:
            self.__dict__.pop(derived, None)

    def _extend(self) -> None:
        """Reopen a finished search for more evaluations; StoreError if more than their number differs."""
        done = self.store.stage("search")
        if done is None:
            return
        before, now = done["inputs"]["search"]["evaluations"], self.config.search.evaluations
        if now < before:
            raise ConfigError(
                f"{self.directory}: the search has {before} evaluations, {now} would be fewer; "
                "they can be taken away by --restart search only"
            )
        self._stands("search", "search", but="search.evaluations")
        if now > before:
            self._reopen("search")

    def _inputs(self, name: str) -> dict[str, Any]:
        """What a stage is made from, as it is stored."""
        inputs: dict[str, Any] = json.loads(json.dumps(STAGES[name].inputs(self)))
        return inputs

    def _stands(self, name: str, wanted: str, but: str = "") -> None:
        """StoreError unless a stage is finished, was made from what is there now, and is unchanged.

        `but` names an input that may differ.
        """
        again, done = self._command, self.store.stage(name)
        if done is None:
            raise StoreError(f"{self.directory}: {wanted} needs {name}, which is not finished; run: {again}")
        before, now = dict(_flat(done["inputs"])), dict(_flat(self._inputs(name)))
        differing = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key != but
        ]
        if differing:
            key, onward = "search.evaluations", ""
            if name == "search" and len(differing) == 1 and before[key] < now[key]:
                onward = f"; or let it go on: hwnas search {self.directory} --evaluations {now[key]}"
            raise StoreError(
                f"{self.directory}: {name} was made from something else: {'; '.join(differing[:5])}. "
                f"Undo that, or choose another --run-dir, or make it again: {again} --restart {name}{onward}"
            )
        for file, sha256 in done["outputs"]["files"].items():
            path = self.directory / file
            if not path.is_file() or file_digest(path) != sha256:
                state = "was changed" if path.is_file() else "is gone"
                raise StoreError(
                    f"{path} {state} since {name} made it; make it again: {again} --restart {name}"
                )

    @property
    def _command(self) -> str:
        """The command that makes what is missing of the run."""
        return f"hwnas run {self.directory / 'config.yaml'} --run-dir {self.directory}"

    def _describe(self) -> None:
        """config.yaml, complete and its paths absolute, and environment.json."""
        text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(self.directory / "config.yaml", text)
        write_json(self.directory / "environment.json", environment())

    # ---- what the experiment names --------------------------------------------------------------

    def data(self, split: Literal["train", "validation", "test"]) -> Dataset:
        """One split of the experiment's data."""
        if split not in self._data:
            from hwnas.training.data import read_dataset

            named = self.config.data
            self._data[split] = read_dataset(named.name, split, self.config.seed, named.parameters)
        return self._data[split]

    @cached_property
    def space(self) -> NetworkSpace:
        """The search space; classes and channels are those of the data unless the experiment says them."""
        parameters = dict(self.config.space.parameters)
        if not {"classes", "channels"} <= parameters.keys():
            if "train" in self._data:
                classes, channels = self._data["train"].classes, len(self._data["train"].mean)
            else:
                from hwnas.training.data import describe_dataset

                named = self.config.data
                classes, channels = describe_dataset(named.name, self.config.seed, named.parameters)
            parameters = {"classes": len(classes), "channels": channels, **parameters}
        return get_space(self.config.space.name, **parameters)

    @cached_property
    def table(self) -> LatencyTable:
        """The latency table that the profile stage left."""
        return LatencyTable.load(self.directory / TABLE_FILE)

    @cached_property
    def further_tables(self) -> dict[str, LatencyTable]:
        """Latency tables of other devices, by metric."""
        names = self.config.latency.further_tables
        return {
            f"latency_ms@{name}": LatencyTable.load(self.directory / further_table(name)) for name in names
        }

    @property
    def latency_file(self) -> str:
        """The artefact of the profile stage."""
        return LATENCY_FILES[self.config.latency.source]

    @cached_property
    def latency(self) -> LatencyTable | LatencyPredictor | MeasuredLatency:
        """Where latencies come from: the table, a predictor, or the device itself."""
        path, source = self.directory / self.latency_file, self.config.latency.source
        if source == "predictor":
            return LatencyPredictor.load(path)
        if source == "measured":
            return MeasuredLatency(self.space, read_json(path), lambda: own_device(self))
        return self.table

    @cached_property
    def supernet(self) -> Supernet:
        """The supernet that the train stage left."""
        from hwnas.networks.supernet import load_supernet

        return load_supernet(self.directory / "supernet")

    @cached_property
    def evaluator(self) -> AccuracyEvaluator:
        """Validation accuracy of the supernet's subnets."""
        from hwnas.training.evaluation import AccuracyEvaluator

        images = self.config.search.calibration_images
        return AccuracyEvaluator(
            self.supernet, self.data("train"), self.data("validation"), images, self.config.seed
        )

    # ---- what was found -------------------------------------------------------------------------

    @property
    def accuracy_source(self) -> str:
        """Of all that an accuracy depends on: shared by all searches that evaluate a supernet in one way."""
        return digest(
            {
                "supernet": self.outputs("train")["checksum"],
                "data": self.config.data.model_dump(),
                "images": self.data("validation").checksum,
                "seed": self.config.seed,
                "calibration_images": self.config.search.calibration_images,
            }
        )

    @property
    def exact(self) -> dict[str, Evaluate]:
        """The metrics that need no evaluation, by name; latency is one unless each network is timed."""
        latency = {} if isinstance(self.latency, MeasuredLatency) else {"latency_ms": self.latency.latency_ms}
        further = {metric: table.latency_ms for metric, table in self.further_tables.items()}
        return {**latency, **further, "macs": self.space.macs, "params": self.space.params}

    @property
    def bounds(self) -> list[Constraint]:
        """The loosest latency budget, and the experiment's bounds on other metrics, all by name."""
        budgets = self.config.latency.budgets_ms
        found = [Constraint("latency_ms", upper=max(budgets))] if budgets else []
        given = self.config.search.constraints.items()
        return found + [Constraint(name, bound.upper, bound.lower) for name, bound in given]

    @cached_property
    def objectives(self) -> list[Objective]:
        """Those of the experiment; accuracy is truly evaluated, latency too where each network is timed."""

        known = {name: Objective(name, "min", evaluate) for name, evaluate in self.exact.items()}
        known["accuracy"] = Objective(
            "accuracy", "max", _Accuracy(self), expensive=True, source=self.accuracy_source
        )
        if isinstance(self.latency, MeasuredLatency):
            measure, source = self.latency.latency_ms, self.latency.source
            known["latency_ms"] = Objective("latency_ms", "min", measure, expensive=True, source=source)
        return [known[name] for name in self.config.search.objectives]

    def search(self, name: str, strategy: str, progress: Progress = silent) -> SearchResult:
        """A search of this run's store by name: gone on with, or as it was if it is finished."""
        section, exact = self.config.search, self.exact
        executor: Executor = SerialExecutor()
        watchers: list[Callable[[Status], None]] = []
        if self.store.stage("search") is None:
            self.evaluator  # noqa: B018 (what is missing is said before the search, not as its failures)
            executor = self._executor
            if section.tensorboard:
                watchers.append(TensorBoard(self.directory / "tensorboard" / name))

        def watch(status: Status) -> None:
            if self.watch is not None and name == "search":  # not the baseline
                self.watch(_standing(status, self.config.latency.budgets_ms))
            for watcher in watchers:
                watcher(status)

        return search(
            self.space,
            self.objectives,
            [c if c.name in section.objectives else replace(c, evaluate=exact[c.name]) for c in self.bounds],
            strategy,
            section.evaluations,
            self.config.seed,
            self.store,
            name,
            progress,
            executor=executor,
            lag=section.lag,
            watch=watch,
            **(self._options if strategy == section.strategy else {}),
        )

    @property
    def _executor(self) -> Executor:
        """What evaluates the search."""
        section = self.config.search
        if section.executor != "serial" and isinstance(self.latency, MeasuredLatency):
            raise ConfigError(
                f"latency.source: measured times one network at a time on a quiet machine, search.executor: "
                f"{section.executor} evaluates several; set search.executor: serial, or learn latencies: "
                "latency.source: predictor"
            )
        return get_executor(section.executor, section.workers, section.ray_address)

    @property
    def _options(self) -> dict[str, Any]:
        """The search strategy's options."""
        section = self.config.search
        options = {"predictor": section.predictor, "algorithm": section.algorithm}
        return {name: value for name, value in options.items() if value is not None}

    @cached_property
    def searched(self) -> SearchResult:
        """The finished search."""
        self.outputs("search")
        return self.search("search", self.config.search.strategy)

    @cached_property
    def predicted_accuracy(self) -> dict[str, float]:
        """What a predictor that has not seen an evaluation says of it, by architecture id (5-fold)."""
        good = [e for e in self.searched.evaluations if e.status == "ok"]
        archs = [e.architecture for e in good]
        features = np.column_stack([self.space.features(archs), [e.metrics["latency_ms"] for e in good]])
        accuracy = np.array([e.metrics["accuracy"] for e in good])
        predicted = np.full(len(good), np.nan)
        fold = np.random.default_rng(self.config.seed).permutation(len(good)) % FOLDS
        for held_out in range(FOLDS) if len(good) >= 2 * FOLDS else ():
            predictor = get_predictor(self.config.search.predictor or PREDICTOR, self.config.seed)
            predictor.fit(features[fold != held_out], accuracy[fold != held_out])
            predicted[fold == held_out] = predictor.predict(features[fold == held_out])[0]
        return {e.architecture.id: float(p) for e, p in zip(good, predicted, strict=True)}

    def evaluations(self) -> pd.DataFrame:
        """Every true evaluation of the search in order, one row each, choices as columns of their own."""
        evaluations = self.searched.evaluations
        archs = [e.architecture for e in evaluations]
        facts = pd.DataFrame(
            {
                "id": [arch.id for arch in archs],
                "accuracy": [e.metrics.get("accuracy", np.nan) for e in evaluations],
                "predicted_accuracy": [self.predicted_accuracy.get(arch.id, np.nan) for arch in archs],
                "latency_ms": [e.metrics.get("latency_ms", np.nan) for e in evaluations],
                **{metric: table.latency_ms(archs) for metric, table in self.further_tables.items()},
                "macs": self.space.macs(archs).astype(np.int64),
                "params": self.space.params(archs).astype(np.int64),
                "status": [e.status for e in evaluations],
                "error": [e.error or "" for e in evaluations],
                "feasible": [self.keeps_bounds(e) for e in evaluations],
            }
        )
        return pd.concat([facts, pd.DataFrame([arch.values for arch in archs])], axis=1)

    def keeps_bounds(self, evaluation: Evaluation) -> bool:
        """Whether all metrics that are bounded are known, and are within."""
        known = evaluation.metrics
        return all(c.name in known and c.violation(known[c.name]) == 0 for c in self.bounds)

    @property
    def accuracies(self) -> tuple[int, int]:
        """How many accuracies this run knows from the run of another device, and how many it added."""
        known = self.outputs("train").get("accuracies", 0)
        return known, len(self.store.measurements("accuracy", self.accuracy_source)) - known

    @property
    def models(self) -> list[dict[str, Any]]:
        """The entries of pareto.json, fastest first."""
        return list(read_json(self.directory / "pareto.json")["models"])

    @property
    def front(self) -> ParetoFront:
        """The front by validation accuracy and measured latency; needs a verified run (else StoreError)."""
        return ParetoFront.of([evaluation for _, evaluation in self.measured], self.objectives)

    @property
    def measured(self) -> list[tuple[dict[str, Any], Evaluation]]:
        """The entries of pareto.json that keep a budget, each also as an evaluation by measured latency."""
        self.outputs("verify")
        return [(entry, _evaluation(self, entry)) for entry in self.models if entry["status"] != "missed"]

    def summary(self) -> dict[str, Any]:
        """Plain data on what the run has so far: models, budgets, and where the report is."""
        verified = self.store.stage("verify") is not None
        report = self.directory / "report.html"
        models: list[dict[str, Any]] = []
        if verified:
            models = self.models
        elif self.store.stage("export") is not None:
            models = [read_entry(self, name) for name in self.outputs("search")["front"]]
        return {
            "run": str(self.directory),
            "verified": verified,
            "models": models,
            "budgets": self.outputs("verify")["budgets"] if verified else [],
            "report": str(report) if self.store.stage("report") is not None else None,
        }


class _Accuracy:
    """A run's accuracies. A worker gets the evaluator, not the run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, archs: Sequence[Architecture]) -> Any:
        return self.run.evaluator(archs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.run.evaluator, "__call__")


def _standing(status: Status, budgets_ms: Sequence[float]) -> dict[str, str]:
    """What there is to watch of a search of accuracy, by name, as text."""
    facts = {"evaluations": f"{status.done} of {status.total}"}
    if status.failed:
        facts["failed"] = str(status.failed)
    if np.isfinite(status.hypervolume):
        facts["hypervolume"] = f"{status.hypervolume:.5g}"
    for budget_ms in budgets_ms or (np.inf,):
        within = [
            e.metrics["accuracy"] for e in status.front if e.metrics.get("latency_ms", 0.0) <= budget_ms
        ]
        name = "best accuracy" if budget_ms == np.inf else f"best within {budget_ms:g} ms"
        facts[name] = f"{max(within):.2f} %" if within else "none yet"
    for name, tau in status.kendall_tau.items():
        facts[f"rank correlation of predicted {name}"] = f"{tau:.2f}"
    return facts


def more_evaluations(run: Run, more: int) -> int:
    """The number of evaluations of a finished search, and so many more; ConfigError if it is not finished."""
    done = run.store.stage("search")
    if done is None:
        raise ConfigError(
            f"{run.directory}: +{more} evaluations go on from a finished search, and this one is not; "
            f"finish it: hwnas search {run.directory}"
        )
    return int(done["inputs"]["search"]["evaluations"]) + more


def _evaluation(run: Run, entry: Mapping[str, Any]) -> Evaluation:
    """An entry of pareto.json as an evaluation whose latency is the measured one."""
    metrics = {
        **entry["predicted"],
        "accuracy": entry["validation_accuracy"],
        "latency_ms": entry["measured"]["latency_ms"],
        "test_accuracy": entry["test_accuracy"],
        "macs": entry["macs"],
        "params": entry["params"],
    }
    return Evaluation(run.space.architecture(entry["architecture"]), metrics)


def environment() -> dict[str, Any]:
    """Versions, processor and date, for the record."""
    cpu = get_device("onnxruntime").identity.device
    packages = ("hwnas", "torch", "onnxruntime", "numpy", "scikit-learn", "pymoo")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu["cpu"],
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "git_commit": _git_commit(),
        "packages": {name: version(name) for name in packages},
    }


def _git_commit() -> str | None:
    """The commit of the checkout that hwnas runs from; None where it is installed otherwise."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time in a run's folder; StoreError names the one that is there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("a+")
    except OSError as error:
        raise StoreError(f"cannot write {directory}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StoreError(
                f"{directory}: process {file.read().strip()} is at work here; wait for it, stop it, "
                "or choose another --run-dir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """The log of hwnas, from information on, into a file; an error that ends the work is its last line."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        log.info("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted key, value) pairs."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ---- profile: how long each operator takes on this device ----------------------------------------


def further_table(name: str) -> str:
    """The file of another device's table in a run's folder."""
    return f"latency_table@{name}.json"


def _profile_inputs(run: Run) -> dict[str, Any]:
    further = run.config.latency.further_tables
    done = run.store.stage("profile")
    known = {} if done is None else done["inputs"].get("further_tables", {})
    digests = {  # a run keeps its own copy
        name: known[name] if name in known and not Path(path).exists() else file_digest(path)
        for name, path in further.items()
    }
    return {**_latency_inputs(run), "further_tables": digests}


def _latency_inputs(run: Run) -> dict[str, Any]:
    latency = run.config.latency
    if latency.source != "table":
        return {
            "space": run.space.definition,
            "source": latency.source,
            "device": latency.device,
            "threads": latency.threads,
            "rounds": latency.rounds,
            "batch_size": latency.batch_size,
            "networks": latency.predictor_networks if latency.source == "predictor" else 0,
            "seed": run.config.seed,
        }
    if latency.table is not None:
        done = run.store.stage("profile")
        if done is not None and not Path(latency.table).exists():  # a run keeps its own copy
            return {"space": run.space.definition, "table": done["inputs"].get("table")}
        return {"space": run.space.definition, "table": file_digest(latency.table)}
    return {
        "space": run.space.definition,
        "device": latency.device,
        "threads": latency.threads,
        "batch_size": latency.batch_size,
        "rounds": latency.rounds,
        "calibration_networks": latency.calibration_networks,
        "held_out_networks": latency.held_out_networks,
        "time_limit_s": latency.time_limit_s,
        "seed": run.config.seed,
    }


def _profile(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    further = []
    for name, source in run.config.latency.further_tables.items():
        table = _given_table(source, run.config.latency.batch_size)
        table.latency_ms(run.space.sample(1000, run.config.seed))  # names an operator that it lacks
        further.append(further_table(name))
        table.save(run.directory / further[-1])
    outputs, files = _profile_device(run, progress)
    digests = {file: file_digest(run.directory / file) for file in further}
    return {**outputs, "further_tables": digests}, files + further


def _profile_device(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    latency = run.config.latency
    path = run.directory / run.latency_file
    if latency.source != "table":
        device, seed = get_device(latency.device, latency.threads), run.config.seed
        if latency.source == "predictor":
            networks = latency.predictor_networks
            predictor = learn_latency(
                run.space, device, networks, latency.rounds, seed, progress, latency.batch_size
            )
            predictor.save(path)
            log.info("profile: %s", predictor.summary())
        else:
            write_json(path, measured_on(device, latency.rounds, seed, latency.batch_size))
        return {"table": file_digest(path)}, [run.latency_file]
    if latency.table is not None:
        table = _given_table(latency.table, latency.batch_size)
    else:
        refused = run.directory / UNFINISHED_TABLE / "refused"
        if refused.exists() and not latency.allow_noisy:
            _forget_profile(run)
        table = profile(
            run.space,
            device=latency.device,
            threads=latency.threads,
            batch_size=latency.batch_size,
            rounds=latency.rounds,
            calibration_networks=latency.calibration_networks,
            held_out_networks=latency.held_out_networks,
            time_limit_s=latency.time_limit_s,
            checkpoint=run.directory / UNFINISHED_TABLE,
            rng=run.config.seed,
            progress=progress,
        )
        if table.protocol["noisy"] and not latency.allow_noisy:
            write_text(refused, "a table of these passes was refused as noisy\n")
            table.check_quiet("--allow-noisy, or --set latency.allow_noisy=true")
    table.save(path)
    _forget_profile(run)
    log.info("profile: %s", table.summary())
    return {"table": file_digest(path)}, [run.latency_file]


def _given_table(path: str, batch_size: int) -> LatencyTable:
    """A table that somebody measured; TableError if it is of batches of another size."""
    table = LatencyTable.load(path)
    measured_at = table.runtime.get("batch_size", 1)
    if measured_at != batch_size:
        raise TableError(
            f"{path} is of batches of {measured_at}, latency.batch_size is "
            f"{batch_size}; set that to the table's, or profile"
        )
    return table


def check_budgets(run: Run) -> None:
    """Warn of budgets that no architecture can keep, as far as is known; InfeasibleError if none can."""
    if isinstance(run.latency, MeasuredLatency):
        return
    budgets = run.config.latency.budgets_ms
    _, smallest = extreme(run.space, run.latency.latency_ms)
    unreachable = [budget for budget in budgets if budget < smallest]
    if budgets and len(unreachable) == len(budgets):
        raise InfeasibleError(
            f"no architecture keeps the latency budget of {max(budgets):g} ms: the fastest one takes "
            f"{smallest:.4g} ms on this device; raise latency.budgets_ms or choose a smaller space"
        )
    for budget in unreachable:
        log.warning("no architecture keeps the budget of %g ms; the fastest takes %.4g ms", budget, smallest)


def check_bounds(run: Run) -> None:
    """InfeasibleError if no architecture keeps all bounds together on what is known without evaluation."""
    exact = tuple(Objective(name, "min", evaluate) for name, evaluate in run.exact.items())
    bounds = tuple(bound for bound in run.bounds if bound.name in run.exact)
    check_feasible(Problem(run.space, exact, bounds), run.config.seed)


def check_int8(run: Run) -> None:
    """ConfigError if models in 8 bits are asked for and the device cannot run them."""
    runtime = run.latency.runtime["name"]
    if run.config.export.int8 and runtime.startswith("torch"):
        raise ConfigError(
            f"export.int8: the latency is of the runtime {runtime}, which runs no quantised ONNX model; "
            "set export.int8: false, or latency.device: onnxruntime"
        )


# ---- train: one supernet for all architectures ---------------------------------------------------


def _train_inputs(run: Run) -> dict[str, Any]:
    return {
        "space": run.space.definition,
        "data": run.config.data.model_dump(),
        "images": {split: run.data(split).checksum for split in ("train", "validation")},
        "training": run.config.training.model_dump(),
        "seed": run.config.seed,
    }


def _train(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    net, result = _train_supernet(run, progress)
    layout = "channels last" if result.arithmetic.channels_last else "channels first"
    log.info("train: computed in %s, %s", result.arithmetic.precision, layout)
    net.metadata = {"arithmetic": asdict(result.arithmetic), "training": run.config.training.model_dump()}
    net.save(run.directory / "supernet")
    outputs = {
        "checksum": net.checksum,
        "arithmetic": asdict(result.arithmetic),
        "reports": [asdict(report) for report in result.reports],
    }
    return outputs, ["supernet/model.safetensors", "supernet/supernet.json"]


def _train_supernet(run: Run, progress: Progress) -> tuple[Supernet, TrainingResult]:
    from hwnas.networks.supernet import Supernet
    from hwnas.training.loop import train

    net = Supernet(run.space, run.config.seed, run.config.training.kernel_transform)
    result = train(
        net,
        run.data("train"),
        run.data("validation"),
        run.config.training,
        run.directory / "supernet",
        run.config.seed,
        progress,
    )
    return net, result


# ---- search: the front of accuracy against latency, and what else is asked for --------------------


def _search_inputs(run: Run) -> dict[str, Any]:
    lag, profiled = run.config.search.lag, run.outputs("profile")
    return {
        "supernet": run.outputs("train")["checksum"],
        "table": profiled["table"],
        "further_tables": profiled.get("further_tables", {}),
        "budgets_ms": list(run.config.latency.budgets_ms),
        "search": run.config.search.model_dump(exclude=NO_MATTER if lag else {*NO_MATTER, "lag"}),
        "seed": run.config.seed,
    }


def _search(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    if isinstance(run.latency, MeasuredLatency):
        own_device(run)  # before anything is asked for
    result = run.search("search", run.config.search.strategy, progress)
    if run.config.search.random_baseline:
        run.search("random-baseline", "random", progress)
    front = [evaluation.architecture.id for evaluation in result.front]
    if not front:
        raise InfeasibleError("the search found no model within the budgets; see evaluations in run.db")
    failed = sum(evaluation.status == "failed" for evaluation in result.evaluations)
    if "accuracies" in run.outputs("train"):
        known, new = run.accuracies
        log.info("search: %d accuracies were known from the other run, %d were evaluated anew", known, new)
    return {"front": front, "evaluations": len(result.evaluations), "failed": failed}, []


# ---- export: the searched front as ONNX, equal to torch ------------------------------------------


def _export_inputs(run: Run) -> dict[str, Any]:
    return {
        "supernet": run.outputs("train")["checksum"],
        "front": run.outputs("search")["front"],
        "export": run.config.export.model_dump(exclude_defaults=True),  # older runs know none of it
    }


def _export(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    check_int8(run)
    front = [evaluation.architecture for evaluation in run.searched.front]
    for done, arch in enumerate(front):
        progress(done, len(front), arch.id)
        export_model(run, arch)
    progress(len(front), len(front), "")
    write_text(run.directory / "evaluations.csv", run.evaluations().to_csv(index=False))
    names = ("model.onnx", "model.json", "model.safetensors")
    files = [f"models/{arch.id}/{name}" for arch in front for name in names]
    optional = [int8_candidate(arch.id) for arch in front]
    optional += [f"models/{arch.id}/{name}" for arch in front for name in OPTIONAL]
    files += [name for name in optional if (run.directory / name).exists()]
    return {}, ["evaluations.csv", *files]


def int8_candidate(name: str) -> str:
    """The file of a model in 8 bits that is accurate enough, until a measurement says if it is kept."""
    return f"int8/{name}.onnx"


def export_model(
    run: Run,
    arch: Architecture,
    network: StaticNetwork | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """models/<id>/ of one architecture: its network, plain and as ONNX, and its entry, not yet measured.

    `network` is another one of it than that of inherited weights, `changes` what its entry says otherwise.
    ExportError if ONNX Runtime's outputs on images of the test split or its test accuracy are not torch's.
    """
    from hwnas.export.checks import accuracy_by, check_accuracy, check_outputs
    from hwnas.export.folder import save_model
    from hwnas.export.metadata import input_facts, properties
    from hwnas.export.onnx import check_onnx, onnx_accuracy, with_metadata
    from hwnas.networks.blocks import folded_weights
    from hwnas.networks.onnx_graph import onnx_model
    from hwnas.training.data import resize
    from hwnas.training.evaluation import EVALUATION_BATCH, accuracy_of

    test, name = run.data("test"), arch.id if changes is None else str(changes["id"])
    resolution = run.space.resolution(arch)
    if network is None:
        network = run.supernet.extract(arch, run.evaluator.statistics(arch))
    batch_size = run.config.latency.batch_size
    data = onnx_model(network.operators, folded_weights(network), batch_size).SerializeToString()
    images, _ = next(test.stream([np.arange(min(CHECKED_IMAGES, len(test)))]))
    images = resize(images, resolution)
    difference = check_onnx(data, network, images)
    accuracy = onnx_accuracy(data, test.batches(EVALUATION_BATCH, resolution))
    expected = accuracy_of(network, test)
    check_accuracy(accuracy, expected, len(test), f"ONNX Runtime, model {name},")
    metrics = next(e.metrics for e in run.searched.evaluations if e.architecture == arch)
    predicted = run.predicted_accuracy[arch.id]
    checks: dict[str, Any] = {
        "images": len(images),
        "difference": difference,
        "torch_test_accuracy": expected,
    }
    entry = {
        "id": name,
        "architecture": arch.values,
        "validation_accuracy": metrics["accuracy"],
        "test_accuracy": accuracy,
        "predicted": {
            "accuracy": None if np.isnan(predicted) else predicted,
            "latency_ms": metrics["latency_ms"],
            **{metric: float(table.latency_ms([arch])[0]) for metric, table in run.further_tables.items()},
        },
        "measured": {"latency_ms": None, "latency_ci_ms": None},
        "macs": int(run.space.macs([arch])[0]),
        "params": int(run.space.params([arch])[0]),
        "budget_ms": None,
        "checks": checks,
        "int8": None,
        "status": "exported",
        **(changes or {}),
    }
    folder, inputs = run.directory / "models" / name, input_facts(test, network.input_shape)
    facts = {"id": name, "architecture": arch.values, "input": inputs, "classes": list(test.classes)}
    save_model(network, folder, facts)
    said = properties(entry, inputs, test.classes, run.latency.device, run.latency.runtime)
    data = with_metadata(data, said)
    write_bytes(folder / "model.onnx", data)
    for stale in (int8_candidate(name), *(f"models/{name}/{file}" for file in OPTIONAL)):
        (run.directory / stale).unlink(missing_ok=True)
    if run.config.export.openvino:
        from hwnas.export.openvino import export_openvino, openvino_logits

        export_openvino(data, folder)
        logits, runtime = openvino_logits(folder), f"OpenVINO, model {name},"
        found = accuracy_by(logits, test.batches(EVALUATION_BATCH, resolution))
        check_accuracy(found, expected, len(test), runtime)
        difference = check_outputs(logits, network, images, runtime)
        checks["openvino"] = {"difference": difference, "test_accuracy": found}
    if run.config.export.int8:
        entry["int8"] = _quantize(run, name, data, resolution)
    write_entry(run, entry)


def _quantize(run: Run, name: str, data: bytes, resolution: int) -> dict[str, Any]:
    """The `int8` of the entry of an exported model by accuracy alone, and the file of a candidate."""
    from hwnas.export.quantize import candidate_of

    splits = run.data("train"), run.data("validation"), run.data("test")
    allowed = run.config.export.max_accuracy_loss
    int8, made = candidate_of(data, splits, resolution, allowed, run.config.seed)
    if int8["status"] == "candidate":
        write_bytes(run.directory / int8_candidate(name), made)
    return int8


def read_entry(run: Run, name: str) -> dict[str, Any]:
    """architecture.json of a model."""
    return read_json(run.directory / "models" / name / "architecture.json")


def write_entry(run: Run, entry: Mapping[str, Any]) -> None:
    """architecture.json, README.md and SHA256SUMS of a model."""
    from hwnas.export.folder import write_sums

    folder = run.directory / "models" / entry["id"]
    write_json(folder / "architecture.json", entry)
    data, runtime = run.data("test"), run.latency.runtime
    card = model_card(
        entry,
        experiment=run.config.name,
        objectives=run.config.search.objectives,
        input_shape=run.space.operators(run.space.architecture(entry["architecture"]))[0].in_shape,
        preparation=data.preparation,
        preprocessing={"mean": data.mean, "std": data.std},
        classes=data.classes,
        device=f"{run.latency.device['cpu']}, {runtime['name']} {runtime['version']}, "
        f"threads: {runtime['threads']}",
        batch_size=run.config.latency.batch_size,
    )
    write_text(folder / "README.md", card)
    write_sums(folder)


# ---- verify: the models measured on the device, and the front of what was measured ---------------


def _verify_inputs(run: Run) -> dict[str, Any]:
    latency = run.config.latency
    return {
        "models": run.outputs("export")["files"],
        "budgets_ms": list(latency.budgets_ms),
        "rounds": latency.verify_rounds,
    }


def _verify(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    budgets_ms = run.config.latency.budgets_ms
    device = own_device(run)
    tuned = finetuned_models(run)
    names = [*run.outputs("search")["front"], *tuned]
    entries = measure_entries(run, names, device, progress)
    for budget_ms in budgets_ms:
        promised = most_accurate(entries, budget_ms, "predicted")
        if promised is not None and _verdict(_entry(entries, promised), budget_ms) != "met":
            spares = _spares(run, entries, budget_ms)
            for arch in spares:
                export_model(run, arch)
            entries += measure_entries(run, [arch.id for arch in spares], device, progress)
    kept = {most_accurate(entries, budget_ms, "measured") for budget_ms in budgets_ms}
    kept |= {*tuned, *tuned.values()}  # a model stays beside what it was made into
    evaluations = [_evaluation(run, entry) for entry in entries]
    front = ParetoFront.of(evaluations, run.objectives)
    for entry, evaluation in zip(entries, evaluations, strict=True):
        judge_entry(entry, budgets_ms)
        stays = entry["id"] in kept or evaluation in front
        if entry["status"] in ("verified", "unstable") and not stays:
            entry["status"] = "dominated"
        write_entry(run, entry)
    _warn_of_drift(entries)
    budgets = [
        {
            "budget_ms": budget_ms,
            "model": most_accurate(entries, budget_ms, "measured"),
            "missed": [entry["id"] for entry in entries if _misses(entry, budget_ms)],
            "undecidable": [e["id"] for e in entries if _verdict(e, budget_ms) == "undecidable"],
        }
        for budget_ms in budgets_ms
    ]
    return {"budgets": budgets}, _write_front(run, [e for e in entries if e["status"] != "dominated"])


def finetuned_models(run: Run) -> dict[str, str]:
    """The ids of models that were fine-tuned from this supernet, each with that of the model it was."""
    found, checksum = {}, run.outputs("train")["checksum"]
    for path in sorted((run.directory / "models").glob("*-ft*/architecture.json")):
        made = read_json(path).get("finetuned")
        if made is not None and made["supernet"] == checksum:
            found[path.parent.name] = str(made["from"])
    return found


def judge_entry(entry: dict[str, Any], budgets_ms: Sequence[float]) -> None:
    """Say of a measured entry which budget it keeps, and by that and its last verification its status."""
    verdicts = [_verdict(entry, budget_ms) for budget_ms in budgets_ms]
    entry["budget_ms"] = next((b for b, v in zip(budgets_ms, verdicts, strict=True) if v == "met"), None)
    entry["status"] = "verified" if stable(entry["verifications"][-1]) else "unstable"
    if budgets_ms and entry["budget_ms"] is None:
        entry["status"] = "undecidable" if "undecidable" in verdicts else "missed"


def _write_front(run: Run, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """pareto.json of entries; the files that the verify stage answers for."""
    kept = sorted(entries, key=lambda entry: float(entry["measured"]["latency_ms"]))
    write_json(run.directory / "pareto.json", {"schema": 1, "models": kept})
    made = ("architecture.json", "README.md", "SHA256SUMS")
    files = [f"models/{entry['id']}/{name}" for entry in kept for name in made]
    files += [f"models/{entry['id']}/model.int8.onnx" for entry in kept if _has_int8(entry)]
    return ["pareto.json", *files]


def amend(run: Run, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write entries that changed, or are new, into a `locked` run; the report is then to be made anew.

    What is verified stays so.
    """
    for entry in entries:
        write_entry(run, entry)
    done = run.store.stage("verify")
    if done is None:
        return
    models = {entry["id"]: entry for entry in (*run.models, *entries)}
    files = _write_front(run, list(models.values()))
    budgets = [
        {**row, "model": most_accurate(list(models.values()), row["budget_ms"], "measured")}
        for row in done["outputs"]["budgets"]
    ]
    digests = {file: file_digest(run.directory / file) for file in files}
    outputs = {**done["outputs"], "budgets": budgets, "files": digests}
    run.store.finish_stage("verify", done["inputs"], outputs)
    run.store.reopen_stages(["report"])


def measure_entries(
    run: Run, names: Sequence[str], device: Device, progress: Progress
) -> list[dict[str, Any]]:
    """The entries of exported models with their latency on the run's device, and whether it repeats."""
    latency = run.config.latency
    models = {name: read_bytes(run.directory / "models" / name / "model.onnx") for name in names}
    found = measure_models(
        models, device, latency.verify_rounds, latency.budgets_ms, run.config.seed, progress
    )
    entries = []
    for name, verification in found.items():
        entry = read_entry(run, name)
        entry["measured"] |= {key: verification[key] for key in ("latency_ms", "latency_ci_ms")}
        entry["verifications"] = added(entry.get("verifications", []), verification)
        entries.append(entry)
    for reason in entries[0]["verifications"][-1]["noise"] if entries else []:
        log.warning("verify: the measurement was disturbed: %s", reason)
    _decide_int8(run, entries, models, device, progress)
    return entries


def _decide_int8(
    run: Run,
    entries: Sequence[dict[str, Any]],
    models: Mapping[str, bytes],
    device: Device,
    progress: Progress,
) -> None:
    """Compare candidates in 8 bits with their models on the device; what is kept is model.int8.onnx."""
    candidates = {name: run.directory / int8_candidate(name) for name in models}
    pairs = {n: (models[n], read_bytes(path)) for n, path in candidates.items() if path.exists()}
    if not pairs:
        return
    from hwnas.export.metadata import int8_properties
    from hwnas.export.onnx import with_metadata
    from hwnas.export.quantize import decide

    found = compare(pairs, device, run.config.latency.verify_rounds, run.config.seed, progress)
    for entry in entries:
        name, path = entry["id"], run.directory / "models" / entry["id"] / "model.int8.onnx"
        if name in found:
            entry["int8"] = decide(entry["int8"], found[name])
        if _has_int8(entry):
            write_bytes(path, with_metadata(pairs[name][1], int8_properties(entry["int8"])))
        else:
            path.unlink(missing_ok=True)
    log.info("verify: %d of %d models in 8 bits are kept", sum(map(_has_int8, entries)), len(pairs))


def _has_int8(entry: Mapping[str, Any]) -> bool:
    """Whether a model was kept in 8 bits too."""
    return (entry.get("int8") or {}).get("status") == "kept"


def _warn_of_drift(entries: Sequence[Mapping[str, Any]]) -> None:
    """Say which latencies are not what they were, and whether all have moved together."""
    found = [entry["verifications"][-1] for entry in entries]
    moved = [(e["id"], v) for e, v in zip(entries, found, strict=True) if v["drift"] is not None]
    for name, now in moved:
        before = last_on(_entry(entries, name)["verifications"][:-1], now["device"], now["runtime"])
        assert before is not None
        versions = [v["runtime"]["version"] for v in (before, now)]
        other = f", then with version {versions[0]} of the runtime" if versions[0] != versions[1] else ""
        log.warning(
            "verify: %s takes %.4g ms, %+.1f %% since %s, more than both intervals and noise allow%s",
            name,
            now["latency_ms"],
            100 * now["drift"],
            before["date"],
            other,
        )
    if len(moved) > 1 and len(moved) == len(entries):
        median = float(np.median([now["drift"] for _, now in moved]))
        log.warning("verify: all models have moved, by %+.1f %% in the median: the device has", 100 * median)


def own_device(run: Run) -> Device:
    """The device that the run's latencies are of; DeviceError, naming both, if that is not within reach."""
    runtime, asked, configured = run.latency.runtime, run.latency.device, run.config.latency.device
    here = runtime["name"] in DEVICES and not configured.startswith("ssh://")
    name = run.device or (runtime["name"] if here else configured)
    device = get_device(name, runtime["threads"] or 1)
    if not same_device(device.identity, asked, runtime):
        raise DeviceError(
            f"the latency is of {asked['name']} with {runtime['name']}, but what would be measured on is "
            f"{device.identity.device['name']} with {device.identity.runtime['name']}; it is verified on its "
            f"own device: verify {run.directory} there, or say where it is: --device ssh://user@host"
        )
    return device


def _spares(run: Run, entries: Sequence[Mapping[str, Any]], budget_ms: float) -> list[Architecture]:
    """The next most accurate architectures for a budget that its promised model misses.

    Only those that are more accurate than what keeps the budget already, and that the table, corrected by
    what was measured of the models that keep it, says will keep it.
    """
    known = {entry["id"] for entry in entries}
    kept_by = [entry for entry in entries if _verdict(entry, budget_ms) == "met"]
    ratios = [entry["measured"]["latency_ms"] / entry["predicted"]["latency_ms"] for entry in kept_by]
    ratio = float(np.median(ratios)) if ratios else 1.0
    kept = most_accurate(entries, budget_ms, "measured")
    least = _entry(entries, kept)["validation_accuracy"] if kept is not None else -np.inf
    candidates = [
        e
        for e in run.searched.evaluations
        if e.status == "ok"
        and run.keeps_bounds(e)
        and e.architecture.id not in known
        and e.metrics["latency_ms"] * max(ratio, 1.0) <= budget_ms
        and e.metrics["accuracy"] > least
    ]
    candidates.sort(key=lambda e: -e.metrics["accuracy"])
    return [e.architecture for e in candidates[:SPARES]]


def _entry(entries: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(entry for entry in entries if entry["id"] == name)


def _verdict(entry: Mapping[str, Any], budget_ms: float) -> Verdict:
    return verdict(entry["measured"]["latency_ci_ms"], budget_ms)


def _misses(entry: Mapping[str, Any], budget_ms: float) -> bool:
    promised = entry["predicted"]["latency_ms"] <= budget_ms
    return bool(promised and _verdict(entry, budget_ms) == "missed")


# ---- report: figures and one page ----------------------------------------------------------------


def _report_inputs(run: Run) -> dict[str, Any]:
    return {"pareto": run.outputs("verify")["files"]["pareto.json"], "search": _search_inputs(run)}


def _report(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    evaluations = run.evaluations()
    good = evaluations[(evaluations["status"] == "ok") & evaluations["feasible"]]
    reference = [0.0 if o.direction == "max" else float(good[o.name].max()) for o in run.objectives]
    hypervolume = {run.config.search.strategy: run.searched.hypervolume_trace(reference).tolist()}
    if run.config.search.random_baseline:
        random = run.search("random-baseline", "random")
        hypervolume["random"] = random.hypervolume_trace(reference).tolist()
    models = {entry["id"]: run.space.architecture(entry["architecture"]) for entry in run.models}
    table = run.latency if isinstance(run.latency, LatencyTable) else None
    knee = run.front.knee
    data = ReportData(
        name=run.config.name,
        config=run.config.model_dump(mode="json"),
        environment=read_json(run.directory / "environment.json"),
        objectives=run.config.search.objectives,
        evaluations=evaluations,
        models=run.models,
        architectures={
            **{e.architecture.id: e.architecture.values for e in run.searched.evaluations},
            **{name: arch.values for name, arch in models.items()},
        },
        operators={name: operator_times(run.space, arch, table) for name, arch in models.items()},
        files={
            name: sorted(path.name for path in (run.directory / "models" / name).iterdir()) for name in models
        },
        budgets_ms={b["budget_ms"]: b["model"] for b in run.outputs("verify")["budgets"]},
        hypervolume=hypervolume,
        reference=", ".join(
            f"{o.name} {value:.4g}" for o, value in zip(run.objectives, reference, strict=True)
        ),
        training=run.outputs("train")["reports"],
        table=read_json(run.directory / run.latency_file),
        verdict="" if table is None else table.verdict(),
        dataset={
            "classes": run.data("test").classes,
            "images": {
                "train": len(run.data("train")),
                "validation": len(run.data("validation")),
                "test": len(run.data("test")),
            },
        },
        seconds={name: run.outputs(name)["seconds"] for name in STAGES if name != "report"},
        knee=next((entry["id"] for entry, evaluation in run.measured if evaluation == knee), None),
    )
    path = write_report(data, run.directory)
    progress(1, 1, str(path))
    figures = sorted(
        str(file.relative_to(run.directory)) for file in (run.directory / "figures").glob("*.png")
    )
    return {}, [str(path.relative_to(run.directory)), *figures]


def _forget_profile(run: Run) -> None:
    shutil.rmtree(run.directory / UNFINISHED_TABLE, ignore_errors=True)


def _forget_search(run: Run) -> None:
    for name in ("search", "random-baseline"):
        run.store.forget_search(name)


def _forget_training(run: Run) -> None:
    shutil.rmtree(run.directory / "supernet", ignore_errors=True)


# What must go before a stage can be made afresh, besides the artefacts that it overwrites.
RESETS: dict[str, Callable[[Run], None]] = {
    "profile": _forget_profile,
    "train": _forget_training,
    "search": _forget_search,
}

STAGES: dict[str, Stage] = {
    "profile": Stage(_profile_inputs, _profile),
    "train": Stage(_train_inputs, _train),
    "search": Stage(_search_inputs, _search),
    "export": Stage(_export_inputs, _export),
    "verify": Stage(_verify_inputs, _verify),
    "report": Stage(_report_inputs, _report),
}
