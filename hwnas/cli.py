"""The command: parse, call, print. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import math
import re
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column, Table
from rich.text import Text

from hwnas.config import parse_override
from hwnas.errors import ConfigError, HwnasError, known_names
from hwnas.progress import Progress
from hwnas.text import PrintableFormatter, printable

if TYPE_CHECKING:  # heavy imports wait until a command needs them
    from hwnas.pipeline import Run

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
    epilog=(
        "Exit codes: 0 done; 1 an error, with its remedy; 2 wrong usage; 3 done, but a budget is not met. "
        "`--debug` shows where an error comes from."
    ),
)
table_app = typer.Typer(no_args_is_help=True, help="Look at, check and compare latency tables.")
app.add_typer(table_app, name="table")
bench_app = typer.Typer(no_args_is_help=True, help="Compare parts of hwnas on data of your own.")
app.add_typer(bench_app, name="bench")

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
AllowNoisy = Annotated[
    bool, typer.Option("--allow-noisy", help="Keep a table that other work disturbed, flagged.")
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
    _make(job, list(STAGES), restart)
    _finish(job, as_json)


@app.command()
def profile(
    config: ConfigFile,
    settings: Set = None,
    device: Annotated[
        str | None, typer.Option("--device", help="As latency.device, such as ssh://user@host:port.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Measure nothing here: write what a board without a network measures."),
    ] = None,
    time_limit_s: Annotated[
        float | None, typer.Option("--time-limit", metavar="SECONDS", help="Measure no longer than this.")
    ] = None,
    allow_noisy: AllowNoisy = False,
    run_dir: RunDir = None,
    seed: Seed = None,
    resume: Resume = True,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """Measure the latency table of a device for the space of an experiment.

    Example: `hwnas profile configs/digits.yaml --device ssh://pi@192.168.1.7 --set latency.threads=2`
    """
    from hwnas.latency.bundle import write_bundle
    from hwnas.pipeline import open_run

    overrides = overrides_of(settings, seed)
    if device is not None:
        overrides["latency.device"] = device
    if time_limit_s is not None:
        overrides["latency.time_limit_s"] = time_limit_s
    if allow_noisy:
        overrides["latency.allow_noisy"] = True
    job = open_run(config, run_dir=run_dir, overrides=overrides)
    if bundle is not None:
        latency = job.config.latency
        write_bundle(
            job.space,
            bundle,
            latency.threads,
            rounds=latency.rounds,
            calibration_networks=latency.calibration_networks,
            held_out_networks=latency.held_out_networks,
            seed=job.config.seed,
            batch_size=latency.batch_size,
        )
        if as_json:
            _print_json({"bundle": str(bundle)})
        else:
            _say(f"Bundle: {bundle}")
            _say(f"On the board: python3 {bundle.name}; then here: hwnas table build results.json -o FILE")
        return
    _make(job, ["profile"], restart)
    path = job.directory / job.latency_file
    if as_json:
        facts = job.latency.to_dict()
        counts = {name: len(facts[name]) for name in ("operators", "networks") if name in facts}
        _print_json({"table": str(path), **facts, **counts})
    else:
        _say(job.latency.summary())
        _say(f"Table: {path}")


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

    In several processes, each with a part of every batch: `torchrun --nproc-per-node 2 -m hwnas train CONFIG`
    """
    from hwnas.pipeline import open_run

    job = open_run(config, run_dir=run_dir, overrides=overrides_of(settings, seed))
    _make(job, ["train"], restart)
    if job.follows:
        return
    facts = job.outputs("train")
    if as_json:
        _print_json({"supernet": str(job.directory / "supernet"), "checksum": facts["checksum"]})
    else:
        _say(f"Supernet: {job.directory / 'supernet'}")


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
        _make(job, [name], restart)
        _finish(job, as_json)

    command.__doc__ = doc
    app.command(name)(command)


@app.command()
def search(
    run: RunFolder,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="TABLE", help="Search for the device of this latency table instead."),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="Folder of the other device's run; with --table.")
    ] = None,
    evaluations: Annotated[
        str | None,
        typer.Option(
            "--evaluations",
            metavar="N|+N",
            help="So many evaluations in all, or so many more; a finished search goes on from where it was.",
        ),
    ] = None,
    executor: Annotated[
        str | None, typer.Option("--executor", help="What evaluates: serial, process or ray.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Workers of process or ray; by default one a core.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="HOST:PORT", help="A running Ray cluster.")
    ] = None,
    settings: Set = None,
    seed: Seed = None,
    budgets: Budget = None,
    resume: Resume = True,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """Search the front of a run whose table and supernet are there; or of its supernet for another device.

    Example: `hwnas search runs/digits --restart search --set search.evaluations=400`

    Another device: `hwnas search runs/digits --table board.json --run-dir board`

    More of the same: `hwnas search runs/digits --evaluations +100 --executor process`
    """
    from hwnas.pipeline import load_run, more_evaluations, run_for_device

    overrides = overrides_of(settings, seed, budgets)
    for name, value in (("executor", executor), ("workers", workers), ("ray_address", ray_address)):
        if value is not None:
            overrides[f"search.{name}"] = value
    if evaluations is not None:
        if re.fullmatch(r"\+?[0-9]+", evaluations) is None:
            raise ConfigError(f"--evaluations takes a number, or +100 for so many more, got {evaluations!r}")
        number = int(evaluations)
        if evaluations.startswith("+"):
            if table is not None:
                raise ConfigError(
                    f"{evaluations} goes on from a finished search: give that folder, no --table"
                )
            number = more_evaluations(load_run(run), number)
        overrides["search.evaluations"] = number
    job = load_run(run, overrides)
    if table is None and run_dir is None:
        again = f"interrupted; hwnas search {run} goes on from here" if evaluations else GOES_ON
        _make(job, ["search"], restart, extend=evaluations is not None, interrupted=again)
    elif table is None or run_dir is None:
        raise ConfigError("--table and --run-dir go together: another device's table, and its run's folder")
    else:
        job = run_for_device(job, table, run_dir)
        _make(job, ["profile", "search"], restart, extend=evaluations is not None)
        known, new = job.accuracies
        err.print(_cell(f"Accuracies: {known} known from {run}, {new} evaluated anew"), soft_wrap=True)
    _finish(job, as_json)


_stage_command(
    "export",
    """Write the models of the searched front as ONNX and as plain torch networks, checked against each other.

    Example: `hwnas export runs/digits`

    Also in 8 bits, kept where faster: `hwnas export runs/digits --set export.int8=true --restart export`
    """,
)


@app.command()
def verify(
    run: RunFolder,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Measure there, such as openvino or ssh://user@host; by default the run's own."
        ),
    ] = None,
    settings: Set = None,
    seed: Seed = None,
    budgets: Budget = None,
    resume: Resume = True,
    restart: Restart = None,
    as_json: AsJson = False,
) -> None:
    """Measure the exported models together on the device, and recompute the front on what was measured.

    Each latency has a 95 % interval. A budget is met if the whole interval keeps it, missed if none of it
    does, and otherwise, after more rounds, undecidable at this noise. A promised model that does not keep its
    budget is replaced by the next one.

    Example: `hwnas verify runs/digits`

    Again, on another day: `hwnas verify runs/digits --restart` says which latencies are no longer what they
    were; each model's architecture.json keeps all its verifications.

    On another device: `hwnas verify runs/digits --device ssh://pi@192.168.1.7` adds what is measured there
    under that device's name, and leaves the run's own latencies as they are.
    """
    from hwnas.pipeline import load_run
    from hwnas.verifying import device_of, verify_elsewhere

    job = load_run(run, overrides_of(settings, seed, budgets))
    if device is not None:
        there, own = device_of(job, device)
        if not own:
            with _interruptible(_not_kept(device)) as display:
                found = verify_elsewhere(job, device, there, display("verify"))
            if as_json:
                _print_json(found)
            else:
                out.print(_elsewhere_table(found))
                for reason in found["measured_on"]["noise"]:
                    _say(f"Disturbed: {reason}")
            return
        job.device = device
    before = job.store.stage("verify") is not None and restart is None
    _make(job, ["verify"], restart)
    if before:
        err.print(_cell(f"Verified before; to measure again: hwnas verify {run} --restart"), soft_wrap=True)
    _finish(job, as_json)


def _elsewhere_table(found: dict[str, Any]) -> Table:
    """What was measured on another device, fastest first; fits 80 columns."""
    about = found["measured_on"]
    title = f"On {about['name']}, {about['runtime']['name']} {about['runtime']['version']}"
    table = Table(title=_cell(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in ("val %", "ms", "95 %", "run's own ms", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("since last time", no_wrap=True)
    for model in sorted(found["models"], key=lambda model: float(model["latency_ms"])):
        ms, own, drift = model["latency_ms"], model["own_latency_ms"], model["drift"]
        table.add_row(
            _cell(model["id"]),
            f"{model['accuracy']:.2f}",
            f"{ms:.4g}",
            _interval(model["latency_ci_ms"], ms),
            "" if own is None else f"{own:.4g}",
            "" if own is None else f"{ms / own:.2f}",
            "" if drift is None else f"{100 * drift:+.1f} %",
        )
    return table


def _interval(ci_ms: Sequence[float] | None, ms: float) -> str:
    """An interval around a latency in percent of it."""
    return "" if ci_ms is None else f"±{50 * (ci_ms[1] - ci_ms[0]) / ms:.1f} %"


_stage_command(
    "report",
    """Write figures and report.html of a verified run.

    Example: `hwnas report runs/digits --restart report`
    """,
)


# ---- using what was found ------------------------------------------------------------------------


@app.command()
def front(
    run: RunFolder,
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", metavar="MS", help="Only models that are this fast.")
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option("--min-accuracy", metavar="PERCENT", help="Only models of this validation accuracy."),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="accuracy|latency_ms|macs|params", help="Which comes first.")
    ] = "accuracy",
    as_json: AsJson = False,
) -> None:
    """Show the front of a run to choose from: by measured latency, or before it is verified by the predicted.

    Of a search that is still running it shows the front so far.

    The model marked "knee" is where the front bends: it lies farthest beyond the line between the two ends,
    both scaled to 0 … 1; from there a little more of one costs much of the other.

    Example: `hwnas front runs/digits --max-latency-ms 2 --min-accuracy 80 --sort latency_ms`
    """
    from hwnas.choosing import choose
    from hwnas.pipeline import load_run

    bounds = {"max_latency_ms": max_latency_ms, "min_accuracy": min_accuracy}
    found = choose(load_run(run), {name: v for name, v in bounds.items() if v is not None}, sort)
    if as_json:
        _print_json(found)
        return
    out.print(_front_table(found["models"]))
    for line in _dropped_int8(found["models"]):
        _say(line)
    if found["unfinished"] is not None:
        _say("The front so far, of {} evaluations of {}".format(*found["unfinished"]))
    finished = found["unfinished"] is None
    more = f"; measure it: hwnas export {run}, hwnas verify {run}" if finished else ""
    more = "" if found["latency"] == "measured" else more
    _say(f"Latency: {found['latency']}{more}")
    if found["missed"]:
        _say(f"Left out, measured too slow for every budget: {', '.join(found['missed'])}")


def _front_table(models: Sequence[dict[str, Any]]) -> Table:
    """Models to choose from, in their order; fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    bits = _bits(models)
    table.add_column("model", no_wrap=True)
    if bits:
        table.add_column("bits", justify="right")
    for column in ("val %", "test %", "ms", "95 %", "MMACs", "k params"):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for column in ("status", ""):
        table.add_column(column, no_wrap=True)
    for model in models:
        test, ms = model["test_accuracy"], model["latency_ms"]
        table.add_row(
            _cell(model["id"]),
            *([bits[model["id"]]] if bits else []),
            f"{model['accuracy']:.2f}",
            "" if test is None else f"{test:.2f}",
            f"{ms:.4g}",
            _interval(model["latency_ci_ms"], ms),
            f"{model['macs'] / 1e6:.3g}",
            f"{model['params'] / 1e3:.4g}",
            _cell(model["status"]),
            "knee" if model["knee"] else "",
        )
    return table


@app.command()
def finetune(
    run: RunFolder,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="The model, see hwnas front RUN.")],
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of the run's training data.")],
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Peak; by default a tenth of that of the run's training."),
    ] = None,
    resume: Resume = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Train anew what is finished, or was made otherwise.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model of the front on, from the weights that it inherits, into a new model beside it.

    It learns from the run's own data, with its augmentation, on labels and on what the supernet's largest
    network says. The result is the model ID-ftEPOCHS, exported, and verified in a verified run; the old one
    stays. The gain on validation is that on the same images, with a 95 % interval.

    Example: `hwnas finetune runs/digits --model 0180237ea8ca --epochs 20`
    """
    from hwnas.finetuning import finetune_model
    from hwnas.pipeline import load_run

    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ConfigError(f"--learning-rate is {learning_rate:g}; give a positive number")
    job = load_run(run)
    with _interruptible(GOES_ON) as display:
        entry = finetune_model(job, model, epochs, learning_rate, restart, display)
    if as_json:
        _print_json({"run": str(run), "model": entry})
        return
    made, accuracy, measured = entry["finetuned"], entry["validation_accuracy"], entry["measured"]
    gain, (low, high) = made["gain"], made["gain_ci"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "no certain difference"
    _say(f"{entry['id']}: validation {accuracy:.2f} %, was {accuracy - gain:.2f} %, so {verdict}")
    _say(f"Gain: {gain:+.2f} points (95 %: {low:+.2f} to {high:+.2f}); test {entry['test_accuracy']:.2f} %")
    if measured["latency_ms"] is None:
        _say(f"Not measured yet: hwnas verify {run}")
    else:
        _say(f"Latency: {measured['latency_ms']:.4g} ms, {entry['status']}; all models: hwnas front {run}")
    _say(f"Model: {job.directory / 'models' / entry['id'] / 'model.onnx'}")


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder under models/ of a run, or its model.onnx.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to name.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Say what is on images, by an exported model: its most probable classes.

    The file says how images are prepared and what the classes are called; nothing else of the run is needed,
    and no torch. Images that cannot be read are named, and the exit code is then 1.

    Example: `hwnas predict runs/digits/models/0180237ea8ca photo.png --top 3`
    """
    from hwnas.export.predict import Predictor

    predictor = Predictor(model)
    found: list[dict[str, Any]] = []
    wrong = []
    for image in images:
        try:
            found.append({"image": str(image), "top": predictor.top(image, top)})
        except HwnasError as error:
            wrong.append(str(error))
    if as_json:
        _print_json({"model": str(model), "predictions": found, "wrong": wrong})
    else:
        for row in found:
            classes = (f"{kind['class']} {100 * kind['probability']:.1f} %" for kind in row["top"])
            _say(f"{row['image']}: {', '.join(classes)}")
    for message in wrong:
        _complain(message)
    if wrong:
        raise typer.Exit(1)


@app.command()
def benchmark(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL…", help="ONNX files, or folders that hold a model.onnx.")
    ],
    device: Annotated[
        str, typer.Option("--device", help="One of `hwnas list devices`, or ssh://user@host:port.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of one inference.")] = 1,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME:SHAPE", help="Size of an input that a file leaves open. Repeatable."
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=12, help="Shuffled rounds, shared by six passes.")
    ] = 48,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order of visits.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Time any ONNX files together, by the protocol of `hwnas verify`, and compare each with the first.

    The files take turns, warm and back to back, in six passes with fresh sessions. Intervals are of 95 % over
    the passes; those of ratios are narrower, since what slows all files down alike cancels. A file has one
    input of floats; a batch that is left open is 1.

    Example: `hwnas benchmark ours.onnx theirs.onnx --device ssh://pi@192.168.1.7 --threads 4`

    Sizes that a file leaves open: `hwnas benchmark net.onnx --input image:1x3x224x224`
    """
    from hwnas.latency.benchmark import benchmark as time_files
    from hwnas.latency.benchmark import parse_shape
    from hwnas.latency.devices import get_device

    shapes = dict(map(parse_shape, inputs or ()))
    with _interruptible(_not_kept(device)) as display:
        found = time_files(models, get_device(device, threads), shapes, rounds, seed, display("benchmark"))
    if as_json:
        _print_json(found)
        return
    out.print(_benchmark_table(found))
    for row in found["models"]:
        for note in row["notes"]:
            _say(f"{row['file']}: {note}")
        if not row["stable"]:
            _say(f"{row['file']}: does not repeat to ±5 %; see hwnas doctor, or give more --rounds")
    for reason in found["noise"]:
        _say(f"Disturbed: {reason}")


def _benchmark_table(found: dict[str, Any]) -> Table:
    """Files that were timed, in their order; fits 80 columns."""
    runtime = found["runtime"]
    about = (
        f"{found['device']['name']}, {runtime['name']} {runtime['version']}, threads: {runtime['threads']}"
    )
    table = Table(title=_cell(about), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for column in ("ms", "95 %", "first call ms", "ratio", "95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found["models"]:
        low, high = row["ratio_ci"]
        table.add_row(
            _cell(row["file"]),
            f"{row['latency_ms']:.4g}",
            _interval(row["latency_ci_ms"], row["latency_ms"]),
            f"{row['cold_ms']:.4g}",
            f"{row['ratio']:.3f}",
            f"{low:.3f}–{high:.3f}",
        )
    return table


LINE_S = 30  # seconds between lines about a stage where there is no terminal
GOES_ON = "interrupted; the same command goes on from here"


def _not_kept(device: str) -> str:
    """What is said when a measurement that belongs to no stage is interrupted."""
    if device.startswith("ssh://"):
        kept = "what the board has measured it keeps for a day: the same command goes on with it"
        return f"interrupted; nothing was written here, {kept}"
    return "interrupted; nothing of this measurement is kept: the same command starts anew"


def _make(
    job: Run,
    stages: Sequence[str],
    restart: str | None,
    extend: bool = False,
    interrupted: str = GOES_ON,
) -> None:
    """Make stages of a run under a progress display."""
    with _interruptible(interrupted) as display:
        job.watch = display.watch
        job.make(stages, display, restart, extend)


def _finish(job: Run, as_json: bool) -> None:
    """Print what a run has so far, and exit with 3 if a budget is not met."""
    summary = job.summary()
    if as_json:
        _print_json(summary)
    else:
        if summary["failed"]:
            last = f", the last with: {summary['error']}" if summary["error"] else ""
            _say(f"Failed: {summary['failed']} of {summary['evaluations']} evaluations{last}")
        if summary["models"]:
            out.print(models_table(summary["models"]))
            for line in _dropped_int8(summary["models"]):
                _say(line)
        for budget in summary["budgets"]:
            _say(_budget_line(budget))
        if summary["report"]:
            _say(f"Report: {summary['report']}")
        if summary["models"]:
            kept = [m for m in summary["models"] if m["status"] not in ("missed", "undecidable")]
            best = max(kept or summary["models"], key=lambda model: float(model["validation_accuracy"]))
            model = job.directory / "models" / best["id"] / "model.onnx"
            _say(f'Use one: onnxruntime.InferenceSession("{model}"), as the README.md beside it shows')
        else:
            _say(f"Searched: {job.directory / 'run.db'}; next: hwnas export {job.directory}")
    if any(budget["model"] is None for budget in summary["budgets"]):
        raise typer.Exit(3)


def _budget_line(budget: dict[str, Any]) -> str:
    line = f"For {budget['budget_ms']:g} ms: {budget['model'] or 'no model keeps it'}"
    said = {"measured too slow": budget["missed"], "undecidable at this noise": budget["undecidable"]}
    notes = [f"{what}: {', '.join(names)}" for what, names in said.items() if names]
    return f"{line} ({'; '.join(notes)})" if notes else line


def models_table(models: Sequence[dict[str, Any]]) -> Table:
    """The front as a table for the terminal, fastest first; fits 80 columns."""
    table = Table(title="Pareto front", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    bits = _bits(models)
    table.add_column("model", no_wrap=True)
    if bits:
        table.add_column("bits", justify="right")
    for column in ("val %", "test %", "predicted ms", "measured ms", "budget ms"):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    table.add_column("status", no_wrap=True)
    for model in models:
        predicted, measured = (model[name]["latency_ms"] for name in ("predicted", "measured"))
        budget = model["budget_ms"]
        table.add_row(
            _cell(model["id"]),
            *([bits[model["id"]]] if bits else []),
            f"{model['validation_accuracy']:.2f}",
            f"{model['test_accuracy']:.2f}",
            "" if predicted is None else f"{predicted:.4g}",
            "" if measured is None else f"{measured:.4g}",
            "" if budget is None else f"≤ {budget:g}",
            _cell(model["status"]),
        )
    return table


def _bits(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The bits of each model's precision by id, where ids do not say it; empty if all do."""
    small = [m["id"] for m in models if m.get("precision") == "int8"]
    if all(name.endswith("-int8") for name in small):
        return {}
    return {model["id"]: "8" if model["id"] in small else "32" for model in models}


def _dropped_int8(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line on the models that are not worth having in 8 bits, where there are any."""
    dropped = [
        f"{model['id']} ({model['int8']['speedup']:.2f} times as fast)"
        for model in models
        if model.get("int8") and model["int8"]["status"] == "dropped"
    ]
    if dropped:
        yield f"Dropped in 8 bits, the README.md of each says why: {', '.join(dropped)}"


# ---- tables --------------------------------------------------------------------------------------

TableFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A latency table, such as runs/digits/latency_table.json.")
]
Top = Annotated[int, typer.Option("--top", min=1, help="How many operators to list.")]


@table_app.command("show")
def table_show(file: TableFile, top: Top = 10, as_json: AsJson = False) -> None:
    """Summarise a table: device, quality, and its costliest operators.

    Example: `hwnas table show runs/digits/latency_table.json`
    """
    from hwnas.latency.table import LatencyTable

    table = LatencyTable.load(file)
    costly = sorted(table.operators.items(), key=lambda item: -item[1].ms)[:top]
    if as_json:
        facts = table.to_dict()
        facts["operators"] = len(table.operators)
        _print_json({**facts, "costliest": [{"key": key, "ms": entry.ms} for key, entry in costly]})
        return
    _say(table.summary())
    shown = Table(title=f"The {len(costly)} costliest operators")
    shown.add_column("operator", overflow="fold")
    shown.add_column("ms", justify="right")
    for key, entry in costly:
        shown.add_row(_cell(key), f"{entry.ms:.4f}")
    out.print(shown)


@table_app.command("build")
def table_build(
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
        table.check_quiet("--allow-noisy")
    table.save(output)
    if as_json:
        _print_json({"table": str(output), **table.to_dict(), "operators": len(table.operators)})
    else:
        _say(table.summary())
        _say(f"Table: {output}")


@table_app.command("validate")
def table_validate(
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
        _print_json({"valid": valid, "wrong": wrong})
    else:
        for name, count in valid.items():
            _say(f"{name}: valid, {count} operators{', sealed anew' if reseal else ''}")
    for message in wrong.values():
        _complain(message)
    if wrong:
        raise typer.Exit(1)


@table_app.command("diff")
def table_diff(a: TableFile, b: TableFile, top: Top = 20, as_json: AsJson = False) -> None:
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
        _print_json({"common": len(common), "differing": rows, "only_a": only_a, "only_b": only_b})
        return
    for name, file, table in zip("ab", (a, b), tables, strict=True):
        _say(f"{name}: {file}, {table.title}, threads {table.runtime.get('threads')}")
    if not common:
        _say("No operator is in both: they are of different spaces, or of different resolutions.")
    median = f", median ratio b/a {statistics.median(ratio.values()):.3f}" if ratio else ""
    _say(f"{len(common)} operators in both{median}; {len(only_a)} only in {a}, {len(only_b)} only in {b}")
    shown = Table(title=f"The {min(top, len(rows))} that differ most")
    shown.add_column("operator", overflow="fold")
    for column in ("a ms", "b ms", "b/a"):
        shown.add_column(column, justify="right")
    for row in rows[:top]:
        shown.add_row(_cell(str(row["key"])), *(f"{row[name]:.4f}" for name in ("a_ms", "b_ms", "ratio")))
    if rows:
        out.print(shown)


Format = Annotated[
    str, typer.Option("--format", help="The other format; ofa: Once-for-All and ProxylessNAS.")
]
OutFile = Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="File to write.")]


@table_app.command("import")
def table_import(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Tables of one device in the other format.")
    ],
    output: OutFile,
    device: Annotated[str, typer.Option("--device", help="Name of the device that they were measured on.")],
    form: Format = "ofa",
    as_json: AsJson = False,
) -> None:
    """Make a latency table of another project's look-up table, and say what has no counterpart.

    Example: `hwnas table import lut.yaml --device "Pixel 1" -o latency_tables/pixel1.json`
    """
    from hwnas.latency.formats import get_format

    found = get_format(form).read(files, device)
    found.table.save(output)
    _say_written(output, len(found.table.operators), found.skipped, found.notes, as_json)


@table_app.command("export")
def table_export(file: TableFile, output: OutFile, form: Format = "ofa", as_json: AsJson = False) -> None:
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
    if as_json:
        _print_json({"table": str(output), "operators": operators, "skipped": skipped, "notes": list(notes)})
        return
    _say(f"{output}: {operators} operators")
    for reason, keys in skipped.items():
        _say(f"left out {len(keys)}, such as {keys[0]}: {reason}")
    for note in notes:
        _say(f"note: {note}")


# ---- comparisons ---------------------------------------------------------------------------------


@bench_app.command("predictor")
def bench_predictor(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or CSV.gz, a row for each architecture.")],
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

    table = read_table(file, target, features or (), exclude or (), categorical or (), split or ())
    names = list(dict.fromkeys(predictors or PREDICTORS))
    with StageDisplay() as display:
        scores = compare(table.features, table.targets, names, train_rows, seeds, display("bench"))
    found = {name: summarise(scores[name]) for name in names}
    facts = {"rows": len(table.targets), "duplicates": table.duplicates, "features": list(table.names)}
    if as_json:
        settings = {"file": str(file), "target": target, "train": train_rows, "seeds": seeds}
        _print_json({**settings, **facts, "predictors": found})
        return
    joined = f" ({table.duplicates} more have the features of another)" if table.duplicates else ""
    _say(f"{file}: {len(table.targets)} rows{joined}, {len(table.names)} features, target {target}")
    _say(f"Learnt from {train_rows} rows, drawn {seeds} times; mean±standard deviation")
    out.print(_predictors_table(found))


def _predictors_table(found: dict[str, Any]) -> Table:
    """Figures of each predictor, best rank correlation first; fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("predictor", no_wrap=True)
    columns = {
        "Kendall tau": ("kendall_tau", ".3f", ".3f"),
        "Spearman": ("spearman", ".3f", ".3f"),
        "MAPE %": ("mape", ".3g", ".1g"),
        "RMSE": ("rmse", ".3g", ".1g"),
        "fit s": ("fit_s", ".3f", ""),
        "predict s": ("predict_s", ".4f", ""),
    }
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in sorted(found.items(), key=lambda item: -float(item[1]["kendall_tau"]["mean"])):
        cells = []
        for figure, form, spread in columns.values():
            value = figures[figure]
            text = "–" if value is None else format(value["mean"], form)
            if spread and value is not None and value["std"] is not None:
                text += f"±{value['std']:{spread}}"
            cells.append(text)
        table.add_row(name, *cells)
    return table


# ---- what there is -------------------------------------------------------------------------------


@app.command("list")
def list_command(
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
        _print_json({what: names})
    else:
        for name in names:
            out.print(name)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look at this machine: versions, cores, load, timing noise, and what to do about each.

    Example: `hwnas doctor`
    """
    from hwnas.latency.doctor import examine

    findings = examine()
    if as_json:
        _print_json({"findings": [{**asdict(finding), "ok": finding.ok} for finding in findings]})
        return
    shown = Table()
    for column in ("", "what", "found", "what to do"):
        shown.add_column(column)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]look[/]"
        shown.add_row(mark, finding.name, _cell(finding.value), _cell(finding.advice))
    out.print(shown)


# ---- display -------------------------------------------------------------------------------------


class RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        text = "" if speed is None else f"{speed:,.{0 if speed >= 10 else 2}f}/s"
        return Text(text, style="progress.data.speed")


class TimeColumn(ProgressColumn):
    """The time that a stage has taken, and the time that is left where that is known."""

    def render(self, task: Task) -> Text:
        spent = task.finished_time if task.finished else task.elapsed
        text = str(timedelta(seconds=int(spent or 0)))
        if task.total is not None and not task.finished and task.time_remaining is not None:
            text += f", {timedelta(seconds=int(task.time_remaining))} left"
        return Text(text, style="progress.elapsed")


class Bars(RichProgress):
    """Bars, and below them a table of what there is to know."""

    facts: Mapping[str, str] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.facts:
            table = Table.grid(padding=(0, 2))
            for name, value in self.facts.items():
                table.add_row(_cell(f"  {name}"), _cell(value))
            yield table


class StageDisplay:
    """One bar a stage: done, rate, time spent and left, and a line of text, on standard error.

    A running search has a table below it; where there is no terminal, a line now and then. The first Ctrl-C
    stops the work after the step in hand, a second one at once.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._last_line = time.monotonic()
        room = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what is left of the line
        self._progress = Bars(
            TextColumn("[bold]{task.description:8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            RateColumn(),
            TimeColumn(),
            TextColumn("{task.fields[text]}", markup=False, table_column=room),
            console=err,
            expand=True,
        )

    def __enter__(self) -> StageDisplay:
        self._handler = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._handler)
        for task in self._progress.tasks:
            if task.total is None:  # it did nothing
                self._progress.update(task.id, visible=False)
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, stage: str) -> Progress:
        task = self._progress.add_task(stage, total=None, text="")

        def update(done: int, total: int, text: str = "") -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._progress.start()  # nothing is shown before there is something to show
            self._progress.update(task, completed=done, total=total, text=printable(text))
            self._line(f"{stage}: {done}/{total} {text}")

        return update

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._progress.console.print("finishing the step in hand; Ctrl-C again stops at once")

    def watch(self, facts: Mapping[str, str]) -> None:
        """Show what there is to know of a running search."""
        self._progress.facts = dict(facts)
        self._line(f"search: {', '.join(f'{name} {value}' for name, value in facts.items())}")

    def _line(self, text: str) -> None:
        """A line now and then where there is no terminal."""
        if not err.is_terminal and time.monotonic() >= self._last_line + LINE_S:
            self._last_line = time.monotonic()
            sys.stderr.write(printable(text.rstrip()) + "\n")


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """The warnings of hwnas on standard error."""
    logger = logging.getLogger("hwnas")
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING)
    screen.setFormatter(PrintableFormatter())
    logger.addHandler(screen)
    try:
        yield
    finally:
        logger.removeHandler(screen)


@contextmanager
def _interruptible(interrupted: str) -> Iterator[StageDisplay]:
    """A display of work that can be gone on with; an interruption says how, and exits with 130."""
    try:
        with _warnings_shown(), StageDisplay() as display:
            yield display
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        raise typer.Exit(130) from None


def _say(text: str) -> None:
    """A line of plain text, however wide."""
    sys.stdout.write(printable(text) + "\n")


def _complain(error: object) -> None:
    """An error in one line."""
    sys.stderr.write(f"error: {printable(' '.join(str(error).splitlines()))}\n")


def _cell(text: str) -> Text:
    """Text in a table as it is: no markup, and nothing that a terminal takes for an order."""
    return Text(printable(text))


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


def main() -> None:
    """Entry point: an HwnasError is one line on standard error, or its traceback, and exit code 1."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=_with_stage(arguments))
    except HwnasError as error:
        if "--debug" in sys.argv:
            sys.stderr.write(printable(traceback.format_exc()))
        else:
            _complain(error)
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
