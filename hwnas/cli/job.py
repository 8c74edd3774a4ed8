"""The whole job, and each of its stages in the folder of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwnas.cli.display import (
    GOES_ON,
    err,
    interruptible,
    not_kept,
    out,
    plain,
    print_json,
    say,
    summary_beside,
)
from hwnas.cli.options import (
    AllowNoisy,
    AsJson,
    Budget,
    ConfigFile,
    Cores,
    Restart,
    Resume,
    RunDir,
    RunFolder,
    Seed,
    Set,
    cores_of,
    overrides_of,
)
from hwnas.cli.render import budget_line, dropped_int8, elsewhere_table, models_table
from hwnas.errors import ConfigError
from hwnas.text import command_line

if TYPE_CHECKING:  # heavy imports wait until a command needs them
    from hwnas.pipeline import Run


def run(
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
    cores: Cores = None,
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
    if cores is not None:
        overrides["latency.cores"] = list(cores_of(cores) or ())
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
            cores=latency.cores,
            rounds=latency.rounds,
            calibration_networks=latency.calibration_networks,
            held_out_networks=latency.held_out_networks,
            seed=job.config.seed,
            batch_size=latency.batch_size,
        )
        with summary_beside(bundle):
            if as_json:
                print_json({"bundle": str(bundle)})
            else:
                say(f"Bundle: {bundle}")
                measure = command_line("python3", bundle.name)
                say(f"On the board: {measure}; then here: hwnas table build results.json -o FILE")
        return
    _make(job, ["profile"], restart)
    path = job.directory / job.latency_file
    if as_json:
        facts = job.latency.to_dict()
        counts = {name: len(facts[name]) for name in ("operators", "networks") if name in facts}
        print_json({"table": str(path), **facts, **counts})
    else:
        say(job.latency.summary())
        say(f"Table: {path}")


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
        print_json({"supernet": str(job.directory / "supernet"), "checksum": facts["checksum"]})
    else:
        say(f"Supernet: {job.directory / 'supernet'}")


def _stage_command(name: str, doc: str) -> Callable[..., None]:
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
    return command


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
        if len(evaluations) > 10:
            raise ConfigError("--evaluations is a number of at most 9 digits; give a smaller one")
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
        onward = job.invocation.extend(job.config.search.evaluations)
        interrupted = f"interrupted; to continue: {onward}" if evaluations else GOES_ON
        _make(job, ["search"], restart, extend=evaluations is not None, interrupted=interrupted)
    elif table is None or run_dir is None:
        raise ConfigError("--table and --run-dir go together: another device's table, and its run's folder")
    else:
        job = run_for_device(job, table, run_dir)
        _make(job, ["profile", "search"], restart, extend=evaluations is not None)
        known, new = job.accuracies
        err.print(plain(f"Accuracies: {known} known from {run}, {new} evaluated anew"), soft_wrap=True)
    _finish(job, as_json)


export = _stage_command(
    "export",
    """Write the models of the searched front as ONNX and as plain torch networks, checked against each other.

    Example: `hwnas export runs/digits`

    Also in 8 bits, kept where faster: `hwnas export runs/digits --set export.int8=true --restart export`
    """,
)


def verify(
    run: RunFolder,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Measure there, such as openvino or ssh://user@host; by default the run's own."
        ),
    ] = None,
    cores: Cores = None,
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
    job.cores = cores_of(cores)
    if device is not None:
        there, own = device_of(job, device, job.cores)
        if not own:
            with interruptible(not_kept(device)) as display:
                found = verify_elsewhere(job, device, there, display("verify"))
            if as_json:
                print_json(found)
            else:
                out.print(elsewhere_table(found))
                for reason in found["measured_on"]["noise"]:
                    say(f"Disturbed: {reason}")
            return
        job.device = device
    before = job.store.stage("verify") is not None and restart is None
    _make(job, ["verify"], restart)
    if before:
        options = [] if device is None else ["--device", device]
        again = job.invocation.command("verify", *options, "--restart", "verify")
        err.print(plain(f"Verified before; to measure again: {again}"), soft_wrap=True)
    _finish(job, as_json)


report = _stage_command(
    "report",
    """Write figures and report.html of a verified run.

    Example: `hwnas report runs/digits --restart report`
    """,
)


def _make(
    job: Run,
    stages: Sequence[str],
    restart: str | None,
    extend: bool = False,
    interrupted: str = GOES_ON,
) -> None:
    """Make stages of a run under a progress display."""
    with interruptible(interrupted) as display:
        job.watch = display.watch
        job.make(stages, display, restart, extend)


def _finish(job: Run, as_json: bool) -> None:
    """Print what a run has so far, and exit with 3 if a budget is not met."""
    summary = job.summary()
    if as_json:
        print_json(summary)
    else:
        if summary["failed"]:
            last = f", the last with: {summary['error']}" if summary["error"] else ""
            say(f"Failed: {summary['failed']} of {summary['evaluations']} evaluations{last}")
        if summary["models"]:
            out.print(models_table(summary["models"]))
            for line in dropped_int8(summary["models"]):
                say(line)
        for budget in summary["budgets"]:
            say(budget_line(budget))
        if summary["report"]:
            say(f"Report: {summary['report']}")
        if summary["models"]:
            kept = [m for m in summary["models"] if m["status"] not in ("missed", "undecidable")]
            best = max(kept or summary["models"], key=lambda model: float(model["validation_accuracy"]))
            model = job.directory / "models" / best["id"] / "model.onnx"
            say(f'Use one: onnxruntime.InferenceSession("{model}"), as the README.md beside it shows')
        else:
            export = command_line("hwnas", "export", job.directory)
            say(f"Searched: {job.directory / 'run.db'}; next: {export}")
    if any(budget["model"] is None for budget in summary["budgets"]):
        raise typer.Exit(3)
