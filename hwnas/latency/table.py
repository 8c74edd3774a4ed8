"""The latency table: what each operator costs on a device, and how sums become networks' latencies."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from hwnas.errors import DeviceError, TableError
from hwnas.latency.measure import Identity
from hwnas.latency.runner import core_list
from hwnas.spaces import Architecture, Architectures, NetworkSpace, Operator, OperatorSum
from hwnas.spaces.base import SIZE_NAMES, size_of_input
from hwnas.store import check_seal, parse_json, read_bytes, sealed, write_output
from hwnas.text import command_line

SCHEMA = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """The latency of one operator in milliseconds.

    `std_ms` is the standard deviation of single rounds, or None if it is not known. `count` is the number of
    rounds.
    """

    ms: float
    std_ms: float | None
    count: int

    def __post_init__(self) -> None:
        for name in ("ms", "std_ms", "count"):
            value = getattr(self, name)
            if name == "std_ms" and value is None:
                continue
            # Compared, for a whole number may be too large to become a float.
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
                raise TableError(f"{name} is {value!r}, not a finite number; measure the table again")
        if self.ms <= 0 or (self.std_ms is not None and self.std_ms < 0) or self.count < 1:
            raise TableError(
                f"ms is {self.ms}, std_ms {self.std_ms}, count {self.count}; ms and count must be positive "
                "and std_ms not negative; measure the table again"
            )


class _Part(BaseModel):
    """What is read of a table's file, where it is there; anything more is kept as it is."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Error(_Part):
    mape: float
    kendall_tau: float


class _HeldOut(_Error):
    networks: int
    within_10pct: float


class _Calibration(_Part):
    space: str
    resolution: int | None = None
    length: int | None = None
    precision: str
    slope: float
    intercept_ms: float
    held_out: _HeldOut | None = None
    macs_baseline: _Error | None = None
    repeatability_cv: float | None = None

    @model_validator(mode="after")
    def _has_one_size(self) -> _Calibration:
        if (self.resolution is None) == (self.length is None):
            raise ValueError(f"it has not one of {', '.join(SIZE_NAMES)}, the size of the inputs")
        return self

    @model_validator(mode="after")
    def _judged_whole(self) -> _Calibration:
        if self.held_out and (self.macs_baseline is None or self.repeatability_cv is None):
            raise ValueError("held_out is there, and not both of macs_baseline and repeatability_cv")
        return self


class _Protocol(_Part):
    cores: list[int] | None = None
    half_width: float | None = None
    preempted: float | None = None
    taken: float = 0.0
    dropped_readings: int = 0
    noisy: bool = False
    noise: list[str] = []

    @model_validator(mode="after")
    def _with_reasons(self) -> _Protocol:
        if self.noisy and not self.noise:
            raise ValueError("noisy is true, and noise, the reasons, is not there")
        return self


class _Device(_Part):
    name: str
    cpu: str | None


class _Runtime(_Part):
    name: str
    version: str | None
    threads: int | None
    precisions: list[str]
    batch_size: int = 1


class _Parts(_Part):
    device: _Device
    runtime: _Runtime
    protocol: _Protocol
    calibration: list[_Calibration]


@dataclass(frozen=True)
class LatencyTable:
    """Operator latencies of one device, by key, with all that says what they are true of.

    `device`, `runtime`, `protocol` and `calibration` (one row a space, size of the inputs and precision) are
    plain data as in the file. Source of the idea: https://arxiv.org/abs/1812.00332 (ProxylessNAS).
    """

    device: Mapping[str, Any]
    runtime: Mapping[str, Any]
    protocol: Mapping[str, Any]
    calibration: Sequence[Mapping[str, Any]]
    operators: Mapping[str, Entry]
    _sums: dict[tuple[str, str], Callable[[Any], NDArray[np.float64]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    # ---- looking up -----------------------------------------------------------------------------

    def latency_ms(
        self, archs: Architectures | Sequence[Architecture], precision: str | None = None
    ) -> NDArray[np.float64]:
        """Calibrated sum of the operators of n architectures of one space, (n,), in milliseconds.

        `precision`, where it is no choice of the space, defaults to the table's first. The calibration of an
        architecture is that of its space, size of the inputs and precision, or of the space that this is a
        part of (`SearchSpace.restrict`); failing that, that of the same size and precision in another space;
        failing that, the plain sum is returned. Either substitute is logged as a warning, once a space.
        TableError names an operator that is missing.
        """
        if len(archs) == 0:
            return np.zeros(0)
        origin = archs.origin if isinstance(archs, Architectures) else archs[0].origin
        if not isinstance(origin, NetworkSpace):
            raise TableError(f"architectures of {origin.id} have no operators; a table needs a network space")
        precision = precision or self.runtime["precisions"][0]
        if (origin.id, precision) not in self._sums:
            self._sums[origin.id, precision] = self._lookup(origin, precision)
        return self._sums[origin.id, precision](archs)

    def sum_ms(self, space: NetworkSpace, archs: Any, precision: str = "fp32") -> NDArray[np.float64]:
        """The uncalibrated sum of n architectures' operators, (n,); TableError names a missing operator."""
        return self._check_missing(space, archs, precision, self._operator_sum(space, precision)(archs))

    def _operator_sum(self, space: NetworkSpace, precision: str) -> OperatorSum:
        def value(operator: Operator) -> float:
            entry = self.operators.get(operator.key)
            return math.nan if entry is None else entry.ms

        return OperatorSum(space, value, precision)

    def _check_missing(
        self, space: NetworkSpace, archs: Any, precision: str, sums: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        unknown = np.isnan(sums)
        if unknown.any():
            row = space.genotypes(archs)[int(np.argmax(unknown))]
            arch = space.architectures(row[None])[0]
            keys = [op.key for op in space.operators(arch, precision) if op.key not in self.operators]
            raise TableError(
                f"the table has no operator {keys[0]}, which {int(unknown.sum())} of "
                f"{len(sums)} architectures need; profile their space on this device"
            )
        return sums

    def _lookup(self, space: NetworkSpace, precision: str) -> Callable[[Any], NDArray[np.float64]]:
        """The function from architectures of one space to latencies."""
        sums, (groups, groups_of) = self._operator_sum(space, precision), group_lookup(space, precision)
        known: dict[int, tuple[float, float]] = {}

        def latency(archs: Any) -> NDArray[np.float64]:
            genotypes = space.genotypes(archs)
            total = self._check_missing(space, genotypes, precision, sums(archs))
            at = groups_of(genotypes)
            for group in np.unique(at).tolist():
                if group not in known:
                    known[group] = self._calibration_of(space, *groups[group])
                slope, intercept = known[group]
                rows = at == group
                total[rows] = slope * total[rows] + intercept
            return total

        return latency

    def _calibration_of(self, space: NetworkSpace, size: int, precision: str) -> tuple[float, float]:
        fitting = [
            c for c in self.calibration if c.get(space.size_name) == size and c["precision"] == precision
        ]
        for own in (space, *([] if space.whole is None else [space.whole])):
            for c in fitting:
                if c["space"] == own.id:
                    return c["slope"], c["intercept_ms"]
        where = f"{space.id} at {space.size_name} {size} in {precision}"
        if fitting:
            log.warning("the table is not calibrated for %s; using that of %s", where, fitting[0]["space"])
            return fitting[0]["slope"], fitting[0]["intercept_ms"]
        log.warning("the table is not calibrated for %s; latencies are plain sums of operators", where)
        return 1.0, 0.0

    # ---- files ----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The table as plain data, sealed with its sha256."""
        return sealed(
            {
                "schema": SCHEMA,
                "device": dict(self.device),
                "runtime": dict(self.runtime),
                "protocol": dict(self.protocol),
                "calibration": [dict(c) for c in self.calibration],
                "operators": [
                    {"key": key, "ms": entry.ms, "std_ms": entry.std_ms, "count": entry.count}
                    for key, entry in self.operators.items()
                ],
            }
        )

    def save(self, path: str | Path) -> None:
        """Write the table to a file, see `to_json`.

        Args:
            path: Where the table goes. A regular file is replaced as a whole, also behind a symbolic link;
                devices and pipes are written to.

        Raises:
            StoreError: If the path cannot be written.
        """
        write_output(path, self.to_json().encode())

    def to_json(self) -> str:
        """Return the table as sealed JSON with one operator a line."""
        data = self.to_dict()
        operators = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in data["operators"])
        lines = [
            f' "operators": [\n{operators}\n ]'
            if key == "operators"
            else f" {json.dumps(key)}: {_text(value)}"
            for key, value in data.items()
        ]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def load(
        cls,
        path: str | Path,
        expect: Identity | None = None,
        precision: str | None = None,
        force: bool = False,
    ) -> LatencyTable:
        """Read and check a table.

        `expect` is the identity of the device that the table must be of (`get_device(...).identity`), and
        `precision` one that it must have; `force` accepts a table of another. StoreError for an unreadable
        file, ChecksumError for a changed one, TableError for an unknown schema, an impossible latency, or
        a difference from what is expected, which it names.
        """
        data = parse_json(path, read_bytes(path))
        check_schema(data, path)
        reseal = command_line("hwnas", "table", "validate", "--reseal", path)
        check_seal(data, path, f"restore it from a copy, or accept a deliberate edit with: {reseal}")
        table = cls.from_dict(data, path)
        differences = table.differences(expect, precision)
        if differences and not force:
            raise TableError(
                f"{path} does not fit: {'; '.join(differences)}. Profile this device, or force the table"
            )
        return table

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], path: str | Path = "the table") -> LatencyTable:
        """The table of plain data, its values checked, its seal not; TableError names what is wrong."""
        check_schema(data, path)
        operators: dict[str, Entry] = {}
        try:
            device, runtime, protocol = (dict(data[name]) for name in ("device", "runtime", "protocol"))
            calibration = [dict(row) for row in data["calibration"]]
            if not runtime["precisions"]:
                raise TableError(f"{path}: runtime.precisions is empty")
            _Parts.model_validate(
                {"device": device, "runtime": runtime, "protocol": protocol, "calibration": calibration}
            )
            for row in calibration:
                slope, intercept = float(row["slope"]), float(row["intercept_ms"])
                if not (slope > 0 and math.isfinite(slope) and math.isfinite(intercept)):
                    raise TableError(
                        f"{path}: calibration of {row['space']} has slope {slope}, intercept {intercept} ms"
                    )
            for row in data["operators"]:
                key = row["key"]
                if key in operators:
                    raise TableError(f"{path}: operator {key} is there twice")
                try:
                    operators[key] = Entry(row["ms"], row["std_ms"], row["count"])
                except KeyError as error:
                    raise TableError(f"{path}: operator {key} has no {error}") from None
                except TableError as error:
                    raise TableError(f"{path}: operator {key}: {error}") from None
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(map(str, wrong["loc"]))
            raise TableError(f"{path} is not a latency table: {where}: {wrong['msg']}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{path} is not a latency table: {error!r} is missing or wrong") from None
        if not operators:
            raise TableError(f"{path} has no operators; profile a space")
        return cls(device, runtime, protocol, calibration, operators)

    def differences(self, expect: Identity | None, precision: str | None = None) -> list[str]:
        """What differs between the table and the device and precision asked for, one line each."""
        found = []
        for part in ("device", "runtime"):
            asked = {} if expect is None else getattr(expect, part)
            has = getattr(self, part)
            found += [
                f"{part} {name} is {has.get(name)!r}, asked for {value!r}"
                for name, value in asked.items()
                if has.get(name) != value
            ]
        if precision is not None and precision not in self.runtime["precisions"]:
            found.append(f"precisions are {self.runtime['precisions']}, asked for {precision!r}")
        return found

    # ---- judging --------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The device and the runtime, in short."""
        runtime = [self.runtime.get("name") or "runtime not stated", self.runtime.get("version") or ""]
        return f"{self.device.get('name')}, {' '.join(map(str, runtime)).strip()}"

    def check_quiet(self, remedy: str) -> None:
        """DeviceError if other work moved the table, with what was seen, and `remedy` for keeping it."""
        if self.protocol.get("noisy"):
            raise DeviceError(
                f"the latency table is noisy, so it is not kept: {'; '.join(self.protocol['noise'])}. Stop "
                f"other work on the device and measure again, or keep what was measured, flagged: {remedy}"
            )

    def summary(self) -> str:
        """A text for a person: what was measured, how well it predicts whole networks, and a verdict."""
        device, runtime, protocol = self.device, self.runtime, self.protocol
        processor = [device.get("cpu")] if device.get("cpu") != device.get("name") else []
        processor += [f"{device['cores']} cores"] if device.get("cores") else []
        threads = str(runtime.get("threads") or "not stated")
        if protocol.get("cores"):
            threads += f" on cores {core_list(protocol['cores'])}"
        total = [
            f"{self.title}{' ({})'.format(', '.join(map(str, processor))) if processor else ''}, "
            f"threads {threads}, {', '.join(runtime['precisions'])}, "
            f"batch {runtime.get('batch_size')}",
            f"{len(self.operators)} operators, {protocol.get('rounds')} rounds, {protocol.get('statistic')}",
        ]
        if protocol.get("half_width") is not None:
            total[-1] += (
                f"; predicted networks ±{100 * protocol['half_width']:.1f} % when it stopped: "
                f"{protocol.get('stopped')}"
            )
        if protocol.get("preempted") is not None:
            total.append(
                f"{100 * protocol['preempted']:.1f} % of runs preempted, other work took "
                f"{100 * protocol.get('taken', 0.0):.0f} % of the core"
            )
        if protocol.get("dropped_readings"):
            total.append(f"{protocol['dropped_readings']} impossible clock readings were dropped")
        for row in self.calibration:
            total += _calibration_lines(row)
        total.append(f"Verdict: {self.verdict()}")
        return "\n".join(total)

    def verdict(self) -> str:
        """One sentence on whether the table can be trusted."""
        judged = [row for row in self.calibration if row.get("held_out")]
        if not judged:
            return "not judged: no network was held out, so nothing is known of its error."
        if self.protocol.get("noisy"):
            return f"noisy: {'; '.join(self.protocol['noise'])}; stop other work and profile again."
        mape = max(row["held_out"]["mape"] for row in judged)
        within = min(row["held_out"]["within_10pct"] for row in judged)
        floor = max(row["repeatability_cv"] for row in judged)
        if mape > 10 or within < 80:
            return f"poor: {mape:.1f} % error on unseen networks; do not rely on it."
        if all(row["macs_baseline"]["mape"] <= row["held_out"]["mape"] for row in judged):
            return f"no better than MACs alone, which predict latency here as well ({mape:.1f} % error)."
        word = "good" if mape <= 5 and within >= 95 else "usable"
        twice = f"where measuring one twice differs by {floor:.1f} %"
        return f"{word}: {mape:.1f} % error on unseen networks, {twice}."


def _calibration_lines(row: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{row['space']} at {size_text(row)}, {row['precision']}: "
        f"{row['slope']:.3f} × sum {row['intercept_ms']:+.4f} ms, from {row.get('networks')} networks"
    ]
    held_out, baseline = row.get("held_out"), row.get("macs_baseline")
    if held_out:
        lines.append(
            f"  {held_out['networks']} unseen networks: MAPE {held_out['mape']:.1f} %, Kendall tau "
            f"{held_out['kendall_tau']:.2f}, within ±10 % {held_out['within_10pct']:.0f} %"
        )
    if held_out and baseline:
        lines.append(
            f"  MACs alone: MAPE {baseline['mape']:.1f} %, tau {baseline['kendall_tau']:.2f}; "
            f"repeatability {row['repeatability_cv']:.1f} %"
        )
    return lines


def size_text(row: Mapping[str, Any]) -> str:
    """Return the size of the inputs of a row of calibration in words, such as "160 px" or "length 64"."""
    return f"{row['resolution']} px" if row.get("resolution") is not None else f"length {row['length']}"


# The size of the inputs and the precision of a network: each pair has a calibration of its own.
Group = tuple[int, str]


def group_lookup(
    space: NetworkSpace, precision: str = "fp32"
) -> tuple[list[Group], Callable[[Any], NDArray[np.int64]]]:
    """The groups of a space's networks, and the function from n architectures to theirs, (n,) positions.

    TableError if the first slot, whose operator reads an input of the network and so has its size, can be
    empty, or the space has another name for the size than tables have.
    """
    if space.size_name not in SIZE_NAMES:
        raise TableError(
            f"the size of inputs of {space.id} is called {space.size_name!r}; size_name is one of "
            f"{', '.join(SIZE_NAMES)}"
        )
    slot = space.slots[0]
    columns = [space.index(name) for name in slot.choices]
    found: dict[tuple[int, ...], Group] = {}
    for index, operator in space.slot_operators(slot, precision).items():
        if operator is None:
            raise TableError(f"the first slot of {space.id} can be empty, so its input has no known size")
        found[index] = (size_of_input(operator), operator.precision)
    groups = sorted(set(found.values()))
    table = np.zeros(tuple(int(n) for n in space.cardinalities[columns]), dtype=np.int64)
    for index, group in found.items():
        table[index] = groups.index(group)

    def look_up(archs: Any) -> NDArray[np.int64]:
        genotypes = space.genotypes(archs)
        positions = table[tuple(genotypes[:, column] for column in columns)]
        return np.asarray(positions + np.zeros(len(genotypes), int))

    return groups, look_up


def check_schema(data: Mapping[str, Any], path: str | Path) -> None:
    """TableError unless the data says that it is of the schema that this hwnas reads."""
    if data.get("schema") != SCHEMA:
        raise TableError(f"{path} has schema {data.get('schema')!r}, this hwnas reads {SCHEMA}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[\n" + ",\n".join("  " + json.dumps(row, allow_nan=False) for row in value) + "\n ]"
    return json.dumps(value, allow_nan=False)
