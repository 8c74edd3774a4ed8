"""The command: parse, call, print. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from hwnas.config import parse_override
from hwnas.errors import ConfigError, HwnasError
from hwnas.progress import Progress

out = Console()
err = Console(stderr=True)

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
    epilog="Exit codes: 0 done; 1 an error, with its remedy; 2 wrong usage; 3 done, but a budget is not met.",
)
table_app = typer.Typer(no_args_is_help=True, help="Look at, check and compare latency tables.")
app.add_typer(table_app, name="table")

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
        metavar="STAGE",
        help="Make a stage again, and what follows from it: profile, train, search, export, verify, "
        "report or all.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on where an earlier run in the folder stopped (the default).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one machine-readable object.")]


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


# ---- the job and its stages ----------------------------------------------------------------------


@app.command("run")
def run_command(
    config: ConfigFile,
    settings: Set = None,
    run_dir: RunDir = None,
    seed: Seed = None,
    budgets: Budget = None,
    resume: Resume = True,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """The whole job: profile, train, search, export, verify, report. Goes on where it stopped.

    Example: `hwnas run configs/digits.yaml --latency-budget-ms 0.1 --set search.evaluations=100`
    """
    from hwnas.pipeline import STAGES, open_run

    job = open_run(config, run_dir=run_dir, overrides=overrides_of(settings, seed, budgets))
    _make(job, list(STAGES), restart, as_json)
    _finish(job, as_json)


@app.command()
def profile(
    config: ConfigFile,
    settings: Set = None,
    run_dir: RunDir = None,
    seed: Seed = None,
    resume: Resume = True,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """Measure the latency table of this machine for the space of an experiment.

    Example: `hwnas profile configs/digits.yaml --set latency.threads=2`
    """
    from hwnas.pipeline import open_run

    job = open_run(config, run_dir=run_dir, overrides=overrides_of(settings, seed))
    _make(job, ["profile"], restart, as_json)
    path = job.directory / "latency_table.json"
    if as_json:
        _print_json({"table": str(path), **table_facts(path)})
    else:
        out.print(job.table.summary(), markup=False, highlight=False)
        out.print(f"Table: {path}", markup=False, highlight=False)


@app.command()
def train(
    config: ConfigFile,
    settings: Set = None,
    run_dir: RunDir = None,
    seed: Seed = None,
    resume: Resume = True,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """Train the supernet of an experiment. An interrupted training goes on from its checkpoint.

    Example: `hwnas train configs/digits.yaml --set training.steps=3000`
    """
    from hwnas.pipeline import open_run

    job = open_run(config, run_dir=run_dir, overrides=overrides_of(settings, seed))
    _make(job, ["train"], restart, as_json)
    facts = job.outputs("train")
    if as_json:
        _print_json({"supernet": str(job.directory / "supernet"), "checksum": facts["checksum"]})
    else:
        out.print(f"Supernet: {job.directory / 'supernet'}", markup=False, highlight=False)


def _stage_command(name: str, doc: str) -> None:
    """A command that makes one stage in the folder of a run."""

    def command(
        run: RunFolder,
        settings: Set = None,
        seed: Seed = None,
        budgets: Budget = None,
        resume: Resume = True,
        restart: Restart = None,
        as_json: AsJson = False,
    ) -> None:
        from hwnas.pipeline import load_run

        job = load_run(run, overrides_of(settings, seed, budgets))
        _make(job, [name], restart, as_json)
        _finish(job, as_json)

    command.__doc__ = doc
    app.command(name)(command)


_stage_command(
    "search",
    """Search the front of a run whose table and supernet are there.

    Example: `hwnas search runs/digits --restart search --set search.evaluations=400`
    """,
)
_stage_command(
    "export",
    """Write the models of the searched front as ONNX, checked against torch.

    Example: `hwnas export runs/digits`
    """,
)
_stage_command(
    "verify",
    """Measure the exported models on the device, and recompute the front on what was measured.

    Example: `hwnas verify runs/digits --restart verify`
    """,
)
_stage_command(
    "report",
    """Write figures and report.html of a verified run.

    Example: `hwnas report runs/digits --restart report`
    """,
)


def _make(job: Any, stages: Sequence[str], restart: str | None, as_json: bool) -> None:
    """Make stages of a run under a progress display, with a log in the run's folder."""
    with _logging_to(job.directory / "hwnas.log"):
        if restart is not None:
            job.restart(restart)
        with StageDisplay() as display:
            for stage in stages:
                job.make(stage, display)


def _finish(job: Any, as_json: bool) -> None:
    """Print what a run has so far, and exit with 3 if a budget is not met."""
    summary = job.summary()
    if as_json:
        _print_json(summary)
    else:
        if summary["models"]:
            out.print(models_table(summary["models"]))
        for budget in summary["budgets"]:
            out.print(_budget_line(budget), markup=False, highlight=False)
        if summary["report"]:
            out.print(f"Report: {summary['report']}", markup=False, highlight=False)
        if summary["models"]:
            card = job.directory / "models" / "<model>" / "README.md"
            out.print(
                f"To use a model: onnxruntime.InferenceSession(…/model.onnx), see {card}",
                markup=False,
                highlight=False,
            )
    if any(budget["model"] is None for budget in summary["budgets"] if budget["verified"]):
        raise typer.Exit(3)


def _budget_line(budget: dict[str, Any]) -> str:
    if budget["model"] is None:
        return f"For {budget['budget_ms']:g} ms: no model keeps it"
    word = "take" if budget["verified"] else "probably"
    line = f"For {budget['budget_ms']:g} ms {word} {budget['model']} ({budget['validation_accuracy']:.2f} %)"
    return f"{line}; {', '.join(budget['missed'])} missed it" if budget["missed"] else line


def models_table(models: Sequence[dict[str, Any]]) -> Table:
    """The front as a table for the terminal, fastest first."""
    table = Table(title="Pareto front")
    for column in (
        "model",
        "val %",
        "test %",
        "predicted ms",
        "measured ms",
        "MMACs",
        "k params",
        "budget",
        "status",
    ):
        table.add_column(column, justify="left" if column in ("model", "status") else "right")
    for model in models:
        measured, budget = model["measured"]["latency_ms"], model["budget_ms"]
        test = model["test_accuracy"]
        table.add_row(
            model["id"],
            f"{model['validation_accuracy']:.2f}",
            "" if test is None else f"{test:.2f}",
            f"{model['predicted']['latency_ms']:.4f}",
            "" if measured is None else f"{measured:.4f}",
            f"{model['macs'] / 1e6:.2f}",
            f"{model['params'] / 1e3:.1f}",
            "" if budget is None else f"≤ {budget:g} ms",
            model["status"],
        )
    return table


# ---- tables --------------------------------------------------------------------------------------

TableFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A latency table, such as latency_tables/my-board.json.")
]


def table_facts(path: Path) -> dict[str, Any]:
    """A latency table without its operators."""
    from hwnas.latency.table import LatencyTable

    table = LatencyTable.load(path, force=True)
    return {
        "device": table.device,
        "runtime": table.runtime,
        "protocol": table.protocol,
        "calibration": table.calibration,
        "operators": len(table.operators),
    }


@table_app.command("show")
def table_show(file: TableFile, as_json: AsJson = False, top: int = 10) -> None:
    """Summarise a table: device, quality, and its costliest operators.

    Example: `hwnas table show runs/digits/latency_table.json`
    """
    from hwnas.latency.table import LatencyTable

    table = LatencyTable.load(file, force=True)
    if as_json:
        _print_json(table_facts(file))
        return
    out.print(table.summary(), markup=False, highlight=False)


@table_app.command("validate")
def table_validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Latency tables.")],
    reseal: Annotated[
        bool, typer.Option("--reseal", help="Accept deliberate edits: write a new sha256.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that tables are whole: schema, checksum, every latency.

    Example: `hwnas table validate latency_tables/my-board.json`
    """


@table_app.command("diff")
def table_diff(a: TableFile, b: TableFile, as_json: AsJson = False, top: int = 20) -> None:
    """Compare two tables: which operators differ, and by how much.

    Example: `hwnas table diff latency_tables/one-thread.json latency_tables/two-threads.json`
    """


# ---- what there is -------------------------------------------------------------------------------


@app.command("list")
def list_command(
    what: Annotated[
        str, typer.Argument(metavar="spaces|devices|predictors|strategies", help="What to list.")
    ],
    as_json: AsJson = False,
) -> None:
    """List what an experiment can name.

    Example: `hwnas list strategies`
    """
    from hwnas.latency.devices import DEVICES
    from hwnas.predictors import PREDICTORS
    from hwnas.searching.strategies import STRATEGIES
    from hwnas.spaces import SPACES

    known: dict[str, Iterable[str]] = {
        "spaces": SPACES,
        "devices": DEVICES,
        "predictors": PREDICTORS,
        "strategies": STRATEGIES,
    }
    if what not in known:
        raise ConfigError(f"cannot list {what!r}; known: {', '.join(known)}")
    names = list(known[what])
    if as_json:
        _print_json({what: names})
    else:
        for name in names:
            out.print(name, markup=False, highlight=False)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: versions, cores, load, timing noise, and what to do about each.

    Example: `hwnas doctor`
    """


# ---- display -------------------------------------------------------------------------------------


class RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


class StageDisplay:
    """One bar a stage: done, rate, time spent and left, and a line of text, on standard error."""

    def __init__(self) -> None:
        self._progress = RichProgress(
            TextColumn("[bold]{task.description:8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=err,
        )

    def __enter__(self) -> StageDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str) -> Progress:
        task = self._progress.add_task(stage, total=None, text="")

        def update(done: int, total: int, text: str = "") -> None:
            self._progress.update(task, completed=done, total=total, text=text)

        return update


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """The log of hwnas into a file; warnings to standard error too."""
    logger = logging.getLogger("hwnas")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)
    for handler in (file, screen):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (file, screen):
            logger.removeHandler(handler)
        file.close()


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


def main() -> None:
    """Entry point: an HwnasError is one line on standard error and exit code 1."""
    try:
        app()
    except HwnasError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        err.print("interrupted; the same command goes on from here", highlight=False)
        raise SystemExit(130) from None
