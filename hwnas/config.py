"""An experiment: what one YAML file may say, checked, with unknown keys refused.

load_config("configs/digits.yaml", {"search.evaluations": 50})
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hwnas.errors import ConfigError, known_names
from hwnas.files import expanded
from hwnas.text import one_line

GIVEN_DATA = "given in Python"  # data.name where the data came as an argument
# Of a network, known without evaluation: methods of a `NetworkSpace`.
COSTS = ("macs", "params", "model_bytes", "peak_activation_bytes")


NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # of what becomes part of a path
MOST_LETTERS = 100  # of such a name; file systems take 255 bytes
MOST = 10**9  # of any whole number but the seed; none that is larger is meant


# New name of each renamed field by its old dotted key, such as {"training.average": "ema_decay"}. Experiments
# and stored inputs of runs (see `hwnas.inputs`) that have the old name are read.
RENAMED: dict[str, str] = {}

MAX_CORE = 8191  # Linux supports 8192 cores
Core = Annotated[int, Field(ge=0, le=MAX_CORE)]  # number of a core


def parse_cores(text: str) -> tuple[int, ...]:
    """Return the cores that a list in the form of taskset's names.

    Args:
        text: numbers and ranges of numbers, such as ``0-3,6``.

    Returns:
        The numbers in ascending order, each once.

    Raises:
        ValueError: if the text is not of that form.
    """
    cores: set[int] = set()
    for part in text.split(","):
        ends = re.fullmatch(r"\s*([0-9]{1,4})(?:-([0-9]{1,4}))?\s*", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
        if not first <= last <= MAX_CORE:
            raise ValueError(f"{text!r} is no list of cores; give numbers and ranges, such as 4-7 or 0,2")
        cores.update(range(first, last + 1))
    return tuple(sorted(cores))


class Section(BaseModel):
    """A part of an experiment: immutable; unknown keys, NaN, infinity and huge numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("true and false are no value for this")
        return value

    @field_validator("*")
    @classmethod
    def _no_huge_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int) and value > MOST and info.field_name != "seed":
            raise ValueError(f"whole numbers are at most {MOST:,}")
        return value


class Named(BaseModel):
    """A thing chosen by name; the other keys are the parameters of its class, which checks them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """All keys but the name."""
        return dict(self.model_extra or {})


class Training(Section):
    """How the supernet is trained; by default the sandwich rule with in-place distillation (BigNAS)."""

    strategy: Named = Named(name="sandwich")  # or attentive, progressive, uniform; a name, or with parameters
    loss: Literal["kd", "alpha"] = "kd"  # towards the teacher: cross-entropy, or AlphaNet's divergence
    teacher: str | None = None  # a run or supernet whose largest subnet teaches; null: the one in training
    steps: int = Field(1500, ge=1)  # optimiser steps; each trains the strategy's subnets, by default four
    batch_size: int = Field(64, ge=2)  # images a step, of all processes together
    accumulate: int = Field(1, ge=1)  # equal parts of a process's batch, computed one after another
    learning_rate: float = Field(0.1, gt=0)  # peak of the cosine schedule
    warmup_steps: int = Field(50, ge=0)  # steps of linear warm-up; half of all at most
    momentum: float = Field(0.9, ge=0, lt=1)  # Nesterov momentum of SGD
    weight_decay: float = Field(1e-5, ge=0)  # of weights; batch norm and biases have none
    label_smoothing: float = Field(0.1, ge=0, lt=1)  # of hard labels
    kernel_transform: bool = False  # smaller kernels by matrices from larger ones (OFA), not their centres
    random_subnets: int = Field(2, ge=0)  # random subnets a step, beside the largest and the smallest
    clip_value: float | None = Field(1.0, gt=0)  # gradients are clipped to ± this; null: not at all
    dropout: float = Field(0, ge=0, lt=1)  # before the classifier, where labels alone teach: the largest
    drop_connect: float = Field(0, ge=0, lt=1)  # of what the last blocks add, less before; there too
    average: float = Field(0, ge=0, lt=1)  # decay of a moving average of the weights, the result; 0: none
    crop_padding: int = Field(0, ge=0)  # pixels of random shift; 0: none
    crop_area: float = Field(1, gt=0, le=1)  # share of the area that a stretched crop keeps; 1: all
    flip: bool = False  # random horizontal flip
    trivial_augment: bool = False  # one random operation of TrivialAugment's wide space on each image
    cutout: int = Field(0, ge=0)  # side of a square that is blanked in each image, in pixels; 0: none
    mixup: float = Field(0, ge=0)  # alpha of the Beta distribution by which images are mixed; 0: none
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: whichever a short measurement finds faster
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where there is a GPU
    threads: int = Field(2, ge=1, le=1024)  # torch's threads, of each process
    report_every: int = Field(200, ge=1)  # steps between checkpoints, each with largest and smallest judged

    @property
    def recipe(self) -> dict[str, Any]:
        """All settings that say what is trained, and none that says how often that is looked at."""
        return self.model_dump(exclude={"report_every"})

    @field_validator("strategy", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Latency(Section):
    """The device, where latencies come from, and the budgets."""

    device: str = "onnxruntime"  # see `hwnas list devices`
    threads: int = Field(1, ge=1, le=1024)  # threads of one inference
    cores: tuple[Core, ...] | None = Field(None, min_length=1)  # the only ones to time on; none: the fastest
    batch_size: int = Field(1, ge=1)  # images of one inference; a latency is that of the whole batch
    budgets_ms: tuple[float, ...] = ()  # latency budgets; the loosest bounds the search
    source: Literal["table", "predictor", "measured"] = "table"  # operators' table; learnt; each one timed
    table: str | None = None  # a table to use instead of measuring one
    further_tables: dict[str, str] = {}  # of other devices, by a name: their metric is latency_ms@NAME
    predictor_networks: int = Field(50, ge=10)  # whole networks that source: predictor learns from
    rounds: int | None = Field(None, ge=4)  # shuffled rounds of visits; none: the protocol's own
    time_limit_s: float | None = Field(None, gt=0)  # of measuring a table; none: until it is precise
    allow_noisy: bool = False  # keep a table that other work disturbed, flagged as noisy
    calibration_networks: int = Field(48, ge=3)  # whole networks a resolution that calibrate the table
    held_out_networks: int = Field(12, ge=3)  # further ones that judge it
    verify_rounds: int = Field(48, ge=8)  # over the front's models, in six passes; more if a budget is open

    @field_validator("cores", mode="before")
    @classmethod
    def _parsed_cores(cls, cores: Any) -> Any:
        return parse_cores(str(cores)) if isinstance(cores, (str, int)) else cores

    @field_validator("cores")
    @classmethod
    def _sorted_cores(cls, cores: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if cores is None else tuple(sorted(set(cores)))

    @model_validator(mode="after")
    def _one_source(self) -> Latency:
        if self.table is not None and self.source != "table":
            raise ValueError(f"table and source: {self.source} exclude each other; leave one out")
        return self

    @field_validator("further_tables")
    @classmethod
    def _names_of_files(cls, tables: dict[str, str]) -> dict[str, str]:
        if not all(re.fullmatch(NAME, name) for name in tables):
            raise ValueError("a device's name is of letters, digits, '.', '_' and '-'")
        if any(len(name) > MOST_LETTERS for name in tables):
            raise ValueError(f"a device's name has at most {MOST_LETTERS} characters")
        return tables

    @field_validator("budgets_ms")
    @classmethod
    def _positive(cls, budgets: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < budget < float("inf") for budget in budgets):
            raise ValueError("budgets are positive numbers of milliseconds")
        return tuple(sorted(set(budgets)))


class Bounds(Section):
    """What a metric may be, inclusive; at least one of the two."""

    upper: float | None = None
    lower: float | None = None

    @model_validator(mode="after")
    def _some(self) -> Bounds:
        if self.upper is None and self.lower is None:
            raise ValueError("give an upper or a lower bound")
        if self.upper is not None and self.lower is not None and self.lower > self.upper:
            raise ValueError("lower is above upper; nothing lies between them")
        return self


class Search(Section):
    """How the Pareto front is searched."""

    strategy: str = "linas"  # see `hwnas list strategies`
    algorithm: str | None = None  # of linas' inner search; none: nsga2, see `hwnas list algorithms`
    evaluations: int = Field(200, ge=1, le=10_000_000)  # true evaluations of accuracy
    objectives: tuple[str, ...] = ("accuracy", "latency_ms")  # or COSTS, latency_ms@NAME
    constraints: dict[str, Bounds] = {}  # hard bounds, such as macs: {upper: 250e6}; latency has its budgets
    predictor: str | None = None  # of accuracy; none: the strategy's own, see `hwnas list predictors`
    calibration_images: int = Field(1024, ge=1)  # training images that batch-norm statistics are taken from
    random_baseline: bool = False  # also spend the same evaluations at random, for the report
    executor: Literal["serial", "process", "ray"] = "serial"  # what evaluates; the result is the same
    workers: int | None = Field(None, ge=1, le=10_000)  # of process and ray; none: one a core
    ray_address: str | None = None  # of a running cluster; none: RAY_ADDRESS, or this machine alone
    evaluation_time_limit_s: float | None = Field(None, gt=0)  # then it has failed; with executor: process
    lag: int = Field(0, ge=0)  # batches that may be out while the next is asked for, to keep workers busy
    tensorboard: bool = False  # also write what there is to watch to tensorboard/ in the run's folder

    @field_validator("objectives")
    @classmethod
    def _accuracy_first(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names[:1] != ("accuracy",) or len(set(names)) < len(names):
            raise ValueError("objectives are accuracy, then others, each once")
        return names


class Export(Section):
    """What is made of each model of the front, beside ONNX and safetensors in single precision."""

    openvino: bool = False  # also OpenVINO's own format, model.xml and model.bin
    int8: bool = False  # also models in 8 bits, where that is faster on the device and accurate enough
    max_accuracy_loss: float = Field(1.0, ge=0, le=100)  # points of validation accuracy that int8 may cost


class Experiment(Section):
    """One experiment file."""

    name: str = Field(max_length=MOST_LETTERS, pattern=f"^{NAME}$")  # names the run's folder
    seed: int = Field(0, ge=0, lt=2**63)  # of everything that is drawn
    data: Named  # a dataset and its parameters
    # A search space and its parameters; classes and channels come from the data. With the parameter
    # precisions: [fp32, int8] the search also chooses the precision of each network.
    space: Named
    training: Training = Training()
    latency: Latency = Latency()
    search: Search = Search()
    export: Export = Export()

    @model_validator(mode="after")
    def _metrics_are_known(self) -> Experiment:
        known = ["accuracy", "latency_ms", *COSTS]
        known += [f"latency_ms@{name}" for name in self.latency.further_tables]
        for name in (*self.search.objectives, *self.search.constraints):
            if name not in known:
                raise ValueError(
                    f"search: {name!r} is no metric of this experiment; {known_names(name, known)}"
                )
        if "latency_ms" in self.search.constraints:
            raise ValueError("search.constraints: latency_ms is bounded by latency.budgets_ms")
        return self

    @model_validator(mode="after")
    def _int8_is_judged_by_all(self) -> Experiment:
        further = [name for name in self.search.objectives if "@" in name]
        if self.export.int8 and further:
            raise ValueError(
                f"export.int8: a table says nothing of {further[0]} of a model in 8 bits, which "
                "search.objectives asks for; leave out one of the two"
            )
        return self

    @model_validator(mode="after")
    def _latency_counts(self) -> Experiment:
        if "latency_ms" not in self.search.objectives:
            if not self.latency.budgets_ms:
                raise ValueError("latency.budgets_ms: give one, or latency_ms as one of search.objectives")
            if self.latency.source == "measured":
                raise ValueError("latency.source: measured needs latency_ms as one of search.objectives")
        return self


MOST_VALUES = 100_000  # of an experiment; aliases of aliases can stand for any number in a few lines
MOST_SHOWN = 100  # characters of a wrong value
MOST_PROBLEMS = 10  # that are told at once


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key may not be given twice: the first would be lost without a word.

    Nor may aliases repeat one another without end.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"with its aliases it has more than {MOST_VALUES} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise yaml.YAMLError(f"{twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, an alias for all that it names; infinitely many within itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inside: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.MappingNode):
            inside = itertools.chain.from_iterable(node.value)
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        known[id(node)] = 1 + sum(_values(part, known) for part in inside)
    return known[id(node)]


def _plain(text: str) -> Any:
    """Plain data of YAML; YAMLError in one line for anything else."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise yaml.YAMLError(one_line(error)) from None


def _shown(value: Any) -> str:
    """A wrong value as text, if need be the beginning of it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment in a YAML file, `overrides` by dotted key applied; ConfigError says what is wrong."""
    try:
        data = _plain(expanded(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not an experiment: it holds {type(data).__name__}, not keys and values")
    return parse_config(overridden(data, overrides or {}), str(path))


def overridden(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of an experiment with fields set by dotted key; ConfigError for a key that is none."""
    changed = copy.deepcopy(dict(data))
    for key, value in overrides.items():
        _set(changed, key, value)
    return changed


def renamed(data: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Replace old names of fields by new ones; see `RENAMED`.

    Args:
        data: Plain data of an experiment, or of a section of it.
        section: Dotted key of that section.

    Returns:
        The data with new names.

    Raises:
        ConfigError: if the data has a field by both names.
    """
    result: dict[str, Any] = {}
    for name, value in data.items():
        key = f"{section}.{name}" if section else str(name)
        new = RENAMED.get(key, name)
        if new != name and new in data:
            raise ConfigError(f"{key} is the old name of {new}; leave out {name}")
        result[new] = renamed(value, key) if isinstance(value, Mapping) else value
    return result


def parse_config(data: Mapping[str, Any], origin: str = "the experiment") -> Experiment:
    """The experiment in plain data; ConfigError names each wrong field and its value."""
    try:
        return Experiment.model_validate(renamed(data))
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explained(error)}") from None


def parse_training(data: Mapping[str, Any], origin: str) -> Training:
    """Return the section `training` of an experiment.

    Args:
        data: Fields of the section.
        origin: Beginning of the error message.

    Raises:
        ConfigError: If a field is unknown or has a wrong value; the message names the field.
    """
    try:
        return Training.model_validate(renamed(data, "training"))
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explained(error, Training)}") from None


def _explained(error: ValidationError, model: type[Section] = Experiment) -> str:
    """Return what is wrong with each field of a section."""
    problems = []
    for problem in error.errors()[:MOST_PROBLEMS]:
        where = " ".join(".".join(str(part) for part in problem["loc"]).split())[:MOST_SHOWN]
        given = f" (got {_shown(problem['input'])})" if where and problem["type"] != "missing" else ""
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            known = known_names(str(problem["loc"][-1]), _known(problem["loc"], model))
            message, given = f"unknown key; {known}", ""
        problems.append(f"{where}: {message}{given}" if where else message)
    if error.error_count() > MOST_PROBLEMS:
        problems.append(f"and {error.error_count() - MOST_PROBLEMS} more")
    return "; ".join(problems)


def parse_override(text: str) -> tuple[str, Any]:
    """``search.evaluations=50`` as a dotted key and a YAML value; ConfigError if it is not of that form."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not (equals and key and key.isprintable()):
        raise ConfigError(f"--set takes key.sub=value, got {_shown(text)}")
    try:
        return key, _plain(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {_shown(value)} is not a YAML value") from None


def format_override(key: str, value: Any) -> str:
    """Write a field as ``--set`` takes it, so that `parse_override` returns the same key and value.

    Args:
        key: Dotted key of the field.
        value: Plain data.

    Returns:
        Text such as ``search.evaluations=50``.
    """
    if isinstance(value, str):
        with suppress(yaml.YAMLError):
            if value.isprintable() and _plain(value) == value:
                return f"{key}={value}"
    style = '"' if isinstance(value, str) else None
    plain = json.loads(json.dumps(value, default=str))
    text = yaml.safe_dump(
        plain, default_style=style, default_flow_style=True, width=math.inf, sort_keys=False
    )
    text = text.removesuffix("...\n").removesuffix("\n")  # the end of a YAML document
    return f"{key}={text}"


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.setdefault(parent, {}), dict):
            raise ConfigError(f"--set {key}: {parent} is not a section")
        data = data[parent]
    data[last] = value


def _known(location: tuple[int | str, ...], model: Any) -> list[str]:
    for part in location[:-1]:
        model = get_args(model)[1] if get_origin(model) is dict else model.model_fields[part].annotation
    return list(model.model_fields)
