"""Work for another machine, as plain data: models and plan become a job, records become samples.

hwnas/latency/runner.py says what a job and its records are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from hwnas.errors import DeviceError
from hwnas.latency.measure import Identity, Plan, Samples

SHARED_FROM = 4096  # bytes; larger tensors become pieces of their own


class Models(Sequence[bytes]):
    """Serialised models that keep the weights they share once: networks of one space are gigabytes apart.

    A model is put together when it is asked for; a slice, or `of`, shares what there is.
    """

    def __init__(self, models: Iterable[bytes]) -> None:
        known: dict[bytes, bytes] = {}
        self._parts = [[known.setdefault(part, part) for part in split(model)] for model in models]

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Models: ...
    def __getitem__(self, index: int | slice) -> bytes | Models:
        if isinstance(index, slice):
            return self.of(range(*index.indices(len(self))))
        return b"".join(self._parts[index])

    def of(self, indices: Iterable[int]) -> Models:
        """Those of these indices, in this order."""
        chosen = Models(())
        chosen._parts = [self._parts[i] for i in indices]
        return chosen

    def size(self, index: int) -> int:
        """Bytes of a model."""
        return sum(map(len, self._parts[index]))


def make_job(
    models: Sequence[bytes], plan: Plan, threads: int, cores: Sequence[int] | None = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The job of timing serialised models, and the pieces of the models by SHA-256.

    Weights that several models share are one piece. `cores` are those that may be used, by default all.
    """
    pieces: dict[str, bytes] = {}
    names = []
    for model in models:
        parts = split(model)
        names.append([hashlib.sha256(part).hexdigest() for part in parts])
        pieces.update(zip(names[-1], parts, strict=True))
    job = {
        "models": names,
        "visits": [list(visit) for visit in plan.visits],
        "warmup_runs": plan.warmup_runs,
        "kept_runs": plan.kept_runs,
        "time_limit_s": plan.time_limit_s if math.isfinite(plan.time_limit_s) else None,
        "threads": threads,
    }
    if cores is not None:
        job["cores"] = list(cores)
    if plan.cores:
        job["kept_cores"] = list(plan.cores)
    return job, pieces


def split(model: bytes) -> list[bytes]:
    """A serialised model cut at its larger tensors; what is no ONNX model is one piece."""
    try:
        tensors = onnx.load_model_from_string(model).graph.initializer
    except DecodeError:
        return [model]
    cuts, end = [0], 0
    for tensor in tensors:
        start = model.find(tensor.raw_data, end) if len(tensor.raw_data) >= SHARED_FROM else -1
        if start >= 0:
            end = start + len(tensor.raw_data)
            cuts += [start, end]
    cuts.append(len(model))
    return [model[a:b] for a, b in pairwise(cuts) if b > a]


def samples_of(
    records: Sequence[Mapping[str, Any]], models: int, visits: Sequence[Sequence[int]], kept_runs: int
) -> Samples:
    """The samples in the records of n models and of visits to them.

    Visits that a time limit dropped are missing at the end. DeviceError for records of anything else.
    """
    done = visits[: max(0, len(records) - models)]
    try:
        if not models <= len(records) <= models + len(visits):
            raise ValueError(f"{len(records)} records of {models} models and {len(visits)} visits")
        if [len(record["rows"]) for record in records[models:]] != [len(visit) for visit in done]:
            raise ValueError("visits to other models")
        cold_ns = np.array([_count(record["cold_ns"]) for record in records[:models]], dtype=np.int64)
        rows = [row for record in records[models:] for row in record["rows"]]
        counts = [[[_whole(n) for n in run] for run in row] for row in rows]
        times = np.array(counts, dtype=np.int64).reshape(len(rows), kept_runs, 3)
        cores = tuple(_count(core) for core in records[0].get("cores", ())) if records else ()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DeviceError(f"the device answered with wrong records ({error!r}); measure again") from None
    visited = np.array([model for visit in done for model in visit], dtype=np.int64)
    return Samples(visited, times[..., 0], times[..., 1], times[..., 2].astype(bool), cold_ns, cores)


def identity_of(data: Mapping[str, Any]) -> Identity:
    """The identity that a runner gave as plain data; DeviceError if it is none."""
    try:
        device, runtime = dict(data["device"]), dict(data["runtime"])
        if {"name", "cpu", "cores"} <= device.keys() and {"name", "version", "threads"} <= runtime.keys():
            return Identity(device, runtime, str(data["statistic"]))
    except (KeyError, TypeError, ValueError):
        pass
    raise DeviceError(f"the device answered with a wrong identity: {str(data)[:200]!r}")


def _count(value: Any) -> int:
    if _whole(value) < 0:
        raise ValueError(f"{value!r} is no count of nanoseconds")
    return int(value)


def _whole(value: Any) -> int:
    """A reading of a clock. One that is no positive time is dropped later, see `Samples.possible`."""
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)
