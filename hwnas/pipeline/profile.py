"""Profile: how long each operator takes on this device, and what that says of budgets and bounds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import ConfigError, DeviceError, InfeasibleError, TableError
from hwnas.export.verify import same_device
from hwnas.latency.devices import DEVICES, get_device
from hwnas.latency.measure import Device
from hwnas.latency.predictor import LatencyPredictor, MeasuredLatency, learn_latency, measured_on
from hwnas.latency.profiling import profile
from hwnas.latency.table import LatencyTable
from hwnas.progress import Progress
from hwnas.searching.feasible import check_feasible, extreme
from hwnas.searching.objectives import Objective, Problem
from hwnas.spaces import PrecisionSpace
from hwnas.store import file_digest, remove_folder, write_json, write_text

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run

log = logging.getLogger("hwnas")

TABLE_FILE = "latency_table.json"
PRECISION = "fp32"  # of what is trained and exported
UNFINISHED_TABLE = "latency_table.unfinished"  # folder of an interrupted profile's passes
# What the profile stage leaves, by latency.source.
LATENCY_FILES = {
    "table": TABLE_FILE,
    "predictor": "latency_predictor.json",
    "measured": "latency_device.json",
}


def further_table(name: str) -> str:
    """The file of another device's table in a run's folder."""
    return f"latency_table@{name}.json"


def inputs(run: Run) -> dict[str, Any]:
    further = run.config.latency.further_tables
    done = run.store.stage("profile")
    known = {} if done is None else done["inputs"].get("further_tables", {})
    digests = {  # a run keeps its own copy
        name: known[name] if name in known and not Path(path).exists() else file_digest(path)
        for name, path in further.items()
    }
    return {**_latency_inputs(run), "further_tables": digests}


def _latency_inputs(run: Run) -> dict[str, Any]:
    latency = run.config.latency
    if latency.source != "table":
        return {
            "space": run.space.definition,
            "source": latency.source,
            "device": latency.device,
            "threads": latency.threads,
            "rounds": latency.rounds,
            "batch_size": latency.batch_size,
            "networks": latency.predictor_networks if latency.source == "predictor" else 0,
            "seed": run.config.seed,
            **cores_inputs(run),
        }
    if latency.table is not None:
        done = run.store.stage("profile")
        if done is not None and not Path(latency.table).exists():  # a run keeps its own copy
            return {"space": run.space.definition, "table": done["inputs"].get("table")}
        return {"space": run.space.definition, "table": file_digest(latency.table)}
    return {
        "space": run.space.definition,
        "device": latency.device,
        "threads": latency.threads,
        "batch_size": latency.batch_size,
        "rounds": latency.rounds,
        "calibration_networks": latency.calibration_networks,
        "held_out_networks": latency.held_out_networks,
        "time_limit_s": latency.time_limit_s,
        "seed": run.config.seed,
        **cores_inputs(run),
    }


def cores_inputs(run: Run) -> dict[str, Any]:
    """The chosen cores as an input of a stage; None for the fastest ones."""
    cores = run.config.latency.cores
    return {"cores": None if cores is None else list(cores)}


def check(run: Run, pending: Sequence[str], again: bool) -> None:
    """Check that given tables fit the experiment, or that the device can be reached.

    Args:
        run: The run.
        pending: Stages that are made earlier in the same command; a profile needs none.
        again: Whether an unfinished profile is removed first.
    """
    latency = run.config.latency
    if latency.table is None:
        _check_runtime(run, latency.device)
    if latency.source == "predictor" and run.searches_int8:
        raise ConfigError(
            "latency.source: predictor learns from what is the same in every precision; with "
            "space.precisions set latency.source: table"
        )
    if given_tables(run) is None:
        get_device(latency.device, latency.threads, latency.cores).identity  # noqa: B018 (connects to the device)


def given_tables(run: Run) -> tuple[LatencyTable, dict[str, LatencyTable]] | None:
    """Read the tables that the experiment names.

    Args:
        run: The run.

    Returns:
        The table of the run's own device and those of further devices, by metric; None if the own table is
        not given but measured.

    Raises:
        TableError: A table does not fit the experiment.
    """
    latency = run.config.latency
    further = {f"latency_ms@{n}": _given_table(run, path) for n, path in latency.further_tables.items()}
    return None if latency.table is None else (_given_table(run, latency.table, own=True), further)


def check_latency(run: Run, pending: Sequence[str]) -> None:
    """Check budgets, bounds and precisions against the latencies that are known so far.

    Args:
        run: The run.
        pending: Stages that are made earlier in the same command. If the profile is one of them, only given
            tables are known.

    Raises:
        InfeasibleError: No architecture is within all budgets or bounds.
        ConfigError: The device cannot run models in 8 bits, which the experiment asks for.
    """
    tables = given_tables(run) if "profile" in pending else None
    if tables is None and ("profile" in pending or run.store.stage("profile") is None):
        return
    latency, further = (run.latency, run.further_tables) if tables is None else tables
    _check_runtime(run, latency.runtime["name"])
    if not isinstance(latency, MeasuredLatency):
        check_budgets(run, latency)
    exact = run.exact_metrics(latency, further)
    objectives = tuple(Objective(name, "min", evaluate) for name, evaluate in exact.items())
    bounds = tuple(bound for bound in run.bounds if bound.name in exact)
    check_feasible(Problem(run.space, objectives, bounds), run.config.seed)


def make(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    further = []
    for name, source in run.config.latency.further_tables.items():
        table = _given_table(run, source)
        further.append(further_table(name))
        write_text(run.directory / further[-1], table.to_json())
    outputs, files = _profile_device(run, progress)
    digests = {file: file_digest(run.directory / file) for file in further}
    return {**outputs, "further_tables": digests}, files + further


def _profile_device(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    latency = run.config.latency
    path = run.directory / run.latency_file
    if latency.source != "table":
        device = get_device(latency.device, latency.threads, latency.cores)
        seed = run.config.seed
        if latency.source == "predictor":
            networks = latency.predictor_networks
            predictor = learn_latency(
                run.space, device, networks, latency.rounds, seed, progress, latency.batch_size
            )
            write_json(path, predictor.to_dict())
            log.info("profile: %s", predictor.summary())
        else:
            facts = measured_on(device, latency.rounds, seed, latency.batch_size, latency.cores)
            write_json(path, facts)
        return {"table": file_digest(path)}, [run.latency_file]
    if latency.table is not None:
        table = _given_table(run, latency.table, own=True)
    else:
        refused = run.directory / UNFINISHED_TABLE / "refused"
        if refused.exists() and not latency.allow_noisy:
            forget(run)
        table = profile(
            run.space,
            device=latency.device,
            threads=latency.threads,
            cores=latency.cores,
            batch_size=latency.batch_size,
            rounds=latency.rounds,
            calibration_networks=latency.calibration_networks,
            held_out_networks=latency.held_out_networks,
            time_limit_s=latency.time_limit_s,
            checkpoint=run.directory / UNFINISHED_TABLE,
            rng=run.config.seed,
            progress=progress,
        )
        if table.protocol["noisy"] and not latency.allow_noisy:
            write_text(refused, "a table of these passes was refused as noisy\n")
            table.check_quiet("add --set latency.allow_noisy=true to the command")
    write_text(path, table.to_json())
    forget(run)
    log.info("profile: %s", table.summary())
    return {"table": file_digest(path)}, [run.latency_file]


def _given_table(run: Run, path: str, own: bool = False) -> LatencyTable:
    """A table that somebody measured; TableError if it is of something else than the experiment asks for, or
    lacks an operator of the space.

    One that is not the run's `own` may be of another runtime and number of threads.
    """
    table, latency = LatencyTable.load(path), run.config.latency
    runtime, device = table.runtime, latency.device
    has = {"batch_size": runtime.get("batch_size", 1)}
    asked: dict[str, Any] = {"batch_size": latency.batch_size}
    if own and runtime.get("threads") is not None:
        has["threads"], asked["threads"] = runtime["threads"], latency.threads
    if own and runtime["name"] in DEVICES:
        has["device"], asked["device"] = runtime["name"], "onnxruntime" if device[:6] == "ssh://" else device
    differing = [
        f"it is of {name} {value}, latency.{name} is {asked[name]}"
        for name, value in has.items()
        if value != asked[name]
    ]
    # Where precision is no choice of the space, a table answers by its first.
    chosen = run.space.precisions if isinstance(run.space, PrecisionSpace) else (PRECISION,)
    held = runtime["precisions"] if isinstance(run.space, PrecisionSpace) else runtime["precisions"][:1]
    if not set(chosen) <= set(held):
        differing.append(f"it is of precision {', '.join(held)}, models are of {', '.join(chosen)}")
    if differing:
        raise TableError(
            f"{path} does not fit the experiment: {'; '.join(differing)}. Set that to the table's, or profile"
        )
    table.latency_ms(run.space.sample(1000, run.config.seed))  # names an operator that it lacks
    return table


def check_budgets(run: Run, latency: LatencyTable | LatencyPredictor) -> None:
    """Warn of budgets that no architecture can keep, as far as is known; InfeasibleError if none can."""
    budgets = run.config.latency.budgets_ms
    _, smallest = extreme(run.space, latency.latency_ms)
    unreachable = [budget for budget in budgets if budget < smallest]
    if budgets and len(unreachable) == len(budgets):
        raise InfeasibleError(
            f"no architecture keeps the latency budget of {max(budgets):g} ms: the fastest one takes "
            f"{smallest:.4g} ms on this device; raise latency.budgets_ms or choose a smaller space"
        )
    for budget in unreachable:
        log.warning("no architecture keeps the budget of %g ms; the fastest takes %.4g ms", budget, smallest)


def check_int8(run: Run) -> None:
    """ConfigError if models in 8 bits are asked for and the device cannot run them."""
    _check_runtime(run, run.latency.runtime["name"])


def _check_runtime(run: Run, runtime: str) -> None:
    asked = "space.precisions" if run.searches_int8 else "export.int8" if run.config.export.int8 else None
    if asked is not None and runtime.startswith("torch"):
        raise ConfigError(
            f"{asked}: the latency is of the runtime {runtime}, which runs no quantised ONNX model; "
            "ask for single precision alone, or set latency.device: onnxruntime"
        )


def own_device(run: Run) -> Device:
    """The device that the run's latencies are of; DeviceError, naming both, if that is not within reach."""
    runtime, asked, configured = run.latency.runtime, run.latency.device, run.config.latency.device
    here = runtime["name"] in DEVICES and not configured.startswith("ssh://")
    name = run.device or (runtime["name"] if here else configured)
    device = get_device(name, runtime["threads"] or 1, run.cores or run.config.latency.cores)
    if not same_device(device.identity, asked, runtime):
        raise DeviceError(
            f"the latency is of {asked['name']} with {runtime['name']}, but what would be measured on is "
            f"{device.identity.device['name']} with {device.identity.runtime['name']}; run the same command "
            f"on {asked['name']}, or verify from here: "
            f"{run.invocation.command('verify', '--device', 'ssh://user@host')}"
        )
    return device


def forget(run: Run) -> None:
    remove_folder(run.directory / UNFINISHED_TABLE)
