"""Which subnets a training step trains, and on what: one small class a strategy.

    strategy = get_strategy("attentive", space, steps=1500, random_subnets=2, candidates=3)
    strategy.subnets(step, rng, batch_loss)

What a step draws follows from the step and the generator it is given, never from earlier steps. `hwnas.train`
also takes a class of a user, derived from `Strategy`, or an object of it. No torch in here.
"""

from __future__ import annotations

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import TrainingError, known_names
from hwnas.plugins import check_methods, is_factory
from hwnas.spaces import Architecture, Architectures, NetworkSpace
from hwnas.spaces.base import Genotypes

# The loss of a subnet on the labels of the step's batch.
BatchLoss = Callable[[Architecture], float]


@dataclass(frozen=True)
class Subnet:
    """A subnet of a step, and the weights of its loss on labels and of that towards the teacher.

    The first subnet of a step teaches the others where no other teacher is there.
    """

    arch: Architecture
    labels: float
    teacher: float


@dataclass(frozen=True)
class Phase:
    """Steps from `start` to before `end` with a warm-up, a cosine and a momentum of their own.

    `learning_rate` is its peak as a share of the training's. Before the first step, `sort_channels` puts the
    channels that matter most first, within those of the values, by choice and position, that were trained so
    far, and `keep_teacher` has the largest subnet teach from then on as it is.
    """

    start: int
    end: int
    learning_rate: float = 1.0
    sort_channels: tuple[tuple[int, ...], ...] | None = None
    keep_teacher: bool = False


class Strategy(ABC):
    """Base class of training strategies: the phases, and the subnets of a step.

    `parameters`, if there are any, are the options that it was made with, as plain data: a checkpoint is not
    resumed with others.
    """

    taught = True  # whether any subnet learns from a teacher

    def __init__(self, space: NetworkSpace, steps: int) -> None:
        self.space = space
        self.phases: tuple[Phase, ...] = (Phase(0, steps),)  # in order; together they are all steps

    @abstractmethod
    def subnets(self, step: int, rng: np.random.Generator, batch_loss: BatchLoss) -> list[Subnet]:
        """The subnets of a step, in the order in which they are trained; at least one."""


class Sandwich(Strategy):
    """The largest on labels; the smallest and random ones on what it says: arXiv 2003.11142."""

    def __init__(self, space: NetworkSpace, steps: int, random_subnets: int = 2) -> None:
        super().__init__(space, steps)
        self.random_subnets = random_subnets
        self._largest, self._smallest = space.largest(), space.smallest()

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: BatchLoss) -> list[Subnet]:
        between = self._between(rng, batch_loss)
        students = [Subnet(arch, labels=0, teacher=1) for arch in (self._smallest, *between)]
        return [Subnet(self._largest, labels=1, teacher=0), *students]

    def _between(self, rng: np.random.Generator, batch_loss: BatchLoss) -> list[Architecture]:
        return list(self.space.sample(self.random_subnets, rng))


class Uniform(Strategy):
    """One random subnet on labels (single path one-shot): arXiv 1904.00420."""

    taught = False

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: BatchLoss) -> list[Subnet]:
        return [Subnet(self.space.sample(1, rng)[0], labels=1, teacher=0)]


POOL = 20000  # random architectures that say how MACs are distributed
BUCKETS = 72  # of the space's MACs, as 25 MMACs are of 200 to 2000 in the paper
DRAWN = 128  # at once, of which those of the wanted MACs are kept


class Attentive(Sandwich):
    """The sandwich rule whose random subnets are the best or the worst for their MACs: arXiv 2011.09011.

    A random architecture says how many MACs are wanted; `candidates` are drawn that have as many, and the
    one with the highest (``mode: worst``) or the lowest (``mode: best``) loss on the batch is trained.
    `bucket_mmacs` is how many million MACs apart two architectures may be that have as many; without it, a
    72nd of the space's range. Candidates are drawn choice by choice from the random architectures of the
    bucket, and kept if they fall into it; those architectures themselves stand in for what is missing.
    """

    def __init__(
        self,
        space: NetworkSpace,
        steps: int,
        random_subnets: int = 2,
        mode: str = "worst",
        candidates: int = 3,
        bucket_mmacs: float | None = None,
    ) -> None:
        super().__init__(space, steps, random_subnets)
        if mode not in ("best", "worst"):
            raise TrainingError(f"strategy attentive: mode is {mode!r}; give best or worst")
        if not isinstance(candidates, int) or isinstance(candidates, bool) or candidates < 1:
            raise TrainingError(f"strategy attentive: candidates is {candidates!r}; give 1 or more")
        if bucket_mmacs is not None and not (isinstance(bucket_mmacs, (int, float)) and bucket_mmacs > 0):
            raise TrainingError(
                f"strategy attentive: bucket_mmacs is {bucket_mmacs!r}; give a positive number"
            )
        self.mode = mode
        self.candidates = candidates
        rng = np.random.default_rng(0)
        pool = space.sample(POOL, rng)
        low, high = space.macs([space.smallest()])[0], space.macs([space.largest()])[0]
        self._low = low
        self._width = max((high - low) / BUCKETS, 1.0) if bucket_mmacs is None else 1e6 * bucket_mmacs
        self._bucket_of = self._buckets(pool.genotypes)
        # Inactive choices carry no information: drawn at random, they do not favour the first value.
        drawn = rng.integers(0, space.cardinalities, pool.genotypes.shape)
        self._pool = np.where(space.active(pool), pool.genotypes, drawn)

    def _between(self, rng: np.random.Generator, batch_loss: BatchLoss) -> list[Architecture]:
        return [self._attended(rng, batch_loss) for _ in range(self.random_subnets)]

    def _attended(self, rng: np.random.Generator, batch_loss: BatchLoss) -> Architecture:
        bucket = self._bucket_of[rng.integers(POOL)]
        archs = list(self.drawn(bucket, self.candidates, rng))
        losses = [batch_loss(arch) for arch in archs]
        return archs[int(np.argmax(losses) if self.mode == "worst" else np.argmin(losses))]

    def drawn(self, bucket: int, n: int, rng: np.random.Generator) -> Architectures:
        """n architectures of a bucket of MACs that is not empty."""
        members = self._pool[self._bucket_of == bucket]
        rows = rng.integers(0, len(members), (DRAWN, members.shape[1]))
        found = self.space.canonical(np.take_along_axis(members, rows, axis=0))
        found = found[self.space.valid(found) & (self._buckets(found) == bucket)][:n]
        rest = members[rng.integers(0, len(members), n - len(found))]
        return self.space.architectures(np.concatenate([found, rest]))

    def _buckets(self, genotypes: Genotypes) -> NDArray[np.int64]:
        return np.asarray((self.space.macs(genotypes) - self._low) // self._width, dtype=np.int64)


@dataclass(frozen=True)
class Shrink:
    """A row of Once-for-All's schedule: what it opens, for how long, and how.

    From then on the choices named `opens` may take the largest `values` of their values (all where that is
    0); `epochs` and `learning_rate` are the paper's, `subnets` how many a step trains.
    """

    opens: str
    values: int
    epochs: int
    learning_rate: float
    subnets: int


OFA_SCHEDULE = (
    Shrink("", 0, 180, 2.6, 1),
    Shrink("kernel", 0, 125, 0.96, 1),
    Shrink("depth", 2, 25, 0.08, 2),
    Shrink("depth", 0, 125, 0.24, 2),
    Shrink("expand", 2, 25, 0.08, 4),
    Shrink("expand", 0, 125, 0.24, 4),
    Shrink("width", 2, 25, 0.08, 4),
    Shrink("width", 0, 125, 0.24, 4),
)


FREE = ("resolution", "precision")  # choices that every phase leaves open
OPENED_AS = {"block": "depth", "mid": "width"}  # choices that a phase of another name opens


class Progressive(Strategy):
    """Progressive shrinking: arXiv 1908.09791. The largest, then smaller kernels, depths, expansions, widths.

    Each phase keeps what the ones before opened; resolution and precision are free throughout. After the
    first, the largest subnet as it then is teaches, beside the labels; channels are sorted before each phase
    that shrinks expansions, before the second within what the first opened, as the paper's own code does.
    Steps and learning rates are divided as the paper's, among the phases that open something in this space
    (widths of stages, which the paper's space does not choose, as expansions; their channels stay unsorted).
    """

    def __init__(self, space: NetworkSpace, steps: int) -> None:
        super().__init__(space, steps)
        ordered = [np.argsort(np.array(choice.values)) for choice in space.choices]
        self._allowed: list[list[NDArray[np.int64]]] = []
        self._rows: list[Shrink] = []
        names = [choice.name.rpartition(".")[2] for choice in space.choices]
        fields = [OPENED_AS.get(name, name) for name in names]
        allowed = [o if f in FREE else o[-1:] for f, o in zip(fields, ordered, strict=True)]
        for row in OFA_SCHEDULE:
            wider = [
                o[-row.values :] if f == row.opens else a
                for f, o, a in zip(fields, ordered, allowed, strict=True)
            ]
            if row.opens and list(map(len, wider)) == list(map(len, allowed)):
                continue
            allowed = wider
            self._rows.append(row)
            self._allowed.append(allowed)
        closed = [c.name for c, a in zip(space.choices, allowed, strict=True) if len(a) < len(c.values)]
        if closed:
            raise TrainingError(
                f"strategy progressive has no phase for {', '.join(closed)}; it opens choices named "
                "kernel, depth, expand and width; choose another strategy"
            )
        if steps < len(self._rows):
            raise TrainingError(
                f"strategy progressive has {len(self._rows)} phases, training.steps is {steps}; give more"
            )
        self.phases = self._phases(steps)

    def _phases(self, steps: int) -> tuple[Phase, ...]:
        """The steps divided as the paper's epochs, at least one a phase."""
        epochs = np.array([row.epochs for row in self._rows])
        ends = np.rint(steps * epochs.cumsum() / epochs.sum()).astype(int)
        number = np.arange(len(ends))
        ends = np.maximum.accumulate(np.maximum(ends - number, 1)) + number  # each after the one before
        ends = np.minimum(ends, steps - number[::-1])
        peak = OFA_SCHEDULE[0].learning_rate
        return tuple(
            Phase(
                start,
                end,
                row.learning_rate / peak,
                self._opened(i - 1) if row.opens == "expand" else None,
                keep_teacher=i == 1,
            )
            for i, (row, (start, end)) in enumerate(
                zip(self._rows, itertools.pairwise([0, *ends.tolist()]), strict=True)
            )
        )

    def _opened(self, phase: int) -> tuple[tuple[int, ...], ...]:
        """By choice, the positions of the values that subnets of a phase may have."""
        return tuple(tuple(positions.tolist()) for positions in self._allowed[phase])

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: BatchLoss) -> list[Subnet]:
        phase = next(i for i, phase in enumerate(self.phases) if step < phase.end)
        archs = self.space.sample(self._rows[phase].subnets, rng, self._allowed[phase])
        return [Subnet(arch, labels=1, teacher=float(phase > 0)) for arch in archs]


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "sandwich": Sandwich,
    "attentive": Attentive,
    "progressive": Progressive,
    "uniform": Uniform,
}


FIELDS = ("space", "steps", "random_subnets")  # of a strategy that are no parameters in an experiment


def get_strategy(
    strategy: str | Strategy | Callable[..., Strategy],
    space: NetworkSpace,
    steps: int,
    random_subnets: int = 2,
    parameters: Mapping[str, Any] | None = None,
) -> Strategy:
    """Return the strategy of a training.

    Args:
        strategy: A name of `STRATEGIES`; or a class or function that is called with `space` and `steps`; or
            an object with the members of `Strategy`, which is returned.
        space: Space of the supernet.
        steps: Number of steps.
        random_subnets: Number of random subnets of a step, for named strategies that draw some.
        parameters: Further arguments of the class or function.

    Raises:
        TrainingError: If a name or parameter is unknown, a value is wrong, or the object lacks a member.
    """
    parameters = parameters or {}
    if isinstance(strategy, str):
        check_strategy(strategy, parameters)
        beside = {"random_subnets": random_subnets} if draws_subnets(strategy) else {}
        return STRATEGIES[strategy](space, steps, **beside, **parameters)
    made: Any = strategy
    if is_factory(strategy, Strategy):
        made = strategy(space, steps, **parameters)
    check_methods(made, Strategy, "training strategy", TrainingError)
    for attribute in ("space", "phases", "taught"):
        if not hasattr(made, attribute):
            raise TrainingError(
                f"training strategy {type(made).__name__} has no attribute {attribute!r}; derive the class "
                f"from {Strategy.__module__}.{Strategy.__name__}, which has it"
            )
    return cast(Strategy, made)


def draws_subnets(name: str) -> bool:
    """Whether the strategy of this name is told how many random subnets a step trains."""
    return "random_subnets" in inspect.signature(STRATEGIES[name]).parameters


def check_strategy(name: str, parameters: Mapping[str, Any]) -> None:
    """TrainingError for an unknown strategy or parameter; costs nothing."""
    if name not in STRATEGIES:
        raise TrainingError(f"unknown training.strategy {name!r}; {known_names(name, STRATEGIES)}")
    known = [p for p in inspect.signature(STRATEGIES[name]).parameters if p not in FIELDS]
    for parameter in parameters:
        if parameter not in known:
            raise TrainingError(
                f"training.strategy {name} has no parameter {parameter!r}; "
                f"it has {', '.join(known) or 'none'}"
            )
