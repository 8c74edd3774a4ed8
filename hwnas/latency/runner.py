"""The timing loop, and all that a board needs of hwnas: this one file, Python >= 3.8, numpy and onnxruntime.

It is the core of the devices of this machine, the far end of the device ``ssh`` (`serve`), and the program of
a bundle (`run_bundle`). So it imports nothing of hwnas, and no syntax or function newer than Python 3.8.

A job is plain data: ``models`` (of each, the SHA-256 of the pieces that make its bytes), ``visits``,
``warmup_runs``, ``kept_runs``, ``time_limit_s`` and ``threads``; ``cores`` if it may only use some;
``kept_cores`` if earlier passes ran on these. What is measured is a sequence of records,
first {"seconds", "cold_ns"} of each model, then {"seconds", "rows"} of each visit, in the order of the plan:
so the number of records says how far a job is, and a job that was interrupted goes on from there. The first
record also has "cores", the numbers of the cores that the job runs on.

On a board, under ~/.cache/hwnas (or $XDG_CACHE_HOME/hwnas; where that cannot be written, under hwnas-<uid> in
the folder for temporary files):

    lock                held, with the holder's process id in it, by whoever measures
    pieces/<sha256>     pieces of models, shared by jobs
    jobs/<id>/          job.json; samples.jsonl, a record a line; lease, touched by a client that waits
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import json
import math
import os
import platform
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    import numpy as np

    Run = Callable[[], object]
    Row = list[tuple[int, int, bool]]  # time and wall time in ns, and whether preempted, of each kept run

SCHEMA = 1
PROVIDER = "CPUExecutionProvider"
INPUT_RANGES = (
    "input_ranges"  # property of a model: exclusive upper limits of integer inputs by name, as JSON
)
# NumPy names of the types of inputs that random values are made of, by their names in ONNX Runtime.
TENSOR_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
}
FREE_MEMORY = 0.25  # share of the machine's memory that open models leave free
MAX_IMPOSSIBLE = 0.001  # share of readings that are no positive time; a clock with more of them is broken
PREEMPTED_RATIO = 1.5  # wall time to CPU time of one thread
FLUSH_S = 0.5  # between writes of what was measured
POLL_S = 0.2  # between looks at what was measured
HEARTBEAT_S = 2.0
LEASE_S = 60.0  # a job that no client waits for stops, and keeps what it has
KEPT_S = 86400.0  # jobs and pieces unused for so long are deleted
MAX_LINE = 64 << 20
MAX_PIECE = 1 << 31  # bytes; a model has fewer, since protobuf ends there
EXIT_BUSY, EXIT_WRITE = 75, 74
# Least ratio of capacities and of clocks of one kind: turbo clocks of single cores are up to 6 % higher, and
# the clocks of the two kinds of cores of some phones are only 9 % apart.
SAME_KIND = 0.92
PROC = Path("/proc")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CPUS = Path("/sys/devices/system/cpu")


class RunnerError(Exception):
    """Something that the person who asked can put right; the message says how.

    `model` is the index of the model that cannot be opened or run; None for any other error.
    """

    def __init__(self, message: str, model: int | None = None) -> None:
        super().__init__(message)
        self.model = model


class Abandoned(Exception):
    """No client waits for the job any more."""


# ---- timing -------------------------------------------------------------------------------------


def records(
    models: int,
    visits: Sequence[Sequence[int]],
    time_limit_s: float,
    open_model: Callable[[int], Run],
    first_call: Callable[[Run], int],
    visit: Callable[[Sequence[Run]], list[Row]],
    done: int = 0,
    spent_s: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """The records of n models and of visits to them, from number `done` on, after `spent_s` seconds.

    `open_model` gives the call of a model by index, `first_call` its wall time in nanoseconds, `visit` the
    kept runs of each model of a visit. All models are opened first; those for which memory is short are
    opened anew at each visit.
    """
    began = time.monotonic() - spent_s
    ready: dict[int, Run] = {}
    for i in range(models):
        run, cold_ns = open_and_run(i, open_model, first_call)
        if memory_left():
            ready[i] = run
        if i >= done:
            yield {"seconds": round(time.monotonic() - began, 3), "cold_ns": cold_ns}
    for chosen in visits[max(0, done - models) :]:
        if time.monotonic() - began > time_limit_s:
            break
        rows = visit([ready[i] if i in ready else open_model(i) for i in chosen])
        yield {"seconds": round(time.monotonic() - began, 3), "rows": rows}


def open_and_run(
    i: int, open_model: Callable[[int], Run], first_call: Callable[[Run], int]
) -> tuple[Run, int]:
    """Open model number `i` and run it once; return its call and the time of the run in nanoseconds.

    The attribute `model` of an error is `i`. RunnerError for a model that fails when it runs.
    """
    try:
        run = open_model(i)
    except MemoryError:
        raise RunnerError("there is not enough memory to open the model; time a smaller one", i) from None
    except Exception as error:
        error.model = i  # type: ignore[attr-defined]
        raise
    try:
        return run, first_call(run)
    except Exception as error:  # runtimes have no common base class of exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunnerError(
            f"the model loads, but fails when it runs: {reason}; export it again for this input size, or "
            "time it at the size that it was made for (hwnas benchmark --input NAME:SHAPE)",
            i,
        ) from error


def wall_ns(run: Run) -> int:
    """Wall time of one run in nanoseconds, from its call to its end."""
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start


def timed_visit(runs: Sequence[Run], warmup_runs: int, kept_runs: int, threads: int) -> list[Row]:
    """The kept runs of each model of a visit: CPU time of the thread if there is one, else wall time."""
    clock = time.thread_time_ns if threads == 1 else time.perf_counter_ns
    for _ in range(warmup_runs):
        for run in runs:
            run()
    kept: list[Row] = [[] for _ in runs]
    for _ in range(kept_runs):
        for i, run in enumerate(runs):
            switches, wall = _switches(), time.perf_counter_ns()
            start = clock()
            run()
            time_ns = clock() - start
            wall_ns = time.perf_counter_ns() - wall
            preempted = _switches() > switches
            if threads == 1:
                preempted = preempted or wall_ns > PREEMPTED_RATIO * time_ns
            kept[i].append((time_ns, wall_ns, preempted))
    return kept


def reading_counts(
    visits: Sequence[Sequence[int]], records: Sequence[dict[str, Any]]
) -> list[tuple[int, int]]:
    """Count the readings of each model in the records of a job.

    Args:
        visits: models of each visit of the job.
        records: records of the job, from the first on.

    Returns:
        For each visited model its impossible readings, whose time is no positive number, and all readings.
    """
    counts: dict[int, tuple[int, int]] = {}
    rows_of_visits = (record["rows"] for record in records if "rows" in record)
    for visit, rows in zip(visits, rows_of_visits):  # noqa: B905 - Python 3.8 knows no strict
        for model, row in zip(visit, rows):  # noqa: B905
            impossible, readings = counts.get(model, (0, 0))
            counts[model] = impossible + sum(time_ns <= 0 for time_ns, _, _ in row), readings + len(row)
    return list(counts.values())


def is_clock_broken(counts: Sequence[tuple[int, int]]) -> bool:
    """Return whether a clock gives too many impossible readings to be used.

    A single impossible reading is tolerated, and one in a thousand. A model with more impossible readings
    than possible ones in a pass is not: the clock cannot resolve its time.

    Args:
        counts: impossible readings and all readings of each model of each pass.

    Returns:
        Whether the clock is broken.
    """
    impossible, readings = (sum(pair[i] for pair in counts) for i in (0, 1))
    unresolved = any(2 * pair[0] > pair[1] for pair in counts)
    return unresolved or impossible > max(1, MAX_IMPOSSIBLE * readings)


def open_onnxruntime(model: bytes, threads: int) -> Run:
    """A call that runs a serialised model once; RunnerError if ONNX Runtime refuses it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised; ONNX Runtime need not print them as well
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
    except Exception as error:  # its exceptions have no common base class
        reason = " ".join(str(error).split())
        raise RunnerError(f"ONNX Runtime cannot load a model: {reason}") from None
    properties = session.get_modelmeta().custom_metadata_map
    inputs = [(i.name, dtype_of(i.name, i.type), timed_shape(i.shape)) for i in session.get_inputs()]
    feed = random_inputs(inputs, input_ranges(properties.get(INPUT_RANGES)))
    outputs = [output.name for output in session.get_outputs()]
    return lambda: session.run(outputs, feed)


def dtype_of(name: str, element_type: str) -> str:
    """Return the data type of an input by its NumPy name.

    Args:
        name: Name of the input.
        element_type: Type as ONNX Runtime writes it, such as "tensor(int64)".

    Returns:
        A name such as "int64".

    Raises:
        RunnerError: For a type of which no random values are made, such as text.
    """
    dtype = TENSOR_TYPES.get(element_type)
    if dtype is None:
        raise RunnerError(
            f"input {name} of a model is a {element_type}, of which no random values are made; give a model "
            f"whose inputs are among {', '.join(TENSOR_TYPES.values())}"
        )
    return dtype


def input_ranges(text: str | None) -> dict[str, int]:
    """Return the exclusive upper limits of integer inputs by name.

    Args:
        text: The property `INPUT_RANGES` of a model, as JSON; None if the model has none.

    Returns:
        The limits that the model declares.

    Raises:
        RunnerError: If the text is not a JSON object of positive integers.
    """
    try:
        ranges = json.loads(text or "{}")
    except ValueError:
        ranges = None
    numbers = ranges.values() if isinstance(ranges, dict) else [None]
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise RunnerError(
            f"the property {INPUT_RANGES} of a model is {text!r:.80}, no JSON object of positive integers; "
            "export the model again, or remove the property"
        )
    return dict(ranges)


def timed_shape(declared: Sequence[Any]) -> list[int]:
    """Return the shape at which an input is timed: an open batch, the first size, is 1.

    A size is open if it is not a positive number. RunnerError for another open size.
    """
    sizes = [size if isinstance(size, int) and size > 0 else None for size in declared]
    shape = [1 if i == 0 and size is None else size for i, size in enumerate(sizes)]
    if None in shape:
        text = "x".join("?" if size is None else str(size) for size in sizes)
        raise RunnerError(f"the input of a model is {text}; only the batch may be open, fix the other sizes")
    return [size for size in shape if size is not None]


def random_inputs(
    inputs: Sequence[tuple[str, str, Sequence[int]]], ranges: dict[str, int]
) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return the inputs that a model is timed on, the same in every call.

    Args:
        inputs: Name, data type and shape of each input.
        ranges: Exclusive upper limits of integers by name; 2 where there is none.

    Returns:
        Arrays by name: floats from the normal distribution, integers uniform from 0 to below their limit.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    feed: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
    for name, dtype, shape in inputs:
        if np.dtype(dtype).kind == "f":
            noise = generator.standard_normal(tuple(shape), dtype=np.float32)
            feed[name] = noise.astype(dtype, copy=False)
        else:
            feed[name] = generator.integers(0, ranges.get(name, 2), tuple(shape)).astype(dtype)
    return feed


def onnxruntime_records(
    job: dict[str, Any],
    load: Callable[[int], bytes],
    cores: Sequence[int],
    done: int = 0,
    spent_s: float = 0.0,
) -> Generator[dict[str, Any], None, None]:
    """The records of a job by ONNX Runtime on these cores; `load` gives the bytes of a model by index."""
    threads, limit_s = job["threads"], job["time_limit_s"]
    with pinned(cores), without_gc():
        new = records(
            len(job["models"]),
            job["visits"],
            math.inf if limit_s is None else limit_s,
            lambda i: open_onnxruntime(load(i), threads),
            wall_ns,
            lambda runs: timed_visit(runs, job["warmup_runs"], job["kept_runs"], threads),
            done,
            spent_s,
        )
        for number, record in enumerate(new, start=done):
            yield {**record, "cores": list(cores)} if number == 0 else record


def onnxruntime_identity(threads: int, cores: Sequence[int] | None = None) -> dict[str, Any]:
    """The machine, the runtime and the statistic, as a table holds them; RunnerError says what is missing.

    `cores` are those that may be used; None: all.
    """
    for module in ("numpy", "onnxruntime"):
        try:
            __import__(module)
        except ImportError as error:
            raise RunnerError(
                f"{sys.executable} cannot import {module} ({error}); run there: python3 -m venv ~/hwnas && "
                "~/hwnas/bin/pip install numpy onnxruntime, and use the Python ~/hwnas/bin/python"
            ) from None
    candidate_cores(threads, cores)
    return {
        "device": machine(),
        "runtime": onnxruntime_runtime(threads),
        "statistic": statistic(threads),
    }


def machine() -> dict[str, Any]:
    """The device of the identity."""
    cpu = cpu_name()  # names the device too: tables are shared, and a host name says nothing elsewhere
    return {"name": cpu, "cpu": cpu, "cores": os.cpu_count() or 1}


def onnxruntime_runtime(threads: int) -> dict[str, Any]:
    """The runtime of the identity."""
    import onnxruntime

    return {
        "name": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": PROVIDER,
        "threads": threads,
        "graph_optimization": "all",
    }


def statistic(threads: int) -> str:
    """Which time of a run is the latency, see `timed_visit`."""
    return "cpu-trimmed-mean" if threads == 1 else "wall-trimmed-mean"


def cpu_name() -> str:
    """The processor, or where the system does not name it, the board."""
    for line in system_text(PROC / "cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    board = system_text(PROC / "device-tree/model").strip("\0 \n")
    return board or platform.processor() or platform.machine()


def memory_left() -> bool:
    """Whether further models may stay open."""
    rows = (line.split() for line in system_text(PROC / "meminfo").splitlines())
    size = {row[0]: int(row[1]) for row in rows if len(row) > 1}
    if "MemTotal:" not in size:
        return True
    return size.get("MemAvailable:", size["MemTotal:"]) > FREE_MEMORY * size["MemTotal:"]


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Keep the calling thread, and those it starts, on these cores; anywhere if there are none.

    Threads that a runtime starts outlive the measurement in its pool; they too are let go at the end.
    """
    if not cores:
        yield
        return
    before, others = os.sched_getaffinity(0), _thread_ids()
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise RunnerError(
            f"the system does not let this process run on cores {core_list(cores)} ({error.strerror}); give "
            "others (--cores, latency.cores)"
        ) from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        for thread in _thread_ids() - others:
            with contextlib.suppress(ProcessLookupError):  # it ended in the meantime
                os.sched_setaffinity(thread, before)


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Garbage is collected before, not while, models are timed."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _switches() -> int:
    """Involuntary context switches of this thread so far."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _thread_ids() -> set[int]:
    try:
        return {int(name) for name in os.listdir(PROC / "self/task")}
    except OSError:
        return set()


def _busy_ticks() -> dict[int, int]:
    """Return the clock ticks in which each core was busy so far; empty where the system hides them."""
    busy = {}
    for line in system_text(PROC / "stat").splitlines():
        name, *ticks = line.split()[:9] or [""]
        if name.startswith("cpu") and name[3:].isdigit() and len(ticks) > 4:
            busy[int(name[3:])] = sum(map(int, ticks)) - int(ticks[3]) - int(ticks[4])  # idle, waiting
    return busy


def system_text(path: Path) -> str:
    """Return the text of a file of the kernel, empty if it is absent or unreadable.

    Android and hardened containers hide files such as /proc/stat.
    """
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# ---- cores --------------------------------------------------------------------------------------


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on, by its CPU affinity."""
    if hasattr(os, "sched_getaffinity"):
        with contextlib.suppress(OSError):
            return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_quota() -> float | None:
    """Return how many cores' time the cgroups of this process grant it; None if they set no limit.

    A cgroup is limited by each of its ancestors, too. Both versions of cgroups are read, since a system may
    have both: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files and
    https://docs.kernel.org/scheduler/sched-bwc.html
    """
    quotas = [quota for folder in _cgroup_folders() for quota in _quotas(folder)]
    return min(quotas) if quotas else None


def max_threads() -> int:
    """Return how many threads this process can run at once, by its CPU affinity and its cgroup quota."""
    cores, quota = len(usable_cores()), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def check_threads(threads: int) -> None:
    """Check that this process can run so many threads at once.

    Args:
        threads: number of threads of one inference.

    Raises:
        RunnerError: if it cannot, with the limit and the remedy.
    """
    usable, total, limit = usable_cores(), os.cpu_count() or 1, max_threads()
    if 1 <= threads <= limit:
        return
    give = "give 1" if limit == 1 else f"give 1 to {limit}"
    if threads < 1 or limit == total:
        raise RunnerError(f"threads is {threads}; this machine has {total} cores, {give}")
    message = f"threads is {threads}, but this process may use {limit} of {total} cores"
    if limit < len(usable):
        raise RunnerError(
            f"{message}: its cgroup quota is the time of {cpu_quota():g} cores; {give}, or raise the quota "
            "(docker run --cpus, CPUQuota= of systemd)"
        )
    raise RunnerError(
        f"{message}: its CPU affinity is {core_list(usable)}; {give}, or start it with more cores "
        "(taskset -c, docker run --cpuset-cpus)"
    )


def core_kinds(cores: Sequence[int]) -> list[list[int]]:
    """Group cores by kind: those of one kind have about the same capacity and maximum frequency.

    See https://docs.kernel.org/scheduler/sched-capacity.html. A value that the system does not tell for all
    cores is not used.

    Args:
        cores: numbers of cores.

    Returns:
        The cores of each kind in ascending order, the kind of the highest capacity first.
    """
    rank: dict[int, list[int]] = {core: [] for core in cores}
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        values = {core: system_text(CPUS / f"cpu{core}" / name).strip() for core in cores}
        if all(map(str.isdigit, values.values())):
            for core, value in values.items():
                rank[core].append(int(value))
    kinds: list[list[int]] = []
    for core in sorted(cores, key=lambda core: ([-value for value in rank[core]], core)):
        fastest = rank[kinds[-1][0]] if kinds else []
        pairs = zip(rank[core], fastest)  # noqa: B905 - Python 3.8 knows no strict
        if kinds and all(min(pair) >= SAME_KIND * max(pair) for pair in pairs):
            kinds[-1].append(core)
        else:
            kinds.append([core])
    return [sorted(kind) for kind in kinds]


def candidate_cores(threads: int, allowed: Sequence[int] | None = None) -> list[int]:
    """Return the cores that a measurement may run on: usable, allowed, and of the kind of highest capacity.

    Args:
        threads: number of threads of one inference.
        allowed: numbers of the cores that the user chose; None: all.

    Returns:
        Numbers of cores in ascending order, at least one a thread.

    Raises:
        RunnerError: if there are fewer than `threads`, with the remedy.
    """
    check_threads(threads)
    usable = usable_cores()
    if allowed is not None:
        if not hasattr(os, "sched_setaffinity"):
            raise RunnerError("this system cannot keep a process on chosen cores; leave out cores")
        if not set(allowed) <= set(usable):
            raise RunnerError(
                f"cores are {core_list(allowed)}, but this process may use {core_list(usable)}; give some of "
                "these, or start it with more cores (taskset -c, docker run --cpuset-cpus)"
            )
        if threads > len(allowed):
            raise RunnerError(
                f"threads is {threads}, but cores are {core_list(allowed)}; give {threads} cores, or threads "
                f"up to {len(allowed)}"
            )
        usable = sorted(allowed)
    kinds = core_kinds(usable)
    if threads > len(kinds[0]):
        others = [core_list(kind) for kind in kinds[1:] if len(kind) >= threads]
        raise RunnerError(
            f"threads is {threads}, but only {len(kinds[0])} of cores {core_list(usable)} are of the fastest "
            f"kind ({core_list(kinds[0])}), and a measurement runs on one kind; give threads up to "
            f"{len(kinds[0])}"
            + (f", or the slower cores {others[0]} (--cores, latency.cores)" if others else "")
        )
    return kinds[0]


def choose_cores(threads: int, allowed: Sequence[int] | None = None, kept: Sequence[int] = ()) -> list[int]:
    """Choose the cores of a measurement: the kept ones while they are available, otherwise the idlest.

    Args:
        threads: number of threads of one inference.
        allowed: numbers of the cores that the user chose; None: all.
        kept: numbers of the cores on which the measurement began.

    Returns:
        Numbers of cores in ascending order, one a thread; empty where the system cannot pin a process.

    Raises:
        RunnerError: if there are fewer than `threads`, with the remedy.
    """
    candidates = candidate_cores(threads, allowed)
    if not hasattr(os, "sched_setaffinity"):
        return []
    if len(kept) == threads and set(kept) <= set(usable_cores() if allowed is None else allowed):
        return sorted(kept)
    first = _busy_ticks()
    time.sleep(0.1)
    load = {core: ticks - first.get(core, 0) for core, ticks in _busy_ticks().items()}
    return sorted(sorted(candidates, key=lambda core: load.get(core, 0))[:threads])


def core_list(cores: Sequence[int]) -> str:
    """Return numbers of cores as taskset writes them, such as 0-3,6."""
    parts: list[list[int]] = []
    for core in sorted(cores):
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _cgroup_folders() -> list[Path]:
    """Return the folders of the cgroups that limit the CPU time of this process, with their ancestors."""
    paths = {}  # path of the process in each hierarchy, by the file system's type
    for line in system_text(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = path
    folders = []
    for line in system_text(PROC / "self/mountinfo").splitlines():
        mount, _, source = line.partition(" - ")
        fields, kind = mount.split(" "), source.split(" ")[0]
        if kind not in paths or (kind == "cgroup" and "cpu" not in source.split(" ")[-1].split(",")):
            continue
        root, top = fields[3].rstrip("/"), Path(fields[4].replace("\\040", " "))
        path = paths[kind]
        # A path outside the mounted part is that of the host; the part is then the container's own cgroup.
        inside = path.startswith(f"{root}/") and ".." not in path.split("/")
        parts = path[len(root) :].strip("/").split("/") if inside else []
        folders += [top.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return folders


def _quotas(folder: Path) -> list[float]:
    """Return the limits that the files of a cgroup set, in cores."""
    pairs = [
        system_text(folder / "cpu.max").split(),
        [system_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")],
    ]
    return [int(pair[0]) / int(pair[1]) for pair in pairs if len(pair) == 2 and all(map(str.isdigit, pair))]


# ---- files --------------------------------------------------------------------------------------


def canonical(job: dict[str, Any]) -> bytes:
    """A job as JSON: equal jobs are equal bytes."""
    return json.dumps(job, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def cores_of(records: Sequence[dict[str, Any]]) -> list[int]:
    """Return the cores that a job's records were measured on; empty if there are none, or no record yet."""
    return list(records[0].get("cores", ())) if records else []


def job_id(job: dict[str, Any]) -> str:
    """SHA-256 of a job: equal jobs are one job."""
    return hashlib.sha256(canonical(job)).hexdigest()


def is_digest(name: Any) -> bool:
    """Whether something is a SHA-256 in hexadecimal digits, and so safe as a file's name."""
    return isinstance(name, str) and len(name) == 64 and not set(name) - set("0123456789abcdef")


def cache() -> Path:
    """Return the folder of jobs and pieces on this machine, which need not exist yet.

    RunnerError if there is none that this user can write.
    """
    usual = usual_cache()
    if is_writable(usual):
        return Path(usual)
    remedy = "set XDG_CACHE_HOME to a folder that can be written"
    try:
        folder = os.path.join(tempfile.gettempdir(), f"hwnas-{os.getuid()}")
    except FileNotFoundError:
        raise RunnerError(f"neither {usual} nor a temporary folder can be written; {remedy}") from None
    if os.path.lexists(folder) and (os.path.islink(folder) or os.stat(folder).st_uid != os.getuid()):
        raise RunnerError(f"{usual} cannot be written, and {folder} belongs to another user; {remedy}")
    return Path(folder)


def usual_cache() -> str:
    """Return the folder of the cache where it can be written; it begins with ~ if there is no home folder."""
    return os.path.expanduser(os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "hwnas"))


def is_writable(folder: str) -> bool:
    """Return whether a folder can be written, or can be created."""
    if folder.startswith("~"):
        return False
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def cache_note() -> str:
    """Say that the cache is a temporary folder; empty if it is the usual one."""
    usual, used = usual_cache(), cache()
    if used == Path(usual):
        return ""
    return f"{usual} cannot be written; {used} is used (set XDG_CACHE_HOME to choose another folder)"


def assemble(pieces: list[str], read: Callable[[str], bytes]) -> bytes:
    """The bytes of a model; RunnerError if a piece is not what its name says."""
    found = []
    for name in pieces:
        data = read(name)
        if hashlib.sha256(data).hexdigest() != name:
            raise RunnerError(f"piece {name} is damaged; delete {cache()} on the board and start again")
        found.append(data)
    return b"".join(found)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def go_on(path: Path) -> list[dict[str, Any]]:
    """The whole records of a file of samples; what a killed writer left of another one is cut off."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


@contextlib.contextmanager
def measuring(waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of this machine; `waiting` is told twice a second who holds it (a process id)."""
    path = cache() / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = open(path, "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RunnerError(cannot_write(error)) from None
    with lock as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                waiting(file.read().strip())
                time.sleep(0.5)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def append_records(
    job: dict[str, Any], load: Callable[[int], bytes], path: Path, cores: Sequence[int]
) -> Iterator[int]:
    """Measure on these cores what a file of a job's samples lacks, append it, give the number of records."""
    have = go_on(path)
    spent_s = have[-1]["seconds"] if have else 0.0
    done, pending, flushed = len(have), [], time.monotonic()
    measured = contextlib.closing(onnxruntime_records(job, load, cores, done, spent_s))
    with open(path, "ab") as file, measured as new:
        for record in new:
            pending.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            done += 1
            if time.monotonic() - flushed > FLUSH_S:
                file.write(b"".join(pending))
                file.flush()
                pending, flushed = [], time.monotonic()
                yield done
        file.write(b"".join(pending))
        file.flush()
        os.fsync(file.fileno())
    yield done


# ---- over ssh -----------------------------------------------------------------------------------
#
# The client sends this source, then lines of JSON: a request, and pieces that are asked for. Answers are
# lines of JSON too. A job is measured by a process of its own, which outlives the connection.


def serve() -> None:
    """Answer one client on standard input and output."""
    try:
        say({"hwnas": SCHEMA})
        request = json.loads(sys.stdin.buffer.readline(MAX_LINE))
        if request["ask"] == "identity":
            identity = onnxruntime_identity(request["threads"], request.get("cores"))
            say({"identity": identity, "note": cache_note()})
        else:
            serve_job(request)
    except BrokenPipeError:  # the client is gone
        os._exit(0)
    except RunnerError as error:
        say(error_line(error))
    except OSError as error:
        say({"error": cannot_write(error) if is_write_error(error) else str(error)})


def say(line: dict[str, Any]) -> None:
    """A line of JSON to the client."""
    sys.stdout.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def error_line(error: RunnerError) -> dict[str, Any]:
    """Return an error as plain data, with the index of the model that it is about, if any."""
    line: dict[str, Any] = {"error": str(error)}
    return line if error.model is None else {**line, "model": error.model}


def cannot_write(error: OSError | None = None) -> str:
    """What to do about files that cannot be written."""
    path = cache()
    if error is not None and error.errno not in NO_ROOM:
        return f"cannot write to {path} ({error}); delete it, or set XDG_CACHE_HOME to another folder"
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free >> 20
    return f"cannot write to {cache()}, {free} MiB free ({error or 'see there'}); make room there"


def is_write_error(error: OSError) -> bool:
    """Whether an error says that the cache cannot be written."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR):
        path = Path(str(error.filename))
        return cache() in (path, *path.parents) or path in cache().parents
    return error.errno in (*NO_ROOM, errno.EROFS)


def serve_job(request: dict[str, Any]) -> None:
    """Take in what is missing of a job, have it measured, and send its records from number `from` on."""
    job = request["job"]
    name, pieces = job_id(job), cache() / "pieces"
    folder = cache() / "jobs" / name
    for path in (folder, pieces):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "lease").touch()
    for path in [*pieces.iterdir(), *folder.parent.iterdir()]:
        used = path / "lease" if path.is_dir() else path
        if not used.exists() or time.time() - used.stat().st_mtime > KEPT_S:
            with contextlib.suppress(FileNotFoundError):  # another client's runner was here first
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    needed = sorted({piece for model in job["models"] for piece in model})
    if not all(map(is_digest, needed)):
        raise RunnerError("the job names pieces that are no SHA-256; use the same hwnas on both sides")
    missing = [piece for piece in needed if not (pieces / piece).exists()]
    say({"need": missing})
    for piece in missing:
        data = read_piece(sys.stdin.buffer)
        if hashlib.sha256(data).hexdigest() != piece:
            raise RunnerError(f"piece {piece} arrived damaged; start again")
        write_atomically(pieces / piece, data)
    for piece in needed:
        os.utime(pieces / piece)
    write_atomically(folder / "job.json", json.dumps(job).encode())
    if follow(folder, request["from"]):
        shutil.rmtree(folder, ignore_errors=True)


def read_piece(stream: BinaryIO) -> bytes:
    """A line with a size, and so many bytes; the process ends if the client is gone."""
    size = int(stream.readline(32) or -1)
    data = stream.read(size) if 0 <= size <= MAX_PIECE else b""
    if len(data) != size:
        os._exit(0)
    return data


def follow(folder: Path, sent: int) -> bool:
    """Send records from number `sent` on, as they come; whether the client has them all.

    A process that measures is started if none does. This one ends when the client closes its side.
    """
    samples, lease = folder / "samples.jsonl", folder / "lease"
    worker: int | None = None
    offset, skip, spoke = 0, sent, 0.0
    while True:
        lease.touch()
        status = exit_status(worker)
        idle = not is_locked(folder / "lock") if worker is None else status is not None
        lines = b""
        if samples.exists():
            with open(samples, "rb") as file:
                file.seek(offset)
                lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        offset += len(lines)
        for line in lines.splitlines(keepends=True):
            if skip and b'"done"' not in line and b'"error"' not in line:
                skip -= 1
                continue
            if b'"error"' in line:
                shutil.rmtree(folder, ignore_errors=True)
                record = json.loads(line)
                raise RunnerError(record["error"], record.get("model"))
            sys.stdout.write(line.decode())
            if b'"done"' in line:
                sys.stdout.flush()
                return sys.stdin.buffer.readline(32) == b"forget\n"
        sys.stdout.flush()
        if lines:
            spoke = time.monotonic()
        elif idle and (worker is None or status in (0, EXIT_BUSY)):
            worker = start_worker(folder)
        elif idle and status == EXIT_WRITE:
            raise RunnerError(cannot_write())
        elif idle:
            if status == -signal.SIGKILL:
                raise RunnerError(
                    "the process that measures was killed; if memory ran out there, time smaller models"
                )
            log = (folder / "log").read_text(errors="replace")[-2000:]
            raise RunnerError(f"the process that measures ended with status {status}: {log.strip()}")
        if time.monotonic() - spoke > HEARTBEAT_S:
            waiting = folder / "waiting"
            say({"waiting": waiting.read_text() if waiting.exists() else None})
            spoke = time.monotonic()
        if select.select([0], [], [], POLL_S)[0] and not os.read(0, 1):
            return False


def exit_status(worker: int | None) -> int | None:
    """The status with which a child ended, negative for a signal; None if it has not, or there is none."""
    if worker is None:
        return None
    try:
        pid, status = os.waitpid(worker, os.WNOHANG)
    except ChildProcessError:
        return EXIT_BUSY
    if pid == 0:
        return None
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock of a file."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def start_worker(folder: Path) -> int:
    """A process that measures a job and outlives this one; its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = work(folder)
    except BaseException as error:
        status = EXIT_WRITE if isinstance(error, OSError) and is_write_error(error) else 1
        with contextlib.suppress(OSError):
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def work(folder: Path) -> int:
    """Measure what is missing of a job, as long as a client waits for it; the status to exit with."""
    lease, samples, note = folder / "lease", folder / "samples.jsonl", folder / "waiting"

    def wanted() -> bool:
        return lease.exists() and time.time() - lease.stat().st_mtime < LEASE_S

    def waiting(holder: str) -> None:
        note.write_text(holder)
        if not wanted():
            raise Abandoned

    with open(folder / "lock", "a") as mine:
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return EXIT_BUSY
        have = go_on(samples)
        if have and ("done" in have[-1] or "error" in have[-1]):
            return 0
        try:
            with measuring(waiting):
                if note.exists():
                    note.unlink()
                job = json.loads((folder / "job.json").read_bytes())
                onnxruntime_identity(job["threads"], job.get("cores"))
                first_cores = cores_of(have)
                cores = choose_cores(
                    job["threads"], job.get("cores"), first_cores or job.get("kept_cores", ())
                )
                if first_cores and cores != first_cores:
                    raise RunnerError(
                        f"the measurement began on cores {core_list(first_cores)}, which are no longer "
                        "available; start it again"
                    )
                pieces = cache() / "pieces"

                def load(i: int) -> bytes:
                    return assemble(job["models"][i], lambda piece: (pieces / piece).read_bytes())

                for _ in append_records(job, load, samples, cores):
                    if not wanted():
                        return 0
                last: dict[str, Any] = {"done": len(go_on(samples))}
        except Abandoned:
            return 0
        except RunnerError as error:
            last = error_line(error)
        except OSError as error:
            if is_write_error(error):
                raise
            last = {"error": str(error)}
        with open(samples, "ab") as file:
            file.write(json.dumps(last).encode() + b"\n")
    return 0


# ---- without a network --------------------------------------------------------------------------


def run_bundle() -> None:
    """Measure the bundle that this file lies in, a zip file or its unpacked folder, into results.json.

    The bundle's job.json holds a list of jobs, which are measured in turn. An interrupted measurement goes on
    where it was when it is started again in the same folder.
    """
    bundle = Path(__file__).resolve().parent
    if len(sys.argv) > 1:
        sys.exit(f"usage: python3 {bundle.name}\nMeasures this machine and writes results.json here.")
    try:
        if bundle.is_dir():
            measure_bundle(lambda name: (bundle / name).read_bytes())
        else:
            with zipfile.ZipFile(bundle) as archive:
                measure_bundle(archive.read)
    except KeyboardInterrupt:
        sys.exit("\nstopped; start it again in this folder to go on")
    except (RunnerError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"error: {error}")


def measure_bundle(read: Callable[[str], bytes]) -> None:
    """As `run_bundle`, with errors raised; `read` gives a member of the bundle by name."""

    def piece(name: str) -> bytes:
        if not is_digest(name):
            raise RunnerError("job.json names pieces that are no SHA-256; copy the bundle again")
        return read(f"pieces/{name}")

    def tell(text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()

    if not is_writable("."):
        raise RunnerError(f"cannot write results in {Path.cwd()}; start it in a folder that can be written")
    note = cache_note()
    if note:
        sys.stderr.write(f"{note}\n")
    plan = json.loads(read("job.json"))
    jobs, name = plan["jobs"], job_id(plan)
    threads, allowed = jobs[0]["threads"], jobs[0].get("cores")
    identity = onnxruntime_identity(threads, allowed)
    total = sum(len(job["models"]) + len(job["visits"]) for job in jobs)
    parts = [Path(f"results-{name[:12]}-{i}.part") for i in range(len(jobs))]
    before = 0
    counts: list[tuple[int, int]] = []
    with measuring(lambda holder: tell(f"waiting for process {holder}, which measures on this board")):
        first_cores = next((cores for part in parts if (cores := cores_of(go_on(part)))), [])
        cores = choose_cores(threads, allowed, first_cores)
        if first_cores and cores != first_cores:
            tell(
                f"cores {core_list(first_cores)}, on which it began, are no longer available; it begins "
                f"again on cores {core_list(cores)}\n"
            )
            for part in parts:
                if part.exists():
                    part.unlink()
        for job, part in zip(jobs, parts):  # noqa: B905 - Python 3.8 knows no strict
            models, number = job["models"], 0
            for number in append_records(job, lambda i: assemble(models[i], piece), part, cores):  # noqa: B023
                tell(f"measured {100 * (before + number) // total} %")
            before += number
            counts += reading_counts(job["visits"], go_on(part))
            if is_clock_broken(counts):
                part.unlink()  # a part is kept only if it can be used
                impossible, readings = (sum(pair[i] for pair in counts) for i in (0, 1))
                raise RunnerError(
                    f"{impossible} of {readings} timed runs took a time that is no positive number: the "
                    "clock of this machine cannot resolve the models, or is broken; start it again, or "
                    "measure another machine"
                )
    found = {"schema": SCHEMA, "bundle": name, "identity": identity, "study": plan["study"]}
    result = Path("results.json")
    write_atomically(result, json.dumps({**found, "records": [go_on(part) for part in parts]}).encode())
    for part in parts:
        part.unlink()
    tell(f"{result.resolve()}\nBring it back, and run: hwnas table build results.json -o table.json\n")


if __name__ == "__main__":
    run_bundle()
