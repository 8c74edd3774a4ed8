"""Options and arguments that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.config import parse_cores, parse_override
from hwnas.errors import ConfigError

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="Experiment file, such as configs/digits.yaml.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, such as runs/digits.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set any field, such as search.evaluations=100. Repeatable."
    ),
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the run; relative ones are under runs/.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything that is drawn.")]
Budget = Annotated[
    list[float] | None,
    typer.Option("--latency-budget-ms", help="Latency budget; the loosest bounds the search. Repeatable."),
]
Restart = Annotated[
    str | None,
    typer.Option(
        "--restart",
        metavar="[STAGE]",
        help="Make a stage of this command again, and what follows from it; without a stage, all of them.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an earlier run in the folder stopped (the default).")
]
Cores = Annotated[
    str | None,
    typer.Option(
        "--cores",
        metavar="LIST",
        help="Time on some of these cores, such as 4-7 or 0,2; by default on the fastest kind.",
    ),
]
AllowNoisy = Annotated[
    bool, typer.Option("--allow-noisy", help="Keep a table that other work disturbed, flagged.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one machine-readable object.")]


def cores_of(text: str | None) -> tuple[int, ...] | None:
    """The cores that `--cores` names; ConfigError if it is no list of cores."""
    try:
        return None if text is None else parse_cores(text)
    except ValueError as error:
        raise ConfigError(f"--cores: {error}") from None


def overrides_of(
    settings: Sequence[str] | None, seed: int | None = None, budgets: Sequence[float] | None = None
) -> dict[str, Any]:
    """The fields that options set, by dotted key."""
    fields = dict(parse_override(text) for text in settings or ())
    if seed is not None:
        fields["seed"] = seed
    if budgets:
        fields["latency.budgets_ms"] = list(budgets)
    return fields
