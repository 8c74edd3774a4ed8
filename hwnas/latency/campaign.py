"""Timing in passes: models are opened afresh, visited for some rounds and closed, until enough is known.

A pass is the one unit that all else is made of. Its fresh sessions have a memory layout of their own, which
shifts a latency as a whole, so passes average what no number of runs in one session can. A finished pass is
kept on the disk, so an interrupted campaign loses no more than one. No pass opens more models than a runtime
holds without slowing down: more are shared out among chunks, whose passes take turns.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hwnas.errors import DeviceError, TimingError
from hwnas.files import check_regular, expanded
from hwnas.latency.jobs import Models
from hwnas.latency.measure import Device, Plan, Samples, Visit, check_clock, cores_of
from hwnas.latency.runner import core_list
from hwnas.progress import Progress, silent
from hwnas.store import digest, write_bytes

log = logging.getLogger(__name__)

OPEN_MODELS = 1000  # above about 1200 open sessions timings of small models drift by up to 8 %
OPEN_BYTES = 2 << 30  # of serialised models; a session keeps its own copy of the weights, often repacked
FIRST_ROUNDS = 4
PASS_SECONDS = 3.0  # a later pass measures about this long, or twice as long as opening its models took
MIN_SWEEPS = 2  # so that two halves of the passes can be compared
LEAST_ROUNDS = 12  # where the campaign chooses
ENOUGH = 0.0125  # relative half-width of the confidence interval at which it stops


@dataclass(frozen=True)
class Chunk:
    """Models that are open together, and how the visits of one round of them are drawn."""

    models: tuple[int, ...]
    draw_round: Callable[[np.random.Generator], list[Visit]]


@dataclass(frozen=True)
class Pass:
    """What one pass measured: `samples` with the indices of all models, `cold_ns` 0 where not opened."""

    samples: Samples
    rounds: int
    seconds: float  # with opening the models
    opening_seconds: float


@dataclass(frozen=True)
class Campaign:
    """All passes, in order; sweep i is passes[i * chunks : (i + 1) * chunks]. `stopped` says why it ended."""

    passes: tuple[Pass, ...]
    chunks: int
    stopped: str

    @property
    def rounds(self) -> int:
        """Rounds of every chunk."""
        return sum(p.rounds for p in self.passes[:: self.chunks])

    @property
    def seconds(self) -> float:
        """What all passes took."""
        return sum(p.seconds for p in self.passes)


def measure_in_passes(
    models: Models,
    chunks: Sequence[Chunk],
    device: Device,
    half_width: Callable[[Sequence[Samples]], float],
    *,
    seed: int,
    rounds: int | None = None,
    patience_s: float = 0.0,
    time_limit_s: float = math.inf,
    checkpoint: str | Path | None = None,
    progress: Progress = silent,
) -> Campaign:
    """Sweep over the chunks, a pass each, until `rounds`; without these until `half_width` is within 1.25 %.

    `half_width` says of all passes so far how uncertain the result is, as a share; it decides after 12
    rounds, until `patience_s` seconds of passes are done. No pass begins or goes on after
    `time_limit_s` seconds of passes. `checkpoint` is a folder of finished passes: those of the same models,
    device and seed are taken over, others are removed.

    All passes run on the same cores. If the cores of kept passes are no longer available, these passes are
    measured again on other cores, with a warning.

    Raises:
        DeviceError: if the limit ends before all models were visited, or the cores change between passes.
        TimingError: if the clock is broken; the last pass is then not kept.
    """
    kept = (
        None if checkpoint is None else _Checkpoint(expanded(checkpoint), _key(models, chunks, device, seed))
    )
    passes = [] if kept is None else kept.load(len(models))
    least = max(rounds, 2) if rounds is not None else LEAST_ROUNDS
    resumed = len(passes)
    start = time.monotonic() - sum(p.seconds for p in passes)
    sweep_rounds, width = FIRST_ROUNDS, math.inf
    while True:
        chunk = len(passes) % len(chunks)
        if chunk == 0:
            done = sum(p.rounds for p in passes[:: len(chunks)])
            sweeps = len(passes) // len(chunks)
            left = time_limit_s - (time.monotonic() - start)
            enough = done >= least and sweeps >= MIN_SWEEPS
            if enough and rounds is not None:
                return Campaign(tuple(passes), len(chunks), "rounds")
            if passes and rounds is None:
                width = half_width([p.samples for p in passes])
                if enough and width <= ENOUGH:
                    return Campaign(tuple(passes), len(chunks), "precision")
                if enough and sum(p.seconds for p in passes) >= patience_s:
                    return Campaign(tuple(passes), len(chunks), "patience")
            last = passes[len(passes) - len(chunks) :]
            if passes and left < 1.5 * sum(p.opening_seconds for p in last):
                _check_visited(passes, len(models), time_limit_s)
                return Campaign(tuple(passes), len(chunks), "time limit")
            sweep_rounds = _next_rounds(last, least - done if done < least else least)
        else:
            sweep_rounds = passes[-1].rounds
        number = len(passes)
        spent = time.monotonic() - start
        share = (time_limit_s - spent) / (len(chunks) - chunk)
        text = f"pass {number + 1}" + (f", ±{100 * width:.1f} %" if math.isfinite(width) else "")
        visits = pass_visits(chunks[chunk], sweep_rounds, seed, number)
        cores = cores_of([p.samples for p in passes])
        plan = Plan(visits, time_limit_s=share, cores=cores)
        found = _pass(models, chunks[chunk], device, plan, sweep_rounds, text, progress)
        new_cores = found.samples.cores
        if checkpoint is not None and number == resumed and cores and new_cores and cores != new_cores:
            log.warning(
                "%d kept passes ran on cores %s, which are no longer available; they are measured again on "
                "cores %s",
                resumed,
                core_list(cores),
                core_list(new_cores),
            )
            discard_passes(checkpoint)
            passes, resumed, start = [], 0, time.monotonic()
            continue
        passes.append(found)
        cores_of([p.samples for p in passes])
        check_clock([p.samples for p in passes])
        if kept is not None:
            kept.add(number, found)


def _next_rounds(last: Sequence[Pass], left: int) -> int:
    """Rounds of the next sweep: a first one is short, a later one is worth opening its models."""
    if not last:
        # Two sweeps at least, so the first leaves something to the second.
        return max(1, min(FIRST_ROUNDS, left // MIN_SWEEPS))
    opening = max(p.opening_seconds for p in last)
    one_round = max(1e-9, max((p.seconds - p.opening_seconds) / p.rounds for p in last))
    return max(1, min(math.ceil(max(PASS_SECONDS, 2 * opening) / one_round), left))


def _check_visited(passes: Sequence[Pass], models: int, time_limit_s: float) -> None:
    """DeviceError if a time limit ended before each model was visited twice."""
    visits = np.bincount(np.concatenate([p.samples.model for p in passes]), minlength=models)
    if visits.min() < 2:
        raise DeviceError(
            f"in the time limit of {time_limit_s:g} s, which counts what was measured before an "
            f"interruption, {int((visits < 2).sum())} of {models} models were timed less than twice; allow "
            "at least twice the time, or choose a smaller space"
        )


class _Shown:
    """Progress of one pass: says which, notes when the models were open, and ends what is out of time."""

    def __init__(self, progress: Progress, text: str, time_limit_s: float) -> None:
        self._progress, self._text, self._limit_s = progress, text, time_limit_s
        self._start = time.monotonic()
        self.opening_seconds = 0.0

    def __call__(self, done: int, total: int, text: str = "") -> None:
        seconds = time.monotonic() - self._start
        if text.startswith("opening"):
            self.opening_seconds = seconds
            if seconds > self._limit_s:
                raise DeviceError(
                    f"the time limit, which counts what was measured before an interruption, left "
                    f"{self._limit_s:.1f} s for a pass, in which {done} of {total} models could be opened; "
                    "allow more time, or choose a smaller space"
                )
        self._progress(done, total, f"{self._text}: {text}")


def _pass(
    models: Models,
    chunk: Chunk,
    device: Device,
    plan: Plan,
    rounds: int,
    text: str,
    progress: Progress,
) -> Pass:
    shown = _Shown(progress, text, plan.time_limit_s)
    start = time.monotonic()
    samples = measure_chosen(models.of(chunk.models), chunk.models, len(models), device, plan, shown)
    seconds = time.monotonic() - start
    return Pass(samples, rounds, seconds, shown.opening_seconds)


def pass_visits(chunk: Chunk, rounds: int, seed: int, number: int) -> tuple[Visit, ...]:
    """The visits of a pass, which its number draws, to the models of its chunk by their place in it."""
    generator = np.random.default_rng((seed, number))
    place = {model: i for i, model in enumerate(chunk.models)}
    drawn = [visit for _ in range(rounds) for visit in chunk.draw_round(generator)]
    return tuple(tuple(place[model] for model in visit) for visit in drawn)


def measure_chosen(
    models: Sequence[bytes],
    chosen: Sequence[int],
    total: int,
    device: Device,
    plan: Plan,
    progress: Progress,
) -> Samples:
    """Time the models at some indices of a longer list; samples and errors use the indices of that list.

    Args:
        models: The serialised models that are timed.
        chosen: Their indices in the longer list.
        total: The length of the longer list.
        device: Where the models are timed.
        plan: The visits, by index in `models`.
        progress: Called as the work advances.

    Returns:
        The samples, by index in the longer list.

    Raises:
        DeviceError: If a model cannot be timed.
    """
    try:
        samples = device.measure(models, plan, progress)
    except DeviceError as error:
        if error.model is not None and error.model in range(len(chosen)):
            error.model = chosen[error.model]
        raise
    return of_all(samples, chosen, total)


def of_all(samples: Samples, chosen: Sequence[int], models: int) -> Samples:
    """Samples of some models, by index, as samples of all n models."""
    indices = np.array(chosen, dtype=np.int64)
    cold_ns = np.zeros(models, dtype=np.int64)
    cold_ns[indices] = samples.cold_ns
    return replace(samples, model=indices[samples.model], cold_ns=cold_ns)


# ---- what is kept of an unfinished campaign -------------------------------------------------------


def _key(models: Models, chunks: Sequence[Chunk], device: Device, seed: int) -> str:
    """A digest of all that passes must share to be taken together."""
    identity = device.identity
    return digest(
        {
            "models": [hashlib.sha256(model).hexdigest() for model in models],
            "chunks": [chunk.models for chunk in chunks],
            "identity": [identity.device, identity.runtime, identity.statistic],
            "seed": seed,
        }
    )


ARRAYS = ("model", "time_ns", "wall_ns", "preempted", "cold_ns")


class _Checkpoint:
    """A folder with a file for each finished pass, each with the key and a digest of its arrays."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def load(self, models: int) -> list[Pass]:
        """The passes from the first on that are whole and have the key; the files of others are removed."""
        passes: list[Pass] = []
        for number, path in enumerate(sorted(self._folder.glob("pass-*.safetensors"))):
            found = _read(path, self._key) if path == self._path(number) else None
            if found is None or len(found.samples.cold_ns) != models or not _is_usable([*passes, found]):
                log.warning(
                    "%s is damaged, of other settings or of a broken clock; it is measured again", path
                )
                discard_passes(self._folder, number)
                break
            passes.append(found)
        return passes

    def add(self, number: int, found: Pass) -> None:
        arrays = {name: np.ascontiguousarray(getattr(found.samples, name)) for name in ARRAYS}
        metadata = {
            "key": self._key,
            "rounds": str(found.rounds),
            "seconds": repr(found.seconds),
            "opening_seconds": repr(found.opening_seconds),
            "cores": json.dumps(found.samples.cores),
            "sha256": _sha256(arrays),
        }
        write_bytes(self._path(number), save(arrays, metadata))

    def _path(self, number: int) -> Path:
        return self._folder / f"pass-{number:04}.safetensors"


def discard_passes(folder: str | Path, first: int = 0) -> None:
    """Remove the files of the passes in a folder, from number `first` on."""
    for path in sorted(Path(folder).glob("pass-*.safetensors"))[first:]:
        path.unlink()


def _is_usable(passes: Sequence[Pass]) -> bool:
    """Whether the clock of passes was not broken."""
    try:
        check_clock([p.samples for p in passes])
    except TimingError:
        return False
    return True


def _read(path: Path, key: str) -> Pass | None:
    """The pass in a file; None if it is damaged or of another campaign."""
    try:
        check_regular(path)
        with safe_open(path, "np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
    except (SafetensorError, OSError):
        return None
    if metadata.get("key") != key or metadata.get("sha256") != _sha256(arrays):
        return None
    times = (float(metadata[name]) for name in ("seconds", "opening_seconds"))
    cores = tuple(json.loads(metadata.get("cores", "[]")))
    return Pass(Samples(**arrays, cores=cores), int(metadata["rounds"]), *times)


def _sha256(arrays: dict[str, NDArray[Any]]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in ARRAYS)).hexdigest()
