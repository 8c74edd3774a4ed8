"""What is large: a million stored evaluations, long searches, tables of very many operators.

No time is asserted, only how time and memory grow; the counts and times of a run are recorded for README.md.
HWNAS_STORED is how many evaluations are stored.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas.latency.table import Entry, LatencyTable
from hwnas.searching.loop import SearchSession
from hwnas.searching.objectives import Evaluation, Objective, Problem, Values
from hwnas.searching.strategies import get_strategy
from hwnas.store import Store

STORED = int(os.environ.get("HWNAS_STORED", "40000"))
SEARCHED = 10_000
OPERATORS = 100_000
BATCH = 10
EVALUATION_BYTES = 2500  # what one needs in memory, with its architecture of 20 choices
SLACK_MIB = 40  # of what the interpreter keeps for itself

forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload([__name__, "hwnas.searching.loop", "pandas"])

SPACE = hwnas.SearchSpace("large", [hwnas.Choice(f"layer{i}", tuple(range(6))) for i in range(20)])


def accuracy(archs: Any) -> Values:
    return np.asarray(SPACE.genotypes(archs).sum(axis=1) + 0.5 * (SPACE.genotypes(archs)[:, 0] == 3))


def cost(archs: Any) -> Values:
    return np.asarray((SPACE.genotypes(archs) ** 2).sum(axis=1))


OBJECTIVES = (
    Objective("accuracy", "max", evaluate=accuracy, expensive=True),
    Objective("cost", "min", evaluate=cost),
)


# ---- measured in a process of its own ------------------------------------------------------------


@dataclass(frozen=True)
class Used:
    seconds: float  # of the processor
    mib: float  # at most, beyond what the process had


def mib(line: str) -> float:
    """VmRSS, now, or VmHWM, at most, of this process."""
    with open("/proc/self/status") as status:
        return next(int(row.split()[1]) / 1024 for row in status if row.startswith(line))


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...], answers: Connection) -> None:
    before, start = mib("VmRSS"), time.process_time()
    found = function(*arguments)
    answers.send((found, Used(time.process_time() - start, mib("VmHWM") - before)))


def used(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Used]:
    """What a function returns in a fresh process, and what it needed."""
    answers, there = forked.Pipe(duplex=False)
    process = forked.Process(target=_answer, args=(function, arguments, there))
    process.start()
    there.close()
    try:
        found: tuple[Any, Used] = answers.recv()
    finally:
        process.join()
    return found


def least_used(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Used]:
    """Return what a function returns, and what the fastest of three fresh processes needed."""
    return min((used(function, *arguments) for _ in range(3)), key=lambda pair: pair[1].seconds)


def grows_linearly(small: Used, large: Used, factor: float) -> bool:
    """Whether so many times as much needs no more than that, with half as much for what disturbs."""
    return large.seconds < 1.5 * factor * small.seconds


# ---- a store -------------------------------------------------------------------------------------


def filled(path: Path, n: int) -> None:
    """A store with n evaluations of a search, as the search would have stored them."""
    store = Store(path)
    session = SearchSession(SPACE, OBJECTIVES, strategy="random", store=store)
    source = session._sources["accuracy"]
    archs = SPACE.architectures(np.unique(SPACE.sample(n + n // 10 + 10, 0).genotypes, axis=0)[:n])
    assert len(archs) == n
    ids = [arch.id for arch in archs]
    names = [choice.name for choice in SPACE.choices]
    choices = (json.dumps(dict(zip(names, g, strict=True))) for g in archs.genotypes.tolist())
    values = accuracy(archs).tolist()
    with store._transaction() as db:
        rows: Any = ((key, SPACE.id, text) for key, text in zip(ids, choices, strict=True))
        db.executemany("INSERT INTO architectures VALUES (?, ?, ?)", rows)
        rows = (("search", *divmod(i, BATCH), key) for i, key in enumerate(ids))
        db.executemany("INSERT INTO rounds VALUES (?, ?, ?, ?)", rows)
        rows = ((key, "accuracy", source, v, 0.1, 0.0) for key, v in zip(ids, values, strict=True))
        db.executemany("INSERT INTO measurements VALUES (?, ?, ?, ?, NULL, ?, ?)", rows)
    store.close()


def opened_and_reported(path: Path) -> dict[str, Any]:
    """Open a copy of a search, go on with it, and say what came of it."""
    copy = Path(shutil.copy(path, path.with_name("copy.db")))
    store = Store(copy)
    session = SearchSession(SPACE, OBJECTIVES, strategy="random", store=store)
    known = session.done
    batch = session.ask(BATCH)
    session.tell(batch, {"accuracy": accuracy(batch).tolist()})
    result = session.result
    found = {
        "known": known,
        "evaluations": len(result.evaluations),
        "front": len(result.front),
        "hypervolume": result.rounds_frame()["hypervolume"].is_monotonic_increasing,
        "rows": len(result.to_frame()),
    }
    store.close()
    copy.unlink()
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_store_of_very_many_evaluations(tmp_path: Path, record_property: Any) -> None:
    needed = []
    for n in (STORED // 4, STORED):
        path = tmp_path / str(n) / "run.db"
        used(filled, path, n)
        found, needs = least_used(opened_and_reported, path)
        needed.append(needs)
        assert found["known"] == n
        assert found["evaluations"] == found["rows"] == n + BATCH
        assert found["hypervolume"]
        assert needs.mib * 2**20 < n * EVALUATION_BYTES + SLACK_MIB * 2**20
        figures = f"{needs.mib:.0f}, {needs.seconds:.0f}, {path.stat().st_size / n:.0f}"
        record_property(f"{n} stored: MiB, seconds, bytes on disk each", figures)
        path.unlink()
    assert grows_linearly(*needed, factor=4)


# ---- a search ------------------------------------------------------------------------------------


def searched(path: Path, strategy: str) -> list[float]:
    """MiB after each tenth of a search."""
    seen: list[float] = []

    def watch(status: Any) -> None:
        if status.done % (SEARCHED // 10) == 0:
            seen.append(mib("VmRSS"))

    store = Store(path)
    result = hwnas.search(
        SPACE, OBJECTIVES, strategy=strategy, evaluations=SEARCHED, store=store, watch=watch
    )
    assert len(result.evaluations) == SEARCHED
    store.close()
    return seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", ["random", "nsga2"])
def test_a_long_search_keeps_no_more_than_its_evaluations(
    tmp_path: Path, strategy: str, record_property: Any
) -> None:
    seen, needs = used(searched, tmp_path / "run.db", strategy)
    each = (seen[-1] - seen[0]) * 2**20 / (0.9 * SEARCHED)
    assert each < EVALUATION_BYTES
    record_property(f"{strategy}: bytes an evaluation, seconds", f"{each:.0f}, {needs.seconds:.0f}")


def asked(n: int) -> int:
    """The next batch of the guided search after n evaluations."""
    strategy = get_strategy("linas", Problem(SPACE, OBJECTIVES), 0)
    archs = SPACE.architectures(np.unique(SPACE.sample(n, 0).genotypes, axis=0))
    rows = zip(archs, accuracy(archs).tolist(), cost(archs).tolist(), strict=True)
    strategy.tell([Evaluation(arch, {"accuracy": a, "cost": float(c)}) for arch, a, c in rows])
    return len(strategy.ask(BATCH))


@pytest.mark.slow
def test_the_guided_search_learns_from_a_bounded_number(record_property: Any) -> None:
    (some, less), (most, more) = least_used(asked, 4000), least_used(asked, SEARCHED)
    assert some == most == BATCH
    assert more.mib < less.mib + 6000 * EVALUATION_BYTES / 2**20 + SLACK_MIB
    assert more.seconds < 2 * less.seconds
    record_property("linas: MiB, seconds a batch", f"{more.mib:.0f}, {more.seconds:.1f}")


# ---- a table -------------------------------------------------------------------------------------


def large_table(path: Path, n: int) -> None:
    keys = (f"mbconv-in:{i}x64x16-out:32x32x24-mid:64-k:3-s:2-act:relu-se:0-res:0-p:fp32" for i in range(n))
    runtime = {"name": "onnxruntime", "version": "1", "threads": 1, "precisions": ["fp32"], "batch_size": 1}
    operators = {key: Entry(0.01 + 1e-6 * i, 0.0004, 48) for i, key in enumerate(keys)}
    LatencyTable({"name": "a", "cpu": "b", "cores": 2}, runtime, {}, [], operators).save(path)


def loaded(path: Path) -> int:
    return len(LatencyTable.load(path).operators)


@pytest.mark.slow
def test_a_table_of_very_many_operators(tmp_path: Path, record_property: Any) -> None:
    needed = []
    for n in (OPERATORS // 4, OPERATORS):
        path = tmp_path / f"{n}.json"
        large_table(path, n)
        found, needs = least_used(loaded, path)
        assert found == n
        needed.append(needs)
        assert needs.mib * 2**20 < 15 * path.stat().st_size + SLACK_MIB * 2**20
        record_property(f"{n} operators: MiB, seconds", f"{needs.mib:.0f}, {needs.seconds:.2f}")
    assert grows_linearly(*needed, factor=4)
