"""What a run leaves behind: artefacts written whole or not at all, and run.db with every evaluation.

Artefacts are written to a temporary name in the same folder, flushed to the disk, and renamed; the folder
is flushed too, so that a file which exists is complete. JSON artefacts carry a `sha256` of the rest.

run.db is SQLite in WAL mode and holds plain rows. Only values that cost something are stored, one row a
metric, keyed by where they come from (`source`, a digest of all that the value depends on), so that every
search and every device that asks for the same value shares it:

    measurements  architecture, metric, source → value, or why it failed
    searches      search → its settings, which every continuation shares
    rounds        search, number → the architectures that were asked for, written before they are evaluated
    predictions   search, number, metric → what the strategy predicted of them when it asked
    stages        stage → the digest of its inputs and of what it made

SQLite does not notice a bit that flips on the disk. So each row ends with the CRC-32 of its other values as a
JSON list, which is compared whenever it is read, and the structure of the file is looked through when it is
opened.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import math
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hwnas.errors import ChecksumError, StoreError
from hwnas.files import check_regular, expanded, standard_stream
from hwnas.text import one_line

SCHEMA = 3  # 1 has no predictions, 1 and 2 have no checksums
MOST_UNPACKED = 256 << 20  # bytes in a file of few
REMEDY = (
    "restore it from a copy, delete it (its evaluations are lost, and every stage is made again, the latency "
    "table too), or use another run folder (--run-dir)"
)
TEMPORARY = ".tmp"  # the end of names of files that are being written
FETCHED_AT_ONCE = 1000  # rows of run.db
BUSY_S = 30  # how long one process waits for another to finish a write

log = logging.getLogger("hwnas")


# ---- artefacts ----------------------------------------------------------------------------------


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all, and return when it is on the disk. StoreError names what failed."""
    path = Path(path)
    try:
        make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; what was there before stands"
        ) from None
    try:
        _flush_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} is written, but not yet safe on the disk: {error.strerror}") from None


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, if need be; they are on the disk then."""
    if not folder.is_dir():
        make_folder(folder.parent)
        os.makedirs(folder, exist_ok=True)  # another process may make it at the same time
        _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    """What was made or renamed in a folder is on the disk then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there, for good; StoreError says why it cannot be."""
    try:
        if path.exists():
            path.unlink()
            _flush_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror}") from None


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for what others write and hwnas reads; StoreError if there is no room for it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        raise StoreError(
            f"cannot write a temporary file: {error.strerror or error}; make room, or name a folder: TMPDIR"
        ) from None


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left in and below a folder in which nobody is writing."""
    for left in folder.rglob(f".*{TEMPORARY}"):
        left.unlink(missing_ok=True)


def remove_folder(path: str | Path) -> None:
    """Remove a folder and all that is in it, if it is there; StoreError says what cannot be removed."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot remove {path}: {error.strerror or error}; remove it by hand") from None


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_output(path: str | Path, data: bytes) -> None:
    """Write a file at a path that a user chose.

    A regular file is replaced as a whole, see `write_bytes`. A symbolic link stays, and its target is
    replaced. Character devices (``/dev/null``), named pipes, and the standard streams (``/dev/stdout``) are
    written to. A named pipe blocks until a program opens it for reading.

    Args:
        path: Where the data goes.
        data: The content of the file.

    Raises:
        StoreError: If the path names a folder, a socket or a block device, or cannot be written.
    """
    path = expanded(path)
    try:
        stream = standard_stream(path)
        if stream is not None:
            sys.stdout.flush()  # lines that were printed earlier come first
            _write_descriptor(os.dup(stream), data)
            return
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG  # the file is created
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            _write_descriptor(os.open(path, os.O_WRONLY), data)
            return
        if stat.S_ISDIR(mode):
            raise StoreError(f"cannot write {path}: it is a folder; give the name of a file in it")
        if not stat.S_ISREG(mode):
            raise StoreError(f"cannot write {path}: it is a socket or a block device; give another path")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}; give another path") from None
    write_bytes(os.path.realpath(path) if path.is_symlink() else path, data)


def _write_descriptor(descriptor: int, data: bytes) -> None:
    """Write all data to an open descriptor and close it."""
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with a `sha256` of the rest as its last entry."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    return {**rest, "sha256": digest(rest)}


def check_seal(data: Mapping[str, Any], path: str | Path, remedy: str) -> None:
    """ChecksumError, naming the file and the remedy, unless `sha256` fits the rest of `data`."""
    if "sha256" not in data:
        raise ChecksumError(f"{path} has no sha256; {remedy}")
    if sealed(data)["sha256"] != data["sha256"]:
        raise ChecksumError(f"{path} was changed after it was written (its sha256 does not fit); {remedy}")


def write_json(path: str | Path, data: Mapping[str, Any]) -> None:
    """A JSON artefact, sealed. NaN and infinity are refused (ValueError)."""
    write_bytes(path, sealed_json(data))


def sealed_json(data: Mapping[str, Any]) -> bytes:
    """Return the content of a sealed JSON file.

    Args:
        data: Plain data without NaN and infinity.

    Returns:
        The JSON object in UTF-8, with a `sha256` of the other entries as its last entry.
    """
    return (json.dumps(sealed(data), indent=1, allow_nan=False) + "\n").encode()


def read_json(path: str | Path, remedy: str = "make it again, or restore it from a copy") -> dict[str, Any]:
    """A sealed JSON artefact without its seal.

    StoreError if it is missing or not JSON, ChecksumError if it was changed.
    """
    data = parse_json(path, read_bytes(path))
    check_seal(data, path, remedy)
    del data["sha256"]
    return data


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file; StoreError names what is missing or unreadable, or no file but a pipe."""
    path = expanded(path)
    try:
        check_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from None


def unpacked(path: str | Path, data: bytes) -> bytes:
    """The bytes of a file, those inside if it is a gzip file; StoreError if they are more than 256 MiB.

    A damaged one raises OSError, EOFError or zlib.error.
    """
    if data[:2] != b"\x1f\x8b":
        return data
    with gzip.open(io.BytesIO(data)) as file:
        found = file.read(MOST_UNPACKED + 1)
    if len(found) > MOST_UNPACKED:
        raise StoreError(f"{path} holds more than {MOST_UNPACKED >> 20} MiB; a table is smaller than that")
    return found


def parse_json(path: str | Path, data: bytes) -> dict[str, Any]:
    """The JSON object in the bytes of a file; StoreError if they are anything else."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not allowed")

    try:
        parsed = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{path} is not valid JSON, or was cut off: {error}; restore it from a copy"
        ) from None
    if not isinstance(parsed, dict):
        raise StoreError(f"{path} holds {type(parsed).__name__}, not a JSON object")
    return parsed


def digest(data: Any) -> str:
    """SHA-256, in hexadecimal digits, of plain data as canonical JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256, in hexadecimal digits, of a file's bytes."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


# ---- run.db -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)  # there may be a million of them
class Measurement:
    """One true value of an architecture, or the error that stood in its way."""

    architecture: str  # id
    metric: str
    source: str
    value: float | None
    error: str | None
    seconds: float


_TABLES = """
CREATE TABLE IF NOT EXISTS architectures (
    id TEXT PRIMARY KEY, space TEXT NOT NULL, choices TEXT NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS measurements (
    architecture TEXT NOT NULL REFERENCES architectures(id), metric TEXT NOT NULL, source TEXT NOT NULL,
    value REAL, error TEXT, seconds REAL NOT NULL, created REAL NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (architecture, metric, source), CHECK ((value IS NULL) <> (error IS NULL))
) STRICT;
CREATE TABLE IF NOT EXISTS searches (
    name TEXT PRIMARY KEY, settings TEXT NOT NULL, checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS rounds (
    search TEXT NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL,
    architecture TEXT NOT NULL REFERENCES architectures(id), checksum INTEGER NOT NULL,
    PRIMARY KEY (search, number, position)
) STRICT;
CREATE TABLE IF NOT EXISTS predictions (
    search TEXT NOT NULL, number INTEGER NOT NULL, position INTEGER NOT NULL, metric TEXT NOT NULL,
    value REAL, checksum INTEGER NOT NULL, PRIMARY KEY (search, number, position, metric)
) STRICT;
CREATE TABLE IF NOT EXISTS stages (
    name TEXT PRIMARY KEY, inputs TEXT NOT NULL, outputs TEXT NOT NULL, created REAL NOT NULL,
    checksum INTEGER NOT NULL
) STRICT
"""
# What a checksum is of, in this order.
_COLUMNS = {
    "architectures": ("id", "space", "choices"),
    "measurements": ("architecture", "metric", "source", "value", "error", "seconds", "created"),
    "searches": ("name", "settings"),
    "rounds": ("search", "number", "position", "architecture"),
    "predictions": ("search", "number", "position", "metric", "value"),
    "stages": ("name", "inputs", "outputs", "created"),
}


_as_json = json.JSONEncoder().encode


def _checksum(*values: Any) -> int:
    """Of the values of a row."""
    return zlib.crc32(_as_json(values).encode())


def _row(*values: Any) -> tuple[Any, ...]:
    """The values of a row as SQLite gives them back, without NaN and -0.0, and their checksum."""
    plain = [
        None if value != value else value + 0.0 if isinstance(value, float) else value for value in values
    ]
    return (*plain, _checksum(*plain))


# What to do about an error of SQLite, by its primary code; about any other one: REMEDY.
_REMEDIES = {
    sqlite3.SQLITE_FULL: "make room on its disk, then go on with the same command",
    sqlite3.SQLITE_IOERR: "is its disk full, or failing? Then go on with the same command",
    sqlite3.SQLITE_READONLY: "can its folder be written?",
    sqlite3.SQLITE_CANTOPEN: "can its folder be written?",
}


def _line(error: Exception) -> str:
    """What SQLite says, in one line (of a damaged schema it gives an excerpt), and what to do about it."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if isinstance(error, sqlite3.ProgrammingError):  # the file is not damaged: the connection was closed
        return f"{one_line(error)} Open the store again after Store.close()"
    if code == sqlite3.SQLITE_BUSY:
        return f"another process has been writing it for {BUSY_S} s; wait for it, or stop it"
    return f"{one_line(error)}; {_REMEDIES.get(code, REMEDY)}"


def _opened_for_reading(path: Path) -> sqlite3.Connection:
    """A store whose folder cannot be written. What an unfinished process left beside it would be missed."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise StoreError(
            f"cannot open {path}: {log.name} must be merged into it; copy both to a writable folder"
        )
    address = f"{path.absolute().as_uri()}?immutable=1"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


class Store:
    """run.db. Every method that writes has committed when it returns.

    Threads may share a store: a lock lets one of them at a time use its connection.
    """

    _outdated: int | None = None  # schema of an older file that is not brought up to date yet

    def __init__(self, path: str | Path | None = None) -> None:
        """Open or create; without a path it lives in memory. StoreError for a file that is no store.

        Where nothing can be written (read-only media) a store that was closed is opened for reading.
        """
        self.path = None if path is None else expanded(path)
        self._lock = threading.RLock()
        try:
            if self.path is not None:
                make_folder(self.path.parent)
                for end in ("", "-wal", "-shm"):
                    if (file := self.path.with_name(self.path.name + end)).exists():
                        check_regular(file)
            self._db = sqlite3.connect(
                self.path or ":memory:", timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._open()
            except BaseException:
                self._db.close()  # or its locks would stay as long as the error is looked at
                raise
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot open {self.path}: {_line(error)}") from None

    def _open(self) -> None:
        writable = True
        try:
            version = self._version()
        except sqlite3.OperationalError as error:
            if self.path is None or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN:
                raise
            self._db.close()
            self._db = _opened_for_reading(self.path)
            version, writable = self._version(), False
        if version > SCHEMA:
            raise StoreError(
                f"{self.path} has schema {version}, this hwnas reads up to {SCHEMA}; use a newer hwnas"
            )
        self._db.execute("PRAGMA trusted_schema=OFF")  # it may be somebody else's
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        ((trouble,),) = self._db.execute("PRAGMA quick_check(1)").fetchall()
        if trouble != "ok":
            raise sqlite3.DatabaseError(trouble)
        if version == 0 and writable:
            self._take_over(version)
            version = SCHEMA
        self._outdated = version if version < SCHEMA else None
        self._has_checksums = self._has_column("measurements", "checksum")
        if not self._has_checksums and not writable:
            log.warning("%s has no checksums and cannot be given any: its rows are not checked", self.path)

    def _parsed(self, text: str) -> Any:
        """Plain data of a row; StoreError if the file was damaged."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._damaged(f"a row is not JSON ({error})") from None

    def _version(self) -> int:
        with self._lock:
            return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _has_column(self, table: str, column: str) -> bool:
        query = "SELECT count(*) FROM pragma_table_info(?) WHERE name = ?"
        return bool(self._db.execute(query, (table, column)).fetchone()[0])

    def _take_over(self, version: int) -> None:
        """Make tables of this schema; those of an older one get checksums of what they hold."""
        with self._transaction() as db:
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.create_function("hwnas_checksum", -1, _checksum, deterministic=True)
            for table, columns in _COLUMNS.items():
                if not self._has_column(table, "checksum"):
                    db.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
                    db.execute(f"UPDATE {table} SET checksum = hwnas_checksum({', '.join(columns)})")
            db.create_function("hwnas_checksum", -1, None)
            db.execute(f"PRAGMA user_version={SCHEMA}")
        if version:
            log.warning(
                "%s was of schema %d: its rows are taken as they are, and checked from now on",
                self.path,
                version,
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @property
    def _name(self) -> str:
        return "the store in memory" if self.path is None else str(self.path)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._outdated is not None:  # an older file is changed by the first write, not by reading
                version, self._outdated = self._outdated, None
                try:
                    self._take_over(version)
                except BaseException:
                    self._outdated = version
                    raise
                self._has_checksums = True
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # a full disk may have ended it
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StoreError(
                    f"cannot write {self._name}, nothing of this step was stored: {_line(error)}"
                ) from None

    def _rows(self, *tables: str, joined: str = "", order: str = "") -> Iterator[tuple[Any, ...]]:
        """The values of every row of a table, or of tables `joined`, all of them checked.

        Those that are not wanted too: where something was damaged, that may be what they are.
        """
        last = "{0}.checksum" if self._has_checksums else "NULL"
        columns, places, end = [], [], 0
        for table in tables:
            columns += [f"{table}.{column}" for column in _COLUMNS[table]] + [last.format(table)]
            places.append((table, end, end + len(_COLUMNS[table])))
            end += len(_COLUMNS[table]) + 1
        query = f"SELECT {', '.join(columns)} FROM {joined or tables[0]}"
        for row in self._fetched(f"{query} ORDER BY {order}" if order else query):
            values: tuple[Any, ...] = ()
            for table, begin, end in places:
                part = row[begin:end]
                if row[end] != _checksum(*part) and self._has_checksums:
                    raise self._damaged(f"a row of its {table} is not what was written: {part!r:.100}")
                values += part
            yield values

    def _fetched(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query. The lock is held for a batch at a time, not while the caller works."""
        cursor = None
        try:
            while True:
                with self._lock:
                    cursor = cursor or self._db.execute(query)
                    rows = cursor.fetchmany(FETCHED_AT_ONCE)
                if not rows:
                    return
                yield from rows
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {self._name}: {_line(error)}") from None
        finally:
            if cursor is not None:
                with self._lock:
                    cursor.close()

    def _damaged(self, what: str) -> StoreError:
        return StoreError(f"{self._name} is damaged: {what}; {REMEDY}")

    def begin_search(self, search: str, settings: Mapping[str, Any]) -> None:
        """Begin a search, or go on with it; StoreError, naming what differs, if its settings were others."""
        text = json.dumps(settings, sort_keys=True)
        if search not in (known := dict(self._rows("searches"))):
            with self._transaction() as db:
                db.execute("INSERT OR IGNORE INTO searches VALUES (?, ?, ?)", _row(search, text))
            known = dict(self._rows("searches"))
        before, now = self._parsed(known[search]), json.loads(text)
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise StoreError(
                    f"the stored search {search!r} has {key} {before.get(key)}, now it is {now.get(key)}; "
                    "give another name, or forget the stored search: add --restart search to the command, in "
                    f"Python call Store.forget_search({search!r})"
                )

    def add_round(
        self,
        search: str,
        number: int,
        space: str,
        architectures: Mapping[str, Mapping[str, Any]],
        predicted: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Batch `number`, from 0, of a search, id → values by choice name, in the order asked.

        `predicted` are what the strategy predicts of the first ones of them, by metric.
        StoreError unless it is the next one: then another process goes on with the same search.
        """
        with self._transaction() as db:
            known = db.execute(
                "SELECT coalesce(max(number) + 1, 0) FROM rounds WHERE search = ?", (search,)
            ).fetchone()[0]
            if number != known:
                raise StoreError(
                    f"the search {search!r} of {self._name} has {known} rounds, not {number}: another "
                    "process is searching here; wait for it to end, then search again"
                )
            db.executemany(
                "INSERT OR IGNORE INTO architectures VALUES (?, ?, ?, ?)",
                [_row(key, space, json.dumps(values)) for key, values in architectures.items()],
            )
            db.executemany(
                "INSERT INTO rounds VALUES (?, ?, ?, ?, ?)",
                [_row(search, number, position, key) for position, key in enumerate(architectures)],
            )
            db.executemany(
                "INSERT INTO predictions VALUES (?, ?, ?, ?, ?, ?)",
                [
                    _row(search, number, position, metric, float(value))
                    for metric, values in (predicted or {}).items()
                    for position, value in enumerate(values)
                ],
            )

    def rounds(self, search: str) -> list[list[dict[str, Any]]]:
        """The batches of a search so far: values by choice name, in the order asked."""
        return list(self.each_round(search))

    def each_round(self, search: str) -> Iterator[list[dict[str, Any]]]:
        """`rounds`, one after the other: all together they may be large."""
        rows = self._rows(
            "rounds",
            "architectures",
            joined="rounds LEFT JOIN architectures ON id = architecture",
            order="search, number, position",
        )
        own = (row for row in rows if row[0] == search)
        for expected, (number, batch) in enumerate(groupby(own, key=lambda row: row[1])):
            found = []
            for place, (_, _, position, *_, choices) in enumerate(batch):
                if (number, position) != (expected, place):
                    raise self._damaged(
                        f"before position {position} of round {number} of {search!r} some are missing"
                    )
                found.append(self._parsed(choices))
            yield found

    def predictions(self, search: str) -> dict[int, dict[str, list[float]]]:
        """What was predicted of a search's batches: number → metric → values of the first ones of a batch."""
        found: dict[int, dict[str, list[float]]] = {}
        if self._version() < 2:  # opened for reading, as it is
            return found
        rows = self._rows("predictions", order="search, number, metric, position")
        for name, number, position, metric, value in rows:
            if name == search:
                values = found.setdefault(number, {}).setdefault(metric, [])
                if position != len(values):
                    raise self._damaged(f"a prediction of round {number} of {search!r} is missing")
                values.append(math.nan if value is None else value)
        return found

    def forget_rounds(self, search: str, first: int) -> None:
        """Drop the batches of a search from number `first` on; their measurements stay."""
        with self._transaction() as db:
            for table in ("rounds", "predictions"):
                db.execute(f"DELETE FROM {table} WHERE search = ? AND number >= ?", (search, first))

    def add_measurement(self, measurement: Measurement) -> None:
        """A true value, or a failure. A second one of the same key takes the place of a failed one only."""
        value = measurement.value
        if value is not None and not math.isfinite(value):
            raise StoreError(f"{measurement.metric} of {measurement.architecture} is {value}, not a number")
        error = measurement.error  # of anybody's: a name that is no UTF-8 may be in it
        error = None if error is None else error.encode(errors="replace").decode()
        with self._transaction() as db:
            db.execute(
                "INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "value = excluded.value, error = excluded.error, seconds = excluded.seconds, "
                "created = excluded.created, checksum = excluded.checksum WHERE measurements.value IS NULL",
                _row(
                    measurement.architecture,
                    measurement.metric,
                    measurement.source,
                    None if value is None else float(value),
                    error,
                    float(measurement.seconds),
                    time.time(),
                ),
            )

    def measurements(self, metric: str, source: str) -> dict[str, Measurement]:
        """All that is known of one metric from one source, by architecture id."""
        return {
            architecture: Measurement(architecture, metric, source, value, error, seconds)
            for architecture, name, origin, value, error, seconds, _ in self._rows("measurements")
            if (name, origin) == (metric, source)
        }

    def forget_failures(self, metric: str, source: str, architectures: Iterable[str]) -> None:
        """Drop the failures of one metric from one source, so that they are tried again; values stay."""
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM measurements "
                "WHERE metric = ? AND source = ? AND architecture = ? AND value IS NULL",
                [(metric, source, architecture) for architecture in architectures],
            )

    def copy_measurements(self, other: Store, metric: str, source: str) -> int:
        """Take over what another store knows of one metric from one source, and when; how many there are."""
        joined = "measurements LEFT JOIN architectures ON id = architecture"
        found = [
            row
            for row in other._rows("measurements", "architectures", joined=joined)
            if row[1:3] == (metric, source) and row[3] is not None
        ]
        with self._transaction() as db:
            for table, begin, end in (("architectures", 7, 10), ("measurements", 0, 7)):
                rows = [_row(*row[begin:end]) for row in found]
                marks = ", ".join("?" * (end - begin + 1))
                db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)
        return len(found)

    def forget_search(self, search: str) -> None:
        """Drop a search and its rounds; its measurements stay, they are true of their source."""
        with self._transaction() as db:
            db.execute("DELETE FROM searches WHERE name = ?", (search,))
            for table in ("rounds", "predictions"):
                db.execute(f"DELETE FROM {table} WHERE search = ?", (search,))

    # ---- stages -----------------------------------------------------------------------------

    def stage(self, name: str) -> dict[str, Any] | None:
        """What a finished stage was made from and made: {"inputs": …, "outputs": …}; None if unfinished."""
        for stage, inputs, outputs, _ in self._rows("stages"):
            if stage == name:
                return {"inputs": self._parsed(inputs), "outputs": self._parsed(outputs)}
        return None

    def finish_stage(self, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Mark a stage as finished, with plain data on what it was made from and made."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?, ?)",
                _row(name, json.dumps(inputs), json.dumps(outputs), time.time()),
            )

    def reopen_stages(self, names: Sequence[str]) -> None:
        """Mark stages as unfinished."""
        with self._transaction() as db:
            db.executemany("DELETE FROM stages WHERE name = ?", [(name,) for name in names])
