"""A run: its experiment, its folder, what the finished stages left there, and how they are made in order."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import yaml

from hwnas.config import COSTS, GIVEN_DATA, Experiment, Named, load_config, overridden, parse_config
from hwnas.errors import ConfigError, DamagedImagesError, DataError, StoreError
from hwnas.files import expanded
from hwnas.images import OLD_READER, READER
from hwnas.inputs import canonical, flat
from hwnas.latency.devices import DEVICES
from hwnas.latency.predictor import LatencyPredictor, MeasuredLatency
from hwnas.latency.table import LatencyTable
from hwnas.pipeline.entries import PARETO_SCHEMA, evaluation_of, model_folder, read_entry
from hwnas.pipeline.folder import (
    check_unlocked,
    check_written,
    environment,
    locked,
    logging_to,
    run_folder,
)
from hwnas.pipeline.invocation import Invocation
from hwnas.pipeline.profile import (
    LATENCY_FILES,
    TABLE_FILE,
    further_table,
    own_device,
)
from hwnas.pipeline.stages import STAGES, needed_by
from hwnas.pipeline.train import train_supernet
from hwnas.predictors import get_predictor
from hwnas.progress import Progress, TextDisplay, silent
from hwnas.searching.executors import Executor, SerialExecutor, get_executor
from hwnas.searching.loop import SearchResult, SearchSession, Status, search
from hwnas.searching.objectives import Constraint, Evaluate, Evaluation, Objective
from hwnas.searching.pareto import ParetoFront
from hwnas.searching.strategies import check_strategy
from hwnas.searching.tensorboard import TensorBoard, summary_writer
from hwnas.spaces import Architecture, NetworkSpace, PrecisionSpace, get_space
from hwnas.store import Store, digest, file_digest, read_json, write_json, write_text
from hwnas.training.strategies import check_strategy as check_training_strategy

if TYPE_CHECKING:  # torch is loaded by the stages that need it
    from hwnas.export.quantize import PrecisionEvaluator
    from hwnas.networks.base import WeightSharing
    from hwnas.training.data import Dataset
    from hwnas.training.evaluation import AccuracyEvaluator

log = logging.getLogger("hwnas")

SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
# Parameters that may change after training: the checksums of the images identify the data.
INCIDENTAL_KEYS = ("path", "hub", "skip_damaged", "left_out")
INCIDENTAL = tuple(f"data.{key}" for key in INCIDENTAL_KEYS)
FOLDS = 5  # of the cross-validation behind predicted accuracies
LEARNT = 2000  # evaluations that it learns from at most; some predictors need their square in memory
PREDICTOR = "gp"  # behind predicted accuracies where the search names none
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
    display: Display | None = None,
) -> Run:
    """The whole job of an experiment file; goes on where an earlier call stopped.

    `run_dir` is the run's folder, by default the experiment's name; relative ones are under ``runs/``.
    `overrides` sets fields by dotted key. `data`, in place of what the experiment says of data, are the
    splits train, validation and test, as `from_loader` makes them; a call that goes on gives them again.
    `restart` names a stage to make again, with what follows from it, or is "all". `display` shows the
    progress of each stage, by default as text on standard error; `hwnas.pipeline.no_display` shows nothing.
    HwnasError when something cannot be done; what is finished stays.
    """
    job = open_run(config, run_dir=run_dir, overrides=overrides, data=data)
    job.invocation = replace(job.invocation, in_python=True)
    shown = TextDisplay()
    try:
        job.make(tuple(STAGES), display or shown, restart)
    finally:
        shown.close()
    return job


def open_run(
    config: str | Path | Experiment,
    *,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: Mapping[str, Dataset] | None = None,
) -> Run:
    """Open the run of an experiment file; its folder is created when the first stage begins.

    Args:
        config: An experiment or the path of its YAML file.
        run_dir: The run's folder; the experiment's name by default.
        overrides: Values of fields by dotted key.
        data: The splits train, validation and test, in place of the dataset that the experiment names.

    Returns:
        The run.

    Raises:
        ConfigError: if the experiment is wrong.
        DataError: if `data` lacks a split, holds something else than datasets, or its splits differ in
            their classes or channels.
    """
    given = overrides or {}
    if data is not None:
        if set(data) != set(SPLITS):
            raise DataError(f"data has {', '.join(data) or 'nothing'}; give {', '.join(SPLITS)}")
        from hwnas.training.data import check_splits

        check_splits({split: data[split] for split in SPLITS})
        overrides = {**given, "data": {"name": GIVEN_DATA}}
    if isinstance(config, Experiment):
        experiment = parse_config(overridden(config.model_dump(mode="json"), overrides or {}))
    else:
        experiment = load_config(config, overrides)
    directory = run_folder(run_dir if run_dir is not None else experiment.name)
    invocation = Invocation(
        directory,
        config=Path(config) if not isinstance(config, Experiment) else None,
        overrides=given,
        in_python=data is not None or isinstance(config, Experiment),
        has_data=data is not None,
    )
    return Run(directory, _absolute(experiment), data, invocation)


def load_run(run_dir: str | Path, overrides: Mapping[str, Any] | None = None) -> Run:
    """The run in an existing folder; StoreError if there is none."""
    directory = expanded(run_dir)
    if not (directory / "run.db").is_file():
        directory = run_folder(run_dir)
    if not (directory / "config.yaml").is_file():
        raise StoreError(
            f"{directory} is not the folder of a run: it has no config.yaml; see hwnas run --help"
        )
    experiment = load_config(directory / "config.yaml", overrides)
    return Run(directory, _absolute(experiment), invocation=Invocation(directory, overrides=overrides or {}))


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
        raise StoreError(f"{run.directory} has no supernet yet; run: {run.invocation.finish('train')}")
    outputs = trained["outputs"]
    kept, table = directory / TABLE_FILE, expanded(table)
    runtime = LatencyTable.load(table if table.exists() or not kept.exists() else kept).runtime
    of_table = {
        "source": "table",
        "table": str(table.resolve()),
        "device": runtime["name"] if runtime["name"] in DEVICES else run.config.latency.device,
        "threads": runtime.get("threads") or run.config.latency.threads,
        "cores": None,  # those of the first device say nothing of another
    }
    latency = run.config.latency.model_copy(update=of_table)
    invocation = replace(run.invocation, directory=directory, source=(run.directory, Path(table)))
    job = Run(directory, run.config.model_copy(update={"latency": latency}), run._data, invocation)
    stands = job.store.stage("train")
    if stands is None:
        check_unlocked(directory)
        job.check(["profile", "search"], lender=run)
        with locked(directory):
            job.open_store()
            known = job.store.copy_measurements(run.store, "accuracy", run.accuracy_source)
            refer_to_supernet(directory / "supernet", run.directory / "supernet", outputs["checksum"])
            files = {"supernet/supernet.json": file_digest(directory / "supernet" / "supernet.json")}
            outputs |= {"files": files, "accuracies": known}
            job.store.finish_stage("train", trained["inputs"], outputs)
    elif stands["outputs"]["checksum"] != outputs["checksum"]:
        raise StoreError(
            f"{directory} refers to another supernet than that of {run.directory}; use another folder: "
            f"{invocation.elsewhere('train', ['profile', 'search'])}"
        )
    return job


def _absolute(experiment: Experiment) -> Experiment:
    """The experiment with the paths in it absolute, so that it means the same from any folder."""
    latency, data, training = experiment.latency, experiment.data, experiment.training
    if training.teacher is not None:
        training = training.model_copy(update={"teacher": str(expanded(training.teacher).resolve())})
    if latency.table is not None:
        latency = latency.model_copy(update={"table": str(expanded(latency.table).resolve())})
    further = {name: str(expanded(table).resolve()) for name, table in latency.further_tables.items()}
    latency = latency.model_copy(update={"further_tables": further})
    if isinstance(path := data.parameters.get("path"), str):
        data = Named.model_validate({**data.model_dump(), "path": str(expanded(path).resolve())})
    return experiment.model_copy(update={"latency": latency, "data": data, "training": training})


# What a Run keeps once it was asked for, and must forget when a stage is made again.
DERIVED = (
    "table",
    "latency",
    "further_tables",
    "supernet",
    "evaluator",
    "judge",
    "objectives",
    "searched",
    "predicted_accuracy",
)


class Run:
    """A run's folder: its experiment, and what the finished stages left there."""

    def __init__(
        self,
        directory: Path,
        config: Experiment,
        data: Mapping[str, Dataset] | None = None,
        invocation: Invocation | None = None,
    ) -> None:
        """Open a run; a folder without run.db is left as it is until the first stage begins.

        Args:
            directory: Folder of the run.
            config: Its experiment.
            data: Splits that need not be loaded, by name.
            invocation: How the user opened the run; by default by its folder.
        """
        self.directory = directory
        self.config = config
        self._given = dict(data or {})
        self._trains_anew = False  # a restart is about to replace the training in this folder
        self._data = dict(self._given)
        self.invocation = Invocation(directory) if invocation is None else invocation
        self._stages: tuple[str, ...] = ()  # that the user asked for
        check_written(directory)
        exists = (directory / "run.db").exists()
        self.store = Store(directory / "run.db" if exists else None)  # in memory until a stage begins
        self.watch: Watch | None = None  # called while a search is running
        self.device: str | None = None  # where the run's own device is, if not where the experiment says
        self.cores: Sequence[int] | None = None  # cores to verify on; None: those of the experiment

    # ---- stages ---------------------------------------------------------------------------------

    def make(
        self,
        names: Sequence[str],
        display: Display = no_display,
        restart: str | None = None,
        extend: bool = False,
    ) -> None:
        """Make stages in order, except those that are finished and up to date.

        Everything that can be checked is checked before the folder is changed.

        Args:
            names: Stages to make.
            display: Shows the progress of each stage.
            restart: One of `names` to make again even if it is finished, with the stages that follow from
                it; "all" for all of them.
            extend: Whether a finished search continues if the experiment has more evaluations now.

        Raises:
            ConfigError: `restart` is none of `names`, or an option does not fit.
            StoreError: A stage was made with other inputs or was changed since, or another process works in
                the folder.
        """
        if self.follows:
            self._check_settings(names, restart)
            if restart is not None or self.store.stage("train") is None:
                train_supernet(self, silent)
            return
        if restart is not None or extend or any(self.store.stage(name) is None for name in names):
            check_unlocked(self.directory)
        pending = self.check(names, restart, extend, display=display)
        if not pending and not self._data_moved:  # nothing is written: the folder may be read-only
            return
        with locked(self.directory):
            before = {name: self.store.stage(name) for name in STAGES}
            self.open_store()
            if before != {name: self.store.stage(name) for name in STAGES}:  # another process was faster
                pending = self.check(names, restart, extend, display=display)
            for i, name in enumerate(pending):
                if i > 0:  # what the stages before it made is known now
                    STAGES[name].check(self, (), restart in (name, "all"))
                if restart in (name, "all"):
                    self._reset(name)
                elif self.store.stage(name) is not None:  # a finished search that is extended
                    self._reopen(name)
                self._make(name, display)
            if self._data_moved:  # all stages are up to date, so the images are the same
                self._describe()

    def check(
        self,
        names: Sequence[str],
        restart: str | None = None,
        extend: bool = False,
        lender: Run | None = None,
        display: Display = no_display,
    ) -> list[str]:
        """Check all that can be checked of stages before the folder is changed.

        Args:
            names: Stages to make.
            restart: As for `make`.
            extend: As for `make`.
            lender: Run whose finished supernet this run will refer to.
            display: Shows the progress of the check of image files.

        Returns:
            The stages that are not up to date, in order.

        Raises:
            HwnasError: A stage could not be made; the message says why.
        """
        self._check_settings(names, restart)
        self._stages = tuple(names)
        pending: list[str] = []
        for name in names:
            needed = needed_by(name)
            for other in needed:
                if other not in pending:
                    owner = lender if lender is not None and other == "train" else self
                    owner._check_up_to_date(other, name)
            again = restart in (name, "all")
            done = self.store.stage(name)
            if done is not None and not again and not set(needed) & set(pending):
                extends = extend and name == "search" and restart is None
                self._check_up_to_date(name, name, "search.evaluations" if extends else "")
                before = done["inputs"]["search"]["evaluations"] if extends else 0
                if not extends or self.config.search.evaluations == before:
                    log.info("%s: done before", name)
                    continue
                self.check_no_fewer(before)
            if name == "train":
                self._check_data(display(name), again)
            STAGES[name].check(self, pending, again)
            pending.append(name)
        return pending

    def _check_settings(self, names: Sequence[str], restart: str | None) -> None:
        """Check what the experiment and the options say by themselves."""
        if restart not in (None, "all", *names):
            raise ConfigError(
                f"--restart {restart}: this makes {', '.join(names)}; choose one of these, or all"
            )
        section = self.config.search
        check_strategy(section.strategy, section.objectives, self.bounds, **self._options)
        if "search" in names:  # what is missing is said before the training
            self._executor  # noqa: B018 (checks its options)
            if section.tensorboard:
                summary_writer()
        if "export" in names and self.config.export.openvino:
            from hwnas.export.openvino import load_openvino

            load_openvino()
        training = self.config.training.strategy
        check_training_strategy(training.name, training.parameters)
        if os.environ.get("WORLD_SIZE", "1") != "1" and list(names) != ["train"]:
            raise ConfigError(
                f"several processes only train: torchrun … -m hwnas train; {', '.join(names)} in one process"
            )

    def open_store(self) -> None:
        """Open run.db, and create it if need be; the caller holds the lock of the folder."""
        if self.store.path is None:
            self.store = Store(self.directory / "run.db")

    def close(self) -> None:
        """Close run.db."""
        self.store.close()

    @property
    def follows(self) -> bool:
        """Whether this is one of torchrun's processes, and not the first: it trains along, no more."""
        return os.environ.get("RANK", "0") != "0"

    def _make(self, name: str, display: Display) -> None:
        inputs = self._inputs(name)
        self._describe()
        with logging_to(self.directory / "hwnas.log"):
            log.info("%s: started", name)
            start = time.perf_counter()
            outputs, files = STAGES[name].make(self, display(name))
            seconds = time.perf_counter() - start
            digests = {file: file_digest(self.directory / file) for file in files}
            self.store.finish_stage(name, inputs, {**outputs, "files": digests, "seconds": seconds})
            log.info("%s: finished in %.1f s", name, seconds)

    def outputs(self, name: str) -> dict[str, Any]:
        """What a finished stage made; StoreError if it is not finished."""
        done = self.store.stage(name)
        if done is None:
            raise StoreError(f"{self.directory}: {name} is not finished; run: {self.invocation.finish()}")
        return dict(done["outputs"])

    @property
    def seconds(self) -> dict[str, float]:
        """How long each finished stage took, by name."""
        done = {name: self.store.stage(name) for name in STAGES}
        return {name: stage["outputs"]["seconds"] for name, stage in done.items() if stage is not None}

    def _reset(self, name: str) -> None:
        """Forget a stage and what follows from it."""
        self._reopen(name)
        self._trains_anew = False
        for stage in (name, *STAGES[name].followers):
            STAGES[stage].forget(self)

    def _reopen(self, name: str) -> None:
        """Mark a stage, and what follows from it, as unfinished."""
        self.store.reopen_stages([name, *STAGES[name].followers])
        for derived in DERIVED:
            self.__dict__.pop(derived, None)

    def check_no_fewer(self, before: int) -> None:
        """Check that the experiment asks for no fewer evaluations than the search has.

        Args:
            before: Number of evaluations of the search.

        Raises:
            ConfigError: The experiment asks for fewer.
        """
        if self.config.search.evaluations < before:
            raise ConfigError(
                f"{self.directory}: the search has {before} evaluations, {self.config.search.evaluations} "
                "would be fewer; give at least as many, or search again from the beginning: "
                f"{self.invocation.remake('search', self._stages)}"
            )

    def _inputs(self, name: str) -> dict[str, Any]:
        """What a stage is made from, as it is stored."""
        inputs: dict[str, Any] = json.loads(json.dumps(STAGES[name].inputs(self)))
        return inputs

    def _check_up_to_date(self, name: str, user: str, ignored: str = "") -> None:
        """Check that a finished stage is up to date.

        Args:
            name: Name of the stage.
            user: Stage that needs it.
            ignored: Input that may differ.

        Raises:
            StoreError: The stage is not finished, has other inputs now, or its files were changed.
        """
        invocation, done = self.invocation, self.store.stage(name)
        if done is None:
            raise StoreError(
                f"{self.directory}: {user} needs {name}, which is not finished; run: {invocation.finish()}"
            )
        sections = STAGES[name].sections
        before, now = (
            dict(flat(canonical(inputs, sections))) for inputs in (done["inputs"], self._inputs(name))
        )
        differing = [
            f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key != ignored and not key.startswith(INCIDENTAL)
        ]
        remake = invocation.remake(name, self._stages)
        if differing:
            key, extend = "search.evaluations", ""
            if name == "search" and len(differing) == 1 and before[key] < now[key]:
                extend = f"; or continue the search: {invocation.extend(now[key])}"
            raise StoreError(
                f"{self.directory}: {name} was made with other inputs: {'; '.join(differing[:5])}. "
                "Undo the change, or keep this folder and use another one: "
                f"{invocation.elsewhere(name, self._stages)}; or replace what {name} made here: "
                f"{remake}{extend}"
            )
        for file, sha256 in done["outputs"]["files"].items():
            path = self.directory / file
            if not path.is_file() or file_digest(path) != sha256:
                state = "was changed" if path.is_file() else "is gone"
                raise StoreError(
                    f"{path} {state} since {name} made it; restore it from a copy, or make it again: {remake}"
                )

    @property
    def _data_moved(self) -> bool:
        """Whether config.yaml names another location of the images than the experiment."""
        path = self.directory / "config.yaml"
        if not path.exists():
            return False
        before, now = load_config(path).data.parameters, self.config.data.parameters
        return any(before.get(key) != now.get(key) for key in INCIDENTAL_KEYS)

    def _describe(self) -> None:
        """config.yaml, complete and its paths absolute, and environment.json."""
        described = self.config.model_copy(update={"data": self.named_data})
        text = yaml.safe_dump(described.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_text(self.directory / "config.yaml", text)
        write_json(self.directory / "environment.json", environment())

    # ---- what the experiment names --------------------------------------------------------------

    @property
    def named_data(self) -> Named:
        """The dataset that the experiment names, with the reader of its image files.

        The experiment's own reader comes first, then the reader of the training that began in this folder,
        then the current one.
        """
        named = self.config.data
        if named.name != "imagefolder" or "reader" in named.parameters:
            return named
        reading = self._recorded_reading()
        reader = READER if reading is None else reading.get("reader") or OLD_READER
        return Named.model_validate({**named.model_dump(), "reader": reader})

    def _recorded_reading(self) -> dict[str, Any] | None:
        """How the training that began in this folder reads images; None if none began or it restarts."""
        if self._trains_anew:
            return None
        done = self.store.stage("train")
        if done is not None:
            reader, left_out = done["inputs"]["data"].get("reader"), done["outputs"].get("left_out", {})
            return {"reader": reader, "left_out": left_out}
        path = self.directory / "supernet" / "checkpoint.safetensors"
        if not path.exists():
            return None
        from hwnas.training.checkpoint import recorded_reading

        return recorded_reading(path)

    def _check_data(self, progress: Progress, again: bool) -> None:
        """Read all splits and decode each streamed file once before the first step of a training.

        The only file that this may write is the record of the files that were decoded.

        Args:
            progress: Called for every part of the files.
            again: Whether the training is made anew, so that its recorded reader and files do not count.

        Raises:
            DamagedImagesError: Files cannot be read as images; it lists those of all splits.
        """
        from hwnas.training.data import Check, check_files
        from hwnas.training.data.stored import CHECKED_FILE, damaged_images

        if again:
            self._data = dict(self._given)
        self._trains_anew = again
        damaged: dict[str, str] = {}
        for split in SPLITS:
            try:
                data = self.data(split, progress)
                self._data |= check_files({split: data}, Check(self.directory / CHECKED_FILE, progress))
            except DamagedImagesError as error:
                damaged |= error.files
        if damaged:
            raise damaged_images(damaged)

    def data(self, split: Literal["train", "validation", "test"], progress: Progress = silent) -> Dataset:
        """One split of the experiment's data; `progress` reports files that are checked."""
        if split not in self._data:
            from hwnas.training.data import Check, check_splits, read_dataset
            from hwnas.training.data.stored import CHECKED_FILE

            named, reading = self.named_data, self._recorded_reading() or {}
            left_out = {"left_out": reading["left_out"]} if reading.get("left_out") else {}
            parameters = {**named.parameters, **left_out}
            check = Check(self.directory / CHECKED_FILE, progress)
            data = read_dataset(named.name, split, self.config.seed, parameters, check)
            check_splits({**self._data, split: data})
            self._data[split] = data
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

                named = self.named_data
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
    def supernet(self) -> WeightSharing:
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

    @property
    def searches_int8(self) -> bool:
        """Whether networks in 8 bits are among those that the search chooses from."""
        return isinstance(self.space, PrecisionSpace) and "int8" in self.space.precisions

    @cached_property
    def judge(self) -> AccuracyEvaluator | PrecisionEvaluator:
        """Validation accuracy of the space's architectures, of each in its precision."""
        if not self.searches_int8:
            return self.evaluator
        from hwnas.export.quantize import PrecisionEvaluator

        return PrecisionEvaluator(self.evaluator, self.config.seed)

    # ---- what was found -------------------------------------------------------------------------

    @property
    def accuracy_source(self) -> str:
        """Of all that an accuracy depends on: shared by all searches that evaluate a supernet in one way."""
        checksum, trained = self.outputs("train")["checksum"], self.store.stage("train") or {}
        return digest(
            {
                "supernet": checksum,
                "data": trained["inputs"]["data"],  # the folder may have moved since
                "images": self.data("validation").checksum,
                "seed": self.config.seed,
                "calibration_images": self.config.search.calibration_images,
            }
        )

    @property
    def exact(self) -> dict[str, Evaluate]:
        """The metrics that need no evaluation, by name; latency is one unless each network is timed."""
        return self.exact_metrics(self.latency, self.further_tables)

    def exact_metrics(
        self,
        latency: LatencyTable | LatencyPredictor | MeasuredLatency,
        further_tables: Mapping[str, LatencyTable],
    ) -> dict[str, Evaluate]:
        """Name the metrics that need no evaluation.

        Args:
            latency: Source of `latency_ms`.
            further_tables: Tables of other devices, by metric.

        Returns:
            The function of each metric, by its name.
        """
        own = {} if isinstance(latency, MeasuredLatency) else {"latency_ms": latency.latency_ms}
        further = {metric: table.latency_ms for metric, table in further_tables.items()}
        return {**own, **further, **{name: getattr(self.space, name) for name in COSTS}}

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
        section = self.config.search
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
            self._constraints,
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
    def _constraints(self) -> list[Constraint]:
        """The bounds, as a search takes them."""
        exact, named = self.exact, self.config.search.objectives
        return [c if c.name in named else replace(c, evaluate=exact[c.name]) for c in self.bounds]

    @property
    def _executor(self) -> Executor:
        """What evaluates the search."""
        section = self.config.search
        if section.executor != "serial" and self.config.latency.source == "measured":
            raise ConfigError(
                f"latency.source: measured times one network at a time on a quiet machine, search.executor: "
                f"{section.executor} evaluates several; set search.executor: serial, or learn latencies: "
                "latency.source: predictor"
            )
        return get_executor(
            section.executor, section.workers, section.ray_address, section.evaluation_time_limit_s
        )

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

    @property
    def searched_so_far(self) -> SearchResult:
        """The search, finished or not, such as one that is running; StoreError if it has not begun."""
        if self.store.stage("search") is not None or not self.store.rounds("search"):
            return self.searched
        section = self.config.search
        return SearchSession(
            self.space,
            self.objectives,
            self._constraints,
            section.strategy,
            self.config.seed,
            self.store,
            lag=section.lag,
            **self._options,
        ).result

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
            others = np.flatnonzero(fold != held_out)
            others = others[:: -(-len(others) // LEARNT)]
            predictor.fit(features[others], accuracy[others])
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
                **{name: getattr(self.space, name)(archs).astype(np.int64) for name in COSTS},
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
        path = self.directory / "pareto.json"
        data = read_json(path)
        if data.get("schema") != PARETO_SCHEMA:
            raise StoreError(
                f"{path} has schema {data.get('schema')!r}, this hwnas reads {PARETO_SCHEMA}; use the hwnas "
                "that wrote it"
            )
        models: Any = data.get("models")
        named = isinstance(models, list) and all(isinstance(e, dict) and "id" in e for e in models)
        if not named:
            raise StoreError(f"{path} does not hold a list of models; restore it from a copy")
        for entry in models:
            model_folder(self, entry["id"])
        return list(models)

    @property
    def front(self) -> ParetoFront:
        """The front by validation accuracy and measured latency; needs a verified run (else StoreError)."""
        return ParetoFront.of([evaluation for _, evaluation in self.measured], self.objectives)

    @property
    def measured(self) -> list[tuple[dict[str, Any], Evaluation]]:
        """The entries of pareto.json that keep a budget, each also as an evaluation by measured latency."""
        self.outputs("verify")
        return [(entry, evaluation_of(self, entry)) for entry in self.models if entry["status"] != "missed"]

    def summary(self) -> dict[str, Any]:
        """Plain data on what the run has so far: models, budgets, and where the report is."""
        verified = self.store.stage("verify") is not None
        report = self.directory / "report.html"
        models: list[dict[str, Any]] = []
        if verified:
            models = self.models
        elif self.store.stage("export") is not None:
            models = [read_entry(self, name) for name in self.outputs("search")["front"]]
        searched = {} if self.store.stage("search") is None else self.outputs("search")
        return {
            "run": str(self.directory),
            "evaluations": searched.get("evaluations", 0),
            "failed": searched.get("failed", 0),
            "error": searched.get("error"),  # of the last that failed
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
        return self.run.judge(archs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.run.judge, "__call__")


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
