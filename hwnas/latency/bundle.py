"""Profiling without a network: a bundle goes to the board, its results come back and make a table.

A bundle is a zip file that Python runs: the runner as __main__.py, job.json (passes, and the study that they
come from) and the pieces of the models. Results name the bundle by its digest and repeat the study, from
which passes are drawn again; so what comes back is checked against what was asked for, and nothing is
unpacked here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import DeviceError, HwnasError, TableError
from hwnas.files import expanded
from hwnas.latency import runner
from hwnas.latency.campaign import Campaign, Pass, of_all, pass_visits
from hwnas.latency.jobs import identity_of, make_job, samples_of
from hwnas.latency.measure import Plan
from hwnas.latency.profiling import CALIBRATION_NETWORKS, Subject, subject_of, table_of
from hwnas.latency.table import LatencyTable
from hwnas.spaces import NetworkSpace, space_of
from hwnas.store import parse_json, read_bytes, write_output

SWEEPS = 4  # passes of each chunk, with sessions opened afresh
ROUNDS = 24
MAX_RESULTS = 1 << 30  # bytes
DATE = (2000, 1, 1, 0, 0, 0)  # of all members, so that equal bundles are equal files


@dataclass(frozen=True)
class Study:
    """What a bundle measures, as plain data: equal studies make equal bundles."""

    space: Mapping[str, Any]  # its definition
    precision: str
    threads: int
    rounds: int
    calibration_networks: int
    held_out_networks: int
    seed: int
    batch_size: int
    cores: Sequence[int] | None = None  # cores that it may use; None: those of the highest capacity


def write_bundle(
    space: NetworkSpace,
    path: str | Path,
    threads: int = 1,
    *,
    cores: Sequence[int] | None = None,
    precision: str = "fp32",
    rounds: int | None = None,
    calibration_networks: int = CALIBRATION_NETWORKS,
    held_out_networks: int = 12,
    seed: int = 0,
    batch_size: int = 1,
) -> None:
    """Write what a board needs to measure a space: ``python3 bundle.zip`` there writes results.json.

    The arguments are those of `profile`; `rounds` is 24 by default. StoreError if the file cannot be written.
    """
    rounds = max(SWEEPS, ROUNDS if rounds is None else rounds)
    networks = (calibration_networks, held_out_networks)
    study = Study(space.definition, precision, threads, rounds, *networks, seed, batch_size, cores)
    plan, pieces, _ = _plan(study)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        members = {
            "__main__.py": Path(runner.__file__).read_bytes(),
            "job.json": runner.canonical(plan),
            **{f"pieces/{name}": data for name, data in sorted(pieces.items())},
        }
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), data, zipfile.ZIP_DEFLATED, 1)
    write_output(path, file.getvalue())


def build_table(path: str | Path) -> LatencyTable:
    """The table that results of a bundle make.

    StoreError if the file cannot be read, DeviceError or TableError if it does not hold what a bundle of
    this hwnas gives.
    """
    path = expanded(path)
    if path.is_file() and path.stat().st_size > MAX_RESULTS:
        raise TableError(f"{path} has more than {MAX_RESULTS >> 20} MiB, so it holds no results of a bundle")
    data = parse_json(path, read_bytes(path))
    if data.get("schema") != runner.SCHEMA:
        raise TableError(f"{path} has schema {data.get('schema')!r}, this hwnas reads {runner.SCHEMA}")
    try:
        study = Study(**data["study"])
        plan, _, subject = _plan(study)
        records = data["records"]
        if len(records) != len(plan["jobs"]) or runner.job_id(plan) != data["bundle"]:
            raise TableError(
                f"{path} is of another bundle than this hwnas makes; use the hwnas that wrote the bundle"
            )
        identity = identity_of(data["identity"])
    except HwnasError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(
            f"{path} holds no results of a bundle ({error}); give the results.json that the bundle wrote"
        ) from None
    passes = [
        _pass(subject, number, rounds, plan["jobs"][number], records[number])
        for number, rounds in enumerate(_rounds(study, subject))
    ]
    return table_of(subject, Campaign(tuple(passes), len(subject.chunks), "rounds"), identity)


def _plan(study: Study) -> tuple[dict[str, Any], dict[str, bytes], Subject]:
    """The job.json of a study, the pieces of its models, and its subject."""
    subject = subject_of(
        space_of(study.space),
        study.precision,
        study.calibration_networks,
        study.held_out_networks,
        study.seed,
        study.batch_size,
    )
    jobs, pieces = [], {}
    for number, rounds in enumerate(_rounds(study, subject)):
        chunk = subject.chunks[number % len(subject.chunks)]
        visits = pass_visits(chunk, rounds, subject.seed, number)
        job, found = make_job(subject.models.of(chunk.models), Plan(visits), study.threads, study.cores)
        jobs.append(job)
        pieces.update(found)
    facts = asdict(study)
    if study.cores is None:
        del facts["cores"]  # bundles of older versions have none, and are named by the digest of all facts
    return {"study": facts, "jobs": jobs}, pieces, subject


def _rounds(study: Study, subject: Subject) -> list[int]:
    """The rounds of each pass: sweeps over the chunks, all of about equal length."""
    sweeps = [len(part) for part in np.array_split(np.arange(study.rounds), SWEEPS)]
    return [rounds for rounds in sweeps for _ in subject.chunks]


def _pass(
    subject: Subject, number: int, rounds: int, job: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> Pass:
    """What the board measured in one pass."""
    chunk = subject.chunks[number % len(subject.chunks)]
    models = len(chunk.models)
    samples = samples_of(records, models, job["visits"], job["kept_runs"])
    if len(records) != models + len(job["visits"]):
        raise DeviceError("the board left visits out; measure again")
    opening_seconds, seconds = (float(records[i]["seconds"]) for i in (models - 1, -1))
    return Pass(of_all(samples, chunk.models, len(subject.models)), rounds, seconds, opening_seconds)
