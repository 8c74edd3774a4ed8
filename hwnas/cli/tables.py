"""Latency tables: looked at, checked, compared, built and converted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hwnas.cli.display import complain, out, plain, print_json, say, summary_beside
from hwnas.cli.options import AllowNoisy, AsJson
from hwnas.errors import HwnasError

TableFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A latency table, such as runs/digits/latency_table.json.")
]
Top = Annotated[int, typer.Option("--top", min=1, help="How many operators to list.")]


def show(file: TableFile, top: Top = 10, as_json: AsJson = False) -> None:
    """Summarise a table: device, quality, and its costliest operators.

    Example: `hwnas table show runs/digits/latency_table.json`
    """
    from hwnas.latency.table import LatencyTable

    table = LatencyTable.load(file)
    costly = sorted(table.operators.items(), key=lambda item: -item[1].ms)[:top]
    if as_json:
        facts = table.to_dict()
        facts["operators"] = len(table.operators)
        print_json({**facts, "costliest": [{"key": key, "ms": entry.ms} for key, entry in costly]})
        return
    say(table.summary())
    shown = Table(title=f"The {len(costly)} costliest operators")
    shown.add_column("operator", overflow="fold")
    shown.add_column("ms", justify="right")
    for key, entry in costly:
        shown.add_row(plain(key), f"{entry.ms:.4f}")
    out.print(shown)


def build(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The results.json that a bundle wrote on a board.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the table is written.")],
    allow_noisy: AllowNoisy = False,
    as_json: AsJson = False,
) -> None:
    """Make a latency table of what a board measured by itself, see `hwnas profile --bundle`.

    Example: `hwnas table build results.json -o latency_tables/my-board.json`
    """
    from hwnas.latency.bundle import build_table

    table = build_table(results)
    if not allow_noisy:
        table.check_quiet("add --allow-noisy to the command")
    table.save(output)
    with summary_beside(output):
        if as_json:
            print_json({"table": str(output), **table.to_dict(), "operators": len(table.operators)})
        else:
            say(table.summary())
            say(f"Table: {output}")


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Latency tables.")],
    reseal: Annotated[
        bool, typer.Option("--reseal", help="Accept deliberate edits: check the values, write a new sha256.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that tables are whole: schema, checksum, every latency.

    Example: `hwnas table validate runs/digits/latency_table.json`
    """
    from hwnas.latency.table import LatencyTable
    from hwnas.store import parse_json, read_bytes

    valid, wrong = {}, {}
    for file in files:
        try:
            if reseal:
                LatencyTable.from_dict(parse_json(file, read_bytes(file)), file).save(file)
            valid[str(file)] = len(LatencyTable.load(file).operators)
        except HwnasError as error:
            wrong[str(file)] = str(error)
    if as_json:
        print_json({"valid": valid, "wrong": wrong})
    else:
        for name, count in valid.items():
            say(f"{name}: valid, {count} operators{', sealed anew' if reseal else ''}")
    for message in wrong.values():
        complain(message)
    if wrong:
        raise typer.Exit(1)


def diff(a: TableFile, b: TableFile, top: Top = 20, as_json: AsJson = False) -> None:
    """Compare two tables: which operators differ, and by how much.

    Example: `hwnas table diff runs/one/latency_table.json runs/two/latency_table.json`
    """
    from hwnas.latency.table import LatencyTable

    tables = [LatencyTable.load(file) for file in (a, b)]
    left, right = (table.operators for table in tables)
    common = [key for key in left if key in right]
    ratio = {key: right[key].ms / left[key].ms for key in common}
    differing = sorted((key for key in common if ratio[key] != 1), key=lambda k: -abs(math.log(ratio[k])))
    only_a, only_b = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    rows = [{"key": k, "a_ms": left[k].ms, "b_ms": right[k].ms, "ratio": ratio[k]} for k in differing]
    if as_json:
        print_json({"common": len(common), "differing": rows, "only_a": only_a, "only_b": only_b})
        return
    for name, file, table in zip("ab", (a, b), tables, strict=True):
        say(f"{name}: {file}, {table.title}, threads {table.runtime.get('threads')}")
    if not common:
        say("No operator is in both: they are of different spaces, or of different resolutions.")
    median = f", median ratio b/a {statistics.median(ratio.values()):.3f}" if ratio else ""
    say(f"{len(common)} operators in both{median}; {len(only_a)} only in {a}, {len(only_b)} only in {b}")
    shown = Table(title=f"The {min(top, len(rows))} that differ most")
    shown.add_column("operator", overflow="fold")
    for column in ("a ms", "b ms", "b/a"):
        shown.add_column(column, justify="right")
    for row in rows[:top]:
        shown.add_row(plain(str(row["key"])), *(f"{row[name]:.4f}" for name in ("a_ms", "b_ms", "ratio")))
    if rows:
        out.print(shown)


Format = Annotated[
    str, typer.Option("--format", help="The other format; ofa: Once-for-All and ProxylessNAS.")
]
OutFile = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="File to write.")]


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="Tables of one device in the other format, or folders that hold them."
        ),
    ],
    output: OutFile,
    device: Annotated[str, typer.Option("--device", help="Name of the device that they were measured on.")],
    form: Format = "ofa",
    as_json: AsJson = False,
) -> None:
    """Make a latency table of another project's look-up table, and say what has no counterpart.

    A row that is in several files gets the mean of them, weighted by count.

    Example: `hwnas table import lut.yaml --device "Pixel 1" -o latency_tables/pixel1.json`

    One file a resolution: `hwnas table import latency_table@note10 --device "Note 10" -o note10.json`
    """
    from hwnas.latency.formats import get_format

    found = get_format(form).read(files, device)
    found.table.save(output)
    _say_written(output, len(found.table.operators), found.skipped, found.notes, as_json)


def export(file: TableFile, output: OutFile, form: Format = "ofa", as_json: AsJson = False) -> None:
    """Write a latency table in another project's format, and say what that cannot hold.

    Example: `hwnas table export latency_tables/i7-8700k-ofa-mobilenetv3.json --format ofa -o lut.yaml`
    """
    from hwnas.latency.formats import get_format
    from hwnas.latency.table import LatencyTable

    table = LatencyTable.load(file)
    skipped = get_format(form).write(table, output)
    notes = ["the calibration has no place in this format"] if table.calibration else []
    _say_written(output, len(table.operators) - sum(map(len, skipped.values())), skipped, notes, as_json)


def _say_written(
    output: Path, operators: int, skipped: dict[str, list[str]], notes: Iterable[str], as_json: bool
) -> None:
    with summary_beside(output):
        if as_json:
            facts = {"operators": operators, "skipped": skipped, "notes": list(notes)}
            print_json({"table": str(output), **facts})
            return
        say(f"{output}: {operators} operators")
        for reason, keys in skipped.items():
            say(f"left out {len(keys)}, such as {keys[0]}: {reason}")
        for note in notes:
            say(f"note: {note}")
