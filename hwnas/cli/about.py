"""What there is to choose from, what this machine is like, and how parts of hwnas compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hwnas.cli.display import StageDisplay, out, plain, print_json, say
from hwnas.cli.options import AsJson
from hwnas.cli.render import predictors_table
from hwnas.errors import ConfigError, known_names


def bench_predictor(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CSV (also ; or tabs) or CSV.gz, a row for each architecture."),
    ],
    target: Annotated[str, typer.Option("--target", metavar="COLUMN", help="The column to predict.")],
    train_rows: Annotated[int, typer.Option("--train", min=2, help="Rows that are learnt from.")] = 100,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How often rows are drawn.")] = 10,
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="COLUMN", help="Learn from this column, or pattern. Repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="COLUMN", help="Leave out this column, or pattern. Repeatable."),
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option("--categorical", metavar="COLUMN", help="Numbers that only name something. Repeatable."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="COLUMN", help="Cut these texts into characters. Repeatable."),
    ] = None,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out rows whose target is not a finite number.")
    ] = False,
    predictors: Annotated[
        list[str] | None,
        typer.Option("--predictor", help="One of `hwnas list predictors`; default all. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare predictors on a table of architectures: fitted on some rows, judged on up to 1000 others.

    Columns that are made of the target, such as other measurements, must be left out.

    Example: `hwnas bench predictor latencies.csv --target ms --exclude id --exclude "other_ms*" --train 100`
    """
    from hwnas.predictors import PREDICTORS
    from hwnas.predictors.bench import compare, read_table, summarise

    columns = (features or (), exclude or (), categorical or (), split or ())
    table = read_table(file, target, *columns, drop_missing)
    names = list(dict.fromkeys(predictors or PREDICTORS))
    with StageDisplay() as display:
        scores = compare(table.features, table.targets, names, train_rows, seeds, display("bench"))
    found = {name: summarise(scores[name]) for name in names}
    facts = {
        "rows": len(table.targets),
        "duplicates": table.duplicates,
        "dropped": table.dropped,
        "row_labels": list(table.row_labels),
        "features": list(table.names),
    }
    if as_json:
        settings = {"file": str(file), "target": target, "train": train_rows, "seeds": seeds}
        print_json({**settings, **facts, "predictors": found})
        return
    joined = f" ({table.duplicates} more have the features of another)" if table.duplicates else ""
    say(f"{file}: {len(table.targets)} rows{joined}, {len(table.names)} features, target {target}")
    if table.dropped:
        say(f"Left out: {table.dropped} rows whose {target} is not a finite number")
    for name in table.row_labels:
        too = f"--features '*' --features {name!r}"
        say(f"Left out: column {name!r}, which numbers the rows; to learn from it too: {too}")
    say(f"Learnt from {train_rows} rows, drawn {seeds} times; mean±standard deviation")
    out.print(predictors_table(found))


def list_(
    what: Annotated[
        str, typer.Argument(metavar="spaces|devices|predictors|strategies|algorithms", help="What to list.")
    ],
    as_json: AsJson = False,
) -> None:
    """List what an experiment can name.

    Example: `hwnas list strategies`
    """
    from hwnas.latency.devices import DEVICES
    from hwnas.predictors import PREDICTORS
    from hwnas.searching.strategies import ALGORITHMS, STRATEGIES
    from hwnas.spaces import SPACES

    known: dict[str, Iterable[str]] = {
        "spaces": SPACES,
        "devices": DEVICES,
        "predictors": PREDICTORS,
        "strategies": STRATEGIES,
        "algorithms": ALGORITHMS,
    }
    if what not in known:
        raise ConfigError(f"cannot list {what!r}; {known_names(what, known)}")
    names = list(known[what])
    if as_json:
        print_json({what: names})
    else:
        for name in names:
            out.print(name)


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: versions, cores, load, timing noise, and what to do about each.

    Example: `hwnas doctor`
    """
    from hwnas.latency.doctor import examine

    findings = examine()
    if as_json:
        print_json({"findings": [{**asdict(finding), "ok": finding.ok} for finding in findings]})
        return
    shown = Table()
    for column in ("", "what", "found", "what to do"):
        shown.add_column(column)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]look[/]"
        shown.add_row(mark, finding.name, plain(finding.value), plain(finding.advice))
    out.print(shown)
