"""Artefacts and run.db."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from hwnas.errors import ChecksumError, StoreError
from hwnas.store import (
    Measurement,
    Store,
    _opened_for_reading,
    file_digest,
    read_json,
    write_bytes,
    write_json,
)


def test_json_round_trip_and_seal(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "ü"})
    assert read_json(path) == {"b": [1, 2.5, None], "a": "ü"}
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(ChecksumError, match=r"a\.json was changed"):
        read_json(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": NaN, "sha256": ""}', "[" * 100_000, "\x00"])
def test_rubbish_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"a\.json"):
        read_json(path)


def test_unsealed_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(ChecksumError, match="has no sha256"):
        read_json(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")
    digest = file_digest(path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; what was there before stands"):
        write_bytes(path, b"new")
    assert file_digest(path) == digest
    assert list(tmp_path.iterdir()) == [path]


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(
        StoreError,
        match=r"cannot open .*run\.db.*delete it \(its evaluations are lost, and every stage is.*--run-dir",
    ):
        Store(path)


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="schema 99"):
        Store(path)


def measured(value: float | None, error: str | None = None) -> Measurement:
    return Measurement("a1", "accuracy", "net", value, error, 0.5)


def test_rounds_and_measurements_survive_reopening(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db")
    store.add_round("s", 0, "space-1", {"a1": {"k": 3}, "a2": {"k": 5}})
    store.add_round("s", 1, "space-1", {"a3": {"k": 7}})
    store.add_round("other", 0, "space-1", {"a1": {"k": 3}})
    store.add_measurement(measured(91.5))
    store.close()
    store = Store(tmp_path / "run.db")
    assert store.rounds("s") == [[{"k": 3}, {"k": 5}], [{"k": 7}]]
    assert store.rounds("other") == [[{"k": 3}]]
    assert store.measurements("accuracy", "net") == {"a1": measured(91.5)}
    assert store.measurements("accuracy", "another net") == {}
    store.forget_search("s")
    assert store.rounds("s") == []
    assert store.measurements("accuracy", "net") == {"a1": measured(91.5)}
    store.close()


def test_a_value_is_never_overwritten_but_a_failure_is() -> None:
    store = Store()
    store.add_round("s", 0, "space-1", {"a1": {}})
    store.add_measurement(measured(None, "out of memory"))
    store.add_measurement(measured(50.0))
    store.add_measurement(measured(60.0))
    assert store.measurements("accuracy", "net")["a1"].value == 50.0
    store.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_is_refused(value: float) -> None:
    store = Store()
    store.add_round("s", 0, "space-1", {"a1": {}})
    with pytest.raises(StoreError, match="not a number"):
        store.add_measurement(measured(value))
    store.close()


def test_a_failed_transaction_stores_nothing() -> None:
    store = Store()
    with pytest.raises(StoreError, match="nothing of this step was stored"):
        store.add_measurement(measured(None, None))
    store.add_round("s", 0, "space-1", {"a1": {}})
    with pytest.raises(StoreError):
        store.add_measurement(measured(None, None))
    assert store.measurements("accuracy", "net") == {}
    store.close()


def test_stages() -> None:
    store = Store()
    assert store.stage("train") is None
    store.finish_stage("train", {"seed": 0}, {"checksum": "x"})
    assert store.stage("train") == {"inputs": {"seed": 0}, "outputs": {"checksum": "x"}}
    store.reopen_stages(["train", "search"])
    assert store.stage("train") is None
    store.close()


def test_measurements_are_copied_by_metric_and_source() -> None:
    one, other = Store(), Store()
    one.add_round("search", 0, "space", {name: {"c": name} for name in "abcd"})
    for name, source, value in [("a", "s", 1.0), ("b", "s", 2.0), ("c", "t", 3.0), ("d", "s", None)]:
        error = None if value is not None else "broke"
        one.add_measurement(Measurement(name, "accuracy", source, value, error, 0.5))
    other.add_round("search", 0, "space", {"b": {"c": "b"}})
    other.add_measurement(Measurement("b", "accuracy", "s", 9.0, None, 0.1))
    assert other.copy_measurements(one, "accuracy", "s") == 2
    assert other.copy_measurements(one, "accuracy", "s") == 2
    found = other.measurements("accuracy", "s")
    assert {name: m.value for name, m in found.items()} == {"a": 1.0, "b": 9.0}  # failures are tried anew
    assert found["a"] == one.measurements("accuracy", "s")["a"]
    assert other.measurements("accuracy", "t") == {}
    one.close()
    other.close()


def test_only_the_next_round_is_taken(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "run.db"), Store(tmp_path / "run.db")
    one.add_round("s", 0, "space-1", {"a1": {"k": 3}})
    with pytest.raises(StoreError, match="has 1 rounds, not 0: another process is searching here"):
        other.add_round("s", 0, "space-1", {"a2": {"k": 5}})
    other.add_round("s", 1, "space-1", {"a2": {"k": 5}})
    assert one.rounds("s") == [[{"k": 3}], [{"k": 5}]]
    one.forget_rounds("s", 1)
    assert other.rounds("s") == [[{"k": 3}]]
    one.close()
    other.close()


def test_failures_are_forgotten_and_values_are_not() -> None:
    store = Store()
    store.add_round("s", 0, "space-1", {"a1": {}, "a2": {}})
    store.add_measurement(measured(None, "out of memory"))
    store.add_measurement(Measurement("a2", "accuracy", "net", 50.0, None, 0.5))
    store.forget_failures("accuracy", "another net", ["a1", "a2"])
    assert set(store.measurements("accuracy", "net")) == {"a1", "a2"}
    store.forget_failures("accuracy", "net", ["a1", "a2"])
    assert set(store.measurements("accuracy", "net")) == {"a2"}
    store.close()


def filled(path: Path) -> Store:
    """A store with a row in every table."""
    store = Store(path)
    store.begin_search("s", {"seed": 0})
    store.add_round("s", 0, "space-1", {"a1": {"k": 3}, "a2": {"k": 5}}, {"accuracy": [90.5]})
    store.add_measurement(measured(91.5))
    store.finish_stage("train", {}, {})
    return store


READS = {
    "searches": lambda store: store.begin_search("s", {"seed": 0}),
    "rounds": lambda store: store.rounds("s"),
    "architectures": lambda store: store.rounds("s"),
    "predictions": lambda store: store.predictions("s"),
    "measurements": lambda store: store.measurements("accuracy", "net"),
    "stages": lambda store: store.stage("train"),
}


def test_a_store_whose_structure_is_damaged_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    filled(path).close()
    page = 4096
    path.write_bytes(path.read_bytes()[:page] + b"\xff" * (path.stat().st_size - page))
    with pytest.raises(StoreError, match=r"cannot open .*run\.db.*restore it from a copy"):
        Store(path)


@pytest.mark.parametrize("table", READS)
def test_a_changed_row_is_named_with_a_remedy(table: str, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    filled(path).close()
    with closing(sqlite3.connect(path)) as db:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")][:-1]
    for column in columns:
        store = Store(path)
        before = store._db.execute(f"SELECT rowid, {column} FROM {table} LIMIT 1").fetchone()
        store._db.execute("PRAGMA ignore_check_constraints=ON")
        changed = f"{before[1]}x" if isinstance(before[1], str) else 7
        store._db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (changed, before[0]))
        with pytest.raises(StoreError, match=r"run\.db is damaged: .* restore it from a copy"):
            READS[table](store)
        store._db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", before[::-1])
        READS[table](store)
        store.close()


@pytest.mark.parametrize("table", ["rounds", "predictions", "architectures"])
def test_a_row_that_is_gone_is_missed(table: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "run.db")
    store.add_round("s", 1, "space-1", {"a3": {"k": 7}}, {"accuracy": [70.0, 71.0]})
    row = "min(rowid)" if table == "rounds" else "max(rowid) - 1"  # the last of a round is not missed
    store._db.execute(f"DELETE FROM {table} WHERE rowid = (SELECT {row} FROM {table})")
    with pytest.raises(StoreError, match=r"run\.db is damaged"):
        READS[table](store)
    store.close()


def test_what_sqlite_stores_otherwise_is_not_taken_for_damage() -> None:
    store = Store()
    store.add_round("s", 0, "space-1", {"a1": {}, "a2": {}}, {"accuracy": [float("nan"), -0.0]})
    store.add_measurement(Measurement("a1", "accuracy", "net", -0.0, None, 0))
    store.add_measurement(Measurement("a2", "accuracy", "net", 50, None, 1))
    store.add_measurement(Measurement("a2", "macs", "net", None, "odd \udc80 name", 1))
    assert store.measurements("accuracy", "net")["a2"].value == 50.0
    assert store.measurements("macs", "net")["a2"].error == "odd ? name"
    assert str(store.predictions("s")) == "{0: {'accuracy': [nan, 0.0]}}"
    store.close()


def test_a_closed_store_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "run?%20.db"
    store = Store(path)
    store.add_round("s", 0, "space-1", {"a1": {"k": 3}})
    store.add_measurement(measured(91.5))
    store.close()
    (tmp_path / f"{path.name}-shm").mkdir()  # no shared memory can be made, as on read-only media
    store = Store(path)
    assert store.rounds("s") == [[{"k": 3}]]
    assert store.measurements("accuracy", "net") == {"a1": measured(91.5)}
    with pytest.raises(StoreError, match=r"cannot write .*readonly.*can its folder be written"):
        store.finish_stage("train", {}, {})
    store.close()
    (tmp_path / f"{path.name}-wal").write_bytes(b"what a process left")
    with pytest.raises(StoreError, match="must be merged into it; copy both to a writable folder"):
        _opened_for_reading(path)


def test_a_store_of_an_older_schema_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    store = Store(path)
    store.add_round("search", 0, "toy", {"a": {"x": 1}, "b": {"x": 2}})
    store.close()
    db = sqlite3.connect(path)
    db.execute("DROP TABLE predictions")
    for table in ("architectures", "measurements", "searches", "rounds", "stages"):
        db.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
    db.execute("PRAGMA user_version=1")
    db.close()
    store = Store(path)
    assert store.rounds("search") == [[{"x": 1}, {"x": 2}]]
    assert store.predictions("search") == {}
    store.add_round("search", 1, "toy", {"c": {"x": 3}, "d": {"x": 4}}, {"accuracy": [81.5]})
    assert store.predictions("search") == {1: {"accuracy": [81.5]}}
    store.forget_rounds("search", 1)
    assert store.predictions("search") == {}


@pytest.mark.parametrize("on_disk", [False, True])
def test_threads_share_a_store(on_disk: bool, tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db" if on_disk else None)
    start = threading.Barrier(6)

    def write_and_read(thread: int) -> int:
        start.wait()
        store.begin_search("shared", {"seed": 1})
        for number in range(10):
            store.add_round(f"s{thread}", number, "space-1", {f"a{thread}-{number}": {"k": number}})
            store.add_measurement(Measurement(f"a{thread}-{number}", "accuracy", "net", number, None, 0.1))
            store.finish_stage(f"stage{thread}", {}, {"number": number})
            assert store.stage(f"stage{thread}") == {"inputs": {}, "outputs": {"number": number}}
            assert len(store.rounds(f"s{thread}")) == number + 1
        return len(store.measurements("accuracy", "net"))

    with ThreadPoolExecutor(6) as pool:
        known = list(pool.map(write_and_read, range(6)))
    assert max(known) == len(store.measurements("accuracy", "net")) == 60
    assert store.rounds("s3") == [[{"k": number}] for number in range(10)]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.close).result()


def test_a_thread_writes_while_another_one_reads(tmp_path: Path) -> None:
    """A reader that stops halfway, as one that raised an error, does not keep the lock."""
    store = Store(tmp_path / "run.db")
    for number in range(3):
        store.add_round("s", number, "space-1", {f"a{number}": {"k": number}})
    rounds = store.each_round("s")
    assert next(rounds) == [{"k": 0}]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.add_round, "t", 0, "space-1", {"b": {}}).result(timeout=60)
    assert list(rounds) == [[{"k": 1}], [{"k": 2}]]
    store.close()


def test_a_closed_store_and_one_in_memory_are_named() -> None:
    store = Store()
    store.close()
    with pytest.raises(StoreError, match=r"cannot write the store in memory.*Open the store again") as raised:
        store.forget_search("s")
    assert "delete" not in str(raised.value)
    with pytest.raises(StoreError, match=r"cannot read the store in memory.*Open the store again"):
        store.rounds("s")
