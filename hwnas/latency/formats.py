"""Other projects' look-up tables, read and written. `FORMATS` says which.

**ofa**: the tables of ProxylessNAS (https://arxiv.org/abs/1812.00332) and Once-for-All
(https://arxiv.org/abs/1908.09791), and of NSGANetV2 (https://arxiv.org/abs/2007.10396), which renamed some
rows. A row is a key such as ``expanded_conv-input:40x40x32-output:40x40x32-expand:96-kernel:5-stride:1-
idskip:1-se:0-hs:0`` with `mean` in milliseconds and perhaps `std` or `var` and `count`: YAML, or CSV with the
columns key, mean_ms, std_ms or var, count; either may be gzipped. A device can have several files, one a
resolution, in which some rows recur; these are merged.

What a row leaves unsaid comes from the family of its table. Where no block says `se`, the table is
ProxylessNAS's: ReLU6 throughout, no squeeze-and-excite. Otherwise it is MobileNetV3's: stem and head are
h-swish, and a block that does not say `hs` has the activation of Once-for-All's stage that has its channels,
stride and squeeze-and-excite. `expand` is a ratio where it is smaller than the input channels, else it is
the number of channels in the middle, as Once-for-All writes it. The stem's kernel is 3.

The rows of a head (expanding convolution, pooling, feature mix, classifier) are summed into one operator.
"""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hwnas.errors import SpaceError, TableError, known_names
from hwnas.files import expanded
from hwnas.latency.table import Entry, LatencyTable
from hwnas.ops import make_divisible
from hwnas.spaces import Operator, get_space
from hwnas.store import read_bytes, unpacked, write_output
from hwnas.tabular import parse_csv
from hwnas.text import one_line

BLOCKS = ("expanded_conv", "MBConv")
STEMS = ("Conv", "first_conv")
EXPANDS = ("Conv_1", "final_expand_layer")
POOLS = ("AvgPool2D",)
MIXES = ("Conv_2", "feature_mix_layer")
CLASSIFIERS = ("Logits", "classifier")
HEAD = (*EXPANDS, *POOLS, *MIXES, *CLASSIFIERS)
BLOCK_FIELDS = {"expand", "kernel", "stride", "idskip"}
STEM_KERNEL = 3
CSV_SUFFIXES = (".csv", ".tsv")
SUFFIXES = (".yaml", ".yml", *CSV_SUFFIXES)  # of look-up tables in a folder; each may be gzipped
# What the readers of gzip, UTF-8, CSV and YAML make of rubbish.
UNREADABLE = (OSError, EOFError, zlib.error, csv.Error, yaml.YAMLError, ValueError, TypeError, RecursionError)

Skipped = dict[str, list[str]]  # why rows or operators have no counterpart → their keys


@dataclass(frozen=True)
class Imported:
    """A table made from a file of another format, what has no counterpart in it, and what to know of it."""

    table: LatencyTable
    skipped: Skipped
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Format:
    """How a format is read (of files, and the device's name) and written (returns what it cannot say)."""

    read: Callable[[Sequence[str | Path], str], Imported]
    write: Callable[[LatencyTable, str | Path], Skipped]


# ---- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A row of a table: shapes are (channels, height, width), or (features,)."""

    key: str
    kind: str
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    fields: Mapping[str, int]
    mean: float
    var: float | None  # variance of single runs in ms²
    count: int | None
    path: str | Path


def read_ofa(paths: Sequence[str | Path], device: str) -> Imported:
    """Read the look-up table of one device from one or several files.

    Rows that recur in several files are merged: their mean is weighted by `count`, their standard deviation
    is that of all runs together. A note says how many rows were merged and how far their means differ. The
    files do not say runtime and threads, so both stay unknown. The table is not calibrated.

    Args:
        paths: Files, or folders whose YAML and CSV files are read.
        device: The name of the device.

    Returns:
        The table, the keys that have no counterpart, and notes.

    Raises:
        StoreError: If a file cannot be read.
        TableError: If a file is no look-up table, is given twice, has an impossible latency, or has an
            operator twice.
    """
    files = _files(paths)
    families: dict[str, dict[str, list[_Row]]] = {}  # rows by family, then by key
    noted: dict[str, list[str]] = {}  # names of the files that a note is about
    for path in files:
        rows: dict[str, _Row] = {}
        for key, facts in _facts(path):
            row = _row(path, key, facts)
            if row.key in rows:
                raise TableError(f"{path}: {row.key} is there twice; keep one of the two")
            rows[row.key] = row
        family = _family(list(rows.values()))
        for row in rows.values():
            families.setdefault(family, {}).setdefault(row.key, []).append(row)
        for note in _notes(list(rows.values()), family):
            noted.setdefault(note, []).append(path.name)
    operators: dict[str, Entry] = {}
    skipped: Skipped = {}
    for family, by_key in families.items():
        for operator, parts in _operators([_merged(same) for same in by_key.values()], family, skipped):
            if operator.key in operators:
                raise TableError(f"{parts[0].path}: {parts[0].key} is there twice, as {operator.key}")
            operators[operator.key] = _entry(parts)
    if not operators:
        raise TableError(f"{', '.join(map(str, paths))}: no row of a kind that hwnas knows")
    notes = [
        f"{names[0] if len(names) == 1 else f'{len(names)} files, such as {names[0]}'}: {note}"
        for note, names in noted.items()
    ]
    notes += _merge_notes([same for by_key in families.values() for same in by_key.values()])
    table = LatencyTable(
        {"name": device, "cpu": device, "cores": None},
        {"name": "unknown", "version": None, "threads": None, "precisions": ["fp32"], "batch_size": 1},
        {
            "statistic": "mean",
            "rounds": min(entry.count for entry in operators.values()),
            "origin": [path.name for path in files],
            "notes": notes,
            "skipped": {reason: len(keys) for reason, keys in skipped.items()},
        },
        [],
        operators,
    )
    return Imported(table, skipped, tuple(notes))


def _files(paths: Sequence[str | Path]) -> list[Path]:
    """The given files and the look-up tables in given folders; hidden and other files are left out."""
    files: list[Path] = []
    for path in map(expanded, paths):
        if not path.is_dir():
            files.append(path)
            continue
        inside = [file for file in sorted(path.iterdir()) if file.is_file() and file.name[0] != "."]
        tables = [file for file in inside if _suffix(file) in SUFFIXES]
        if not tables:
            raise TableError(
                f"the folder {path} has no look-up table; its name ends in {', '.join(SUFFIXES)}"
            )
        files += tables
    for i, file in enumerate(files):
        if any(file.resolve() == other.resolve() for other in files[:i]):
            raise TableError(f"{file} is given twice; give each file once")
    return files


def _suffix(path: Path) -> str:
    """The ending of a file's name in small letters, without that of gzip."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _merged(rows: Sequence[_Row]) -> _Row:
    """One row for rows of one key: the mean over all runs, and the variance of all runs."""
    if len(rows) == 1:
        return rows[0]
    known = all(row.count is not None for row in rows)
    weights = [row.count or 1 if known else 1 for row in rows]
    total = sum(weights)
    mean = sum(weight * row.mean for weight, row in zip(weights, rows, strict=True)) / total
    var = None
    if all(row.var is not None for row in rows):
        parts = [(row.var or 0.0) + (row.mean - mean) ** 2 for row in rows]
        var = sum(weight * part for weight, part in zip(weights, parts, strict=True)) / total
    return replace(rows[0], mean=mean, var=var, count=total if known else None)


def _merge_notes(rows: Sequence[Sequence[_Row]]) -> Iterator[str]:
    """A note on the rows that recur in several files, where there are any."""
    recurring = [same for same in rows if len(same) > 1]
    if not recurring:
        return
    means = [[row.mean for row in same] for same in recurring]
    apart = max((max(of) - min(of)) / (sum(of) / len(of)) if max(of) > 0 else 0.0 for of in means)
    counted = all(row.count is not None for same in recurring for row in same)
    weights = "by count" if counted else "by count, or equally where a row has no count"
    yield (
        f"{len(recurring)} of {len(rows)} rows are in several files and were merged: means weighted "
        f"{weights}; the means of one row differ by at most {100 * apart:.1f} %"
    )


def _facts(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, {mean, var, count}) of each row of a YAML or CSV file."""
    data = read_bytes(path)
    try:
        data = unpacked(path, data)
        if _suffix(Path(path)) in CSV_SUFFIXES:
            columns = parse_csv(data).columns
            missing = {"key", "mean_ms"} - columns.keys()
            if missing:
                raise TableError(
                    f"{path} has no column {' and no column '.join(sorted(missing))}; a look-up table has "
                    "the columns key, mean_ms, and where known std_ms or var, and count"
                )
            names = {"mean": "mean_ms", "std": "std_ms", "var": "var", "count": "count"}
            for i, key in enumerate(columns["key"]):
                yield key, {name: columns[column][i] for name, column in names.items() if column in columns}
        else:
            rows = yaml.load(data.decode("utf-8-sig"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            if not isinstance(rows, dict):
                raise TableError(f"{path} holds {type(rows).__name__}, not rows by key")
            if {"schema", "operators"} <= rows.keys():
                raise TableError(f"{path} is a latency table of hwnas already; use it as it is")
            yield from rows.items()
    except UNREADABLE as error:
        raise TableError(f"{path} is not a look-up table: {one_line(error)}") from None


def _row(path: str | Path, key: Any, facts: Any) -> _Row:
    kind, *pairs = str(key).split("-")
    try:
        fields = dict(pair.split(":") for pair in pairs)
        std, var = (_optional(facts.get(name)) for name in ("std", "var"))
        count = facts.get("count")
        row = _Row(
            str(key),
            kind,
            _shape(fields.pop("input")),
            _shape(fields.pop("output")),
            {name: int(value) for name, value in fields.items()},
            float(facts["mean"]),
            var if std is None else std * abs(std),  # a negative one stays negative, and is refused
            int(count) if count not in (None, "") else None,
            path,
        )
        if kind in BLOCKS and not row.fields.keys() >= BLOCK_FIELDS:
            raise KeyError(", ".join(sorted(BLOCK_FIELDS - row.fields.keys())))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TableError(
            f"{path}: {str(key)[:80]!r} is not a row of a look-up table ({error}); its form is "
            "expanded_conv-input:56x56x24-output:28x28x32-expand:6-kernel:3-stride:2-idskip:0: {mean: 0.5}"
        ) from None
    if not all(math.isfinite(value) and value >= 0 for value in (row.mean, row.var or 0.0)):
        spread = f"var {var}" if std is None else f"std {std}"
        raise TableError(
            f"{path}: {key}: mean is {row.mean} ms and {spread}; give finite numbers that are not negative"
        )
    if row.count is not None and row.count < 1:
        raise TableError(f"{path}: {key}: count is {row.count}; it must be positive")
    return row


def _optional(value: Any) -> float | None:
    """A number, or None for an empty field."""
    return None if value in (None, "") else float(value)


def _shape(text: str) -> tuple[int, ...]:
    """``56x56x24`` as (24, 56, 56), ``1000`` as (1000,)."""
    *size, channels = (int(part) for part in text.split("x"))
    return (channels, *size)


def _family(rows: Sequence[_Row]) -> str:
    return "mobilenetv3" if any("se" in row.fields for row in rows if row.kind in BLOCKS) else "proxylessnas"


def _operators(
    rows: Sequence[_Row], family: str, skipped: Skipped
) -> Iterator[tuple[Operator, tuple[_Row, ...]]]:
    """Each operator with the rows that it is the sum of."""
    act = "relu6" if family == "proxylessnas" else "hswish"
    found: list[tuple[Operator, tuple[_Row, ...]]] = []
    for row in rows:
        reason = None
        if row.kind in BLOCKS:
            operator = _block(row, family)
            if operator is None:
                reason = "a block of no stage of Once-for-All's, and its key does not say hs"
        elif row.kind in STEMS and len(row.in_shape) == len(row.out_shape) == 3:
            stride = max(1, round(row.in_shape[1] / max(row.out_shape[1], 1)))
            attributes = (("k", STEM_KERNEL), ("s", stride), ("act", act))
            operator = Operator("conv", row.in_shape, row.out_shape, attributes)
        elif row.kind in HEAD:
            continue
        else:
            operator, reason = None, f"rows of kind {row.kind!r}"
        if operator is not None and not _possible(operator):
            operator, reason = None, "shapes that its kernel, stride and skip cannot have"
        if operator is not None:
            found.append((operator, (row,)))
        elif reason is not None:
            skipped.setdefault(reason, []).append(row.key)
    heads = list(_heads(rows, act))
    used = {part.key for _, parts in heads for part in parts}
    left = [row.key for row in rows if row.kind in HEAD and row.key not in used]
    if left:
        skipped.setdefault("parts of a head whose other parts are not there", []).extend(left)
    yield from [*found, *heads]


def _block(row: _Row, family: str) -> Operator | None:
    fields, channels = row.fields, row.in_shape[0]
    expand, stride, se = fields["expand"], fields["stride"], fields.get("se", 0)
    mid = make_divisible(channels * expand) if expand < channels else expand
    if family == "proxylessnas":
        act: str | None = "relu6"
    elif "hs" in fields:
        act = "hswish" if fields["hs"] else "relu"
    else:
        act = stage_activations().get((channels, row.out_shape[0], stride, se))
    if act is None:
        return None
    attributes: tuple[tuple[str, int | str], ...] = (
        ("k", fields["kernel"]),
        ("s", stride),
        ("act", act),
        ("se", se),
        ("res", fields["idskip"]),
    )
    if mid == channels:
        return Operator("dsconv", row.in_shape, row.out_shape, attributes)
    return Operator("mbconv", row.in_shape, row.out_shape, (("mid", mid), *attributes))


@cache
def stage_activations() -> dict[tuple[int, int, int, int], str]:
    """The activation of Once-for-All's blocks by channels in, channels out, stride, squeeze-and-excite."""
    known: dict[tuple[int, int, int, int], str] = {}
    for width in (1.0, 1.2):  # the two widths that Once-for-All was trained at
        for op in get_space("mobilenetv3", width=width).all_operators():
            if op.kind in ("mbconv", "dsconv"):
                key = (op.in_shape[0], op.out_shape[0], op.integer("s"), op.integer("se"))
                known[key] = str(op["act"])
    return known


def _possible(operator: Operator) -> bool:
    if operator.residual and operator.in_shape != operator.out_shape:
        return False
    try:
        return Operator.parse(operator.key) == operator
    except SpaceError:
        return False


def _heads(rows: Sequence[_Row], act: str) -> Iterator[tuple[Operator, tuple[_Row, ...]]]:
    """Expanding convolution, pooling if it is there, feature mix if it is there, classifier."""

    def of(kinds: tuple[str, ...], channels: int) -> list[_Row]:
        return [row for row in rows if row.kind in kinds and row.in_shape[0] == channels]

    for expand in (row for row in rows if row.kind in EXPANDS):
        mid, *size = expand.out_shape
        pools = [row for row in of(POOLS, mid) if row.in_shape == expand.out_shape]
        tails: list[tuple[_Row, ...]] = [
            (m, c) for m in of(MIXES, mid) for c in of(CLASSIFIERS, m.out_shape[0])
        ]
        tails += [(c,) for c in of(CLASSIFIERS, mid) if list(c.in_shape[1:]) in ([], [1, 1], size)]
        for tail in tails:
            feat = tail[0].out_shape[0] if len(tail) == 2 else 0
            attributes = (("mid", mid), ("feat", feat), ("act", act))
            operator = Operator("head", expand.in_shape, tail[-1].out_shape, attributes)
            if _possible(operator):
                yield operator, (expand, *pools, *tail)


def _entry(parts: Sequence[_Row]) -> Entry:
    """The latency of the sum of rows; its deviation is unknown if that of a row is."""
    counts = [part.count for part in parts if part.count is not None]
    variances = [
        part.var for part in parts if part.var is not None or part.mean > 0
    ]  # 0 ms: no time, no spread
    std = None if None in variances else math.sqrt(sum(var for var in variances if var is not None))
    try:
        return Entry(sum(p.mean for p in parts), std, min(counts, default=1))
    except TableError as error:
        raise TableError(f"{parts[0].path}: {parts[0].key}: {error}") from None


def _notes(rows: Sequence[_Row], family: str) -> Iterator[str]:
    """What the table does not say, and what was taken for it."""
    blocks = [row for row in rows if row.kind in BLOCKS]
    if family == "proxylessnas":
        yield "no block says se, so the table is taken for one of ProxylessNAS: ReLU6 throughout"
    elif any("hs" not in row.fields for row in blocks):
        yield "blocks do not say hs; their activations are those of Once-for-All's stages"
    if any(r.kind in EXPANDS for r in rows) and not any(r.kind in POOLS for r in rows):
        inside = [r for r in rows if r.kind in CLASSIFIERS and len(r.in_shape) == 3 and r.in_shape[1] > 1]
        if not inside:
            yield "no row for pooling; heads are without it"
    if all(row.count is None for row in rows):
        yield "rows do not say how often they were measured; count is 1"


# ---- writing -------------------------------------------------------------------------------------


def write_ofa(table: LatencyTable, path: str | Path) -> Skipped:
    """Write what the format can say of a table as YAML, and return the rest: why → keys.

    Written are operators of the table's first precision of one family: of ProxylessNAS's if there are ReLU6
    ones, else of MobileNetV3's. A head goes whole into its expanding convolution, and its other rows are 0,
    so that sums over a network are right and reading gives the same operators back. The calibration has no
    place in the format: sums are the plain ones. TableError if nothing can be written.
    """
    precision = table.runtime["precisions"][0]
    operators = {Operator.parse(key): entry for key, entry in table.operators.items()}
    proxyless = any(dict(operator.attributes).get("act") == "relu6" for operator in operators)
    rows: dict[str, dict[str, float | int]] = {}
    skipped: Skipped = {}
    for operator, entry in operators.items():
        if operator.precision != precision:
            reason: str | None = f"precision {operator.precision}, not {precision}"
            keys: list[str] = []
        else:
            keys, reason = _keys(operator, proxyless)
        if not reason and keys[0] in rows:
            reason = "another operator has the same key there"
        if reason:
            skipped.setdefault(reason, []).append(operator.key)
            continue
        var = {} if entry.std_ms is None else {"var": entry.std_ms**2}
        rows[keys[0]] = {"mean": entry.ms, **var, "count": entry.count}
        for key in keys[1:]:
            rows[key] = {"mean": 0.0}
    if not rows:
        raise TableError(f"no operator of the table can be written in this format: {'; '.join(skipped)}")
    write_output(path, yaml.safe_dump(rows, sort_keys=False, width=1000).encode())
    return skipped


def _keys(operator: Operator, proxyless: bool) -> tuple[list[str], str | None]:
    """The keys of an operator, that of its latency first, or why it has none."""
    if operator.kind not in ("conv", "mbconv", "dsconv", "head"):
        return [], f"kind {operator.kind}"
    family = "ProxylessNAS" if proxyless else "MobileNetV3"
    act, i, o = str(operator["act"]), operator.in_shape, operator.out_shape
    whole_act = "relu6" if proxyless else "hswish"
    if operator.kind == "conv":
        halved = o[1] == -(-i[1] // operator.integer("s"))
        if operator["k"] != STEM_KERNEL or act != whole_act or not halved or operator.residual:
            return [], f"a stem other than {family}'s"
        return [_key("Conv", i, o)], None
    if operator.kind == "head":
        mid, feat = operator.integer("mid"), operator.integer("feat")
        if act != whole_act or bool(feat) == proxyless:
            return [], f"a head other than {family}'s"
        expanded = (mid, *i[1:])
        keys = [_key("Conv_1", i, expanded)]
        if proxyless:
            return [*keys, _key("Logits", expanded, o)], None
        keys += [_key("AvgPool2D", expanded, (mid, 1, 1)), _key("Conv_2", (mid, 1, 1), (feat, 1, 1))]
        return [*keys, _key("Logits", (feat, 1, 1), o)], None
    mid = operator.integer("mid") if operator.kind == "mbconv" else i[0]
    if act not in (("relu6",) if proxyless else ("relu", "hswish")) or (proxyless and operator["se"]):
        return [], f"a block other than {family}'s"
    expand = mid // i[0] if proxyless else mid
    named = [("expand", expand), ("kernel", operator["k"]), ("stride", operator["s"])]
    named.append(("idskip", int(operator.residual)))
    if not proxyless:
        named += [("se", operator["se"]), ("hs", int(act == "hswish"))]
    key = _key("expanded_conv", i, o) + "".join(f"-{name}:{value}" for name, value in named)
    row = _row(key, key, {"mean": 1.0})
    if _block(row, "proxylessnas" if proxyless else "mobilenetv3") != _plain(operator):
        return [], "a middle that expand cannot say"
    return [key], None


def _plain(operator: Operator) -> Operator:
    """The operator in fp32, as it is read: the format does not say the precision."""
    return Operator(operator.kind, operator.in_shape, operator.out_shape, operator.attributes)


def _key(kind: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> str:
    texts = ["x".join(str(n) for n in (*shape[1:], shape[0])) for shape in (in_shape, out_shape)]
    return f"{kind}-input:{texts[0]}-output:{texts[1]}"


FORMATS: dict[str, Format] = {
    "ofa": Format(read_ofa, write_ofa),
}


def get_format(name: str) -> Format:
    """The format of this name; TableError for an unknown one."""
    if name not in FORMATS:
        raise TableError(f"unknown format {name!r}; {known_names(name, FORMATS)}")
    return FORMATS[name]
