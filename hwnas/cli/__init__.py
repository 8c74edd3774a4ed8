"""The command: parse, call, print. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import typer

from hwnas.cli import about, job, models, tables
from hwnas.cli.display import complain
from hwnas.cli.streams import never_fail_to_encode
from hwnas.errors import HwnasError
from hwnas.text import printable

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Hardware-aware multi-objective neural architecture search.\n\n"
        "`hwnas run configs/digits.yaml` does the whole job: it measures a latency table of this machine, "
        "trains a supernet, searches the front of accuracy against latency, exports its models, measures "
        "them again and reports. The other commands do one stage of a run, in its folder under `runs/`."
    ),
    epilog=(
        "Exit codes: 0 done; 1 an error, with its remedy; 2 wrong usage; 3 done, but a budget is not met. "
        "`--debug` shows where an error comes from."
    ),
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "run": job.run,
    "profile": job.profile,
    "train": job.train,
    "search": job.search,
    "export": job.export,
    "verify": job.verify,
    "report": job.report,
    "front": models.front,
    "finetune": models.finetune,
    "predict": models.predict,
    "benchmark": models.benchmark,
    "list": about.list_,
    "doctor": about.doctor,
}
for name, command in _COMMANDS.items():
    app.command(name)(command)

table_app = typer.Typer(no_args_is_help=True, help="Look at, check and compare latency tables.")
app.add_typer(table_app, name="table")
_TABLE_COMMANDS: dict[str, Callable[..., None]] = {
    "show": tables.show,
    "build": tables.build,
    "validate": tables.validate,
    "diff": tables.diff,
    "import": tables.import_,
    "export": tables.export,
}
for name, command in _TABLE_COMMANDS.items():
    table_app.command(name)(command)

bench_app = typer.Typer(no_args_is_help=True, help="Compare parts of hwnas on data of your own.")
app.add_typer(bench_app, name="bench")
bench_app.command("predictor")(about.bench_predictor)


def main() -> None:
    """Entry point: an HwnasError is one line on standard error, or its traceback, and exit code 1."""
    never_fail_to_encode()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=_with_stage(arguments))
    except HwnasError as error:
        if "--debug" in sys.argv:
            sys.stderr.write(printable(traceback.format_exc()))
        else:
            complain(error)
        raise SystemExit(1) from None


def _with_stage(arguments: list[str]) -> list[str]:
    """`--restart` without a stage, before an option, a file or nothing, means all of them.

    Fine-tuning has no stages.
    """
    if "--restart" not in arguments or arguments[0] == "finetune":
        return arguments
    from hwnas.pipeline import STAGES

    found: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        found.append(argument)
        without = not following or following.startswith("-") or Path(following).exists()
        if argument == "--restart" and following not in STAGES and without:
            found.append("all")
    return found
