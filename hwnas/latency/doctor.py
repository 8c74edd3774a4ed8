"""What stands in the way of good timings on this machine, and what to do about each."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil

from hwnas.latency.runner import core_kinds, core_list, cpu_quota, max_threads, system_text, usable_cores

PACKAGES = ("hwnas", "torch", "onnxruntime", "onnx", "numpy", "scikit-learn", "pymoo")
NOISE_RUNS = 400
MAX_NOISE_PERCENT = 5.0
MAX_PREEMPTED_PERCENT = 20.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` is empty where nothing needs to be done."""

    name: str
    value: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


def examine() -> list[Finding]:
    """Versions, cores, load, steal, frequency scaling, quota and timing noise; takes a few seconds."""
    return [check() for check in (*(_version_check(name) for name in PACKAGES), *CHECKS)]


def _version_check(package: str) -> Callable[[], Finding]:
    def check() -> Finding:
        try:
            return Finding(package, version(package))
        except PackageNotFoundError:
            return Finding(package, "not installed", f"run: pip install {package}")

    return check


def _python() -> Finding:
    return Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _cores() -> Finding:
    usable, total = usable_cores(), os.cpu_count() or 1
    if not hasattr(os, "sched_setaffinity"):
        return Finding("cores", f"{total}", "this system cannot pin a process to a core; expect more noise")
    advice = "" if len(usable) > 1 else "one core serves hwnas and all else; give the process a second one"
    kinds = [core_list(kind) for kind in core_kinds(usable)]
    by_kind = f"; by kind, the fastest first: {' / '.join(kinds)}" if len(kinds) > 1 else ""
    return Finding("cores", f"{len(usable)} of {total} usable: {core_list(usable)}{by_kind}", advice)


def _quota() -> Finding:
    quota = cpu_quota()
    if quota is None:
        return Finding("cpu quota", "none")
    value = f"{quota:g} cores, so at most {max_threads()} threads"
    return Finding("cpu quota", value, "a quota stops work in bursts; profile without one")


def _load() -> Finding:
    try:
        load, cores = os.getloadavg()[0], psutil.cpu_count() or 1
    except OSError:
        return Finding("load", "not visible")
    advice = "other work competes for the cores; stop it, or expect noise" if load > 0.7 * cores else ""
    return Finding("load", f"{load:.2f} on {cores} cores", advice)


def _steal() -> Finding:
    try:
        before = psutil.cpu_times()
        time.sleep(1.0)
        after = psutil.cpu_times()
    except OSError:  # Android and hardened containers hide /proc/stat
        return Finding("steal", "not visible")
    total = sum(after) - sum(before)
    if not hasattr(after, "steal") or total <= 0:
        return Finding("steal", "not reported")
    percent = 100 * (after.steal - before.steal) / total
    advice = "the host gives this machine's time to others; profile at a quieter hour" if percent > 2 else ""
    return Finding("steal", f"{percent:.1f} %", advice)


def _frequency() -> Finding:
    governor = system_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")).strip()
    if not governor:
        return Finding("frequency scaling", "not visible")
    advice = "" if governor == "performance" else "run: sudo cpupower frequency-set -g performance"
    return Finding("frequency scaling", governor, advice)


def _noise() -> Finding:
    work = np.random.default_rng(0).standard_normal((96, 96))
    cpu, wall = np.empty(NOISE_RUNS), np.empty(NOISE_RUNS)
    for i in range(NOISE_RUNS):
        cpu_start, wall_start = time.thread_time_ns(), time.perf_counter_ns()
        for _ in range(10):
            work = np.tanh(work)
        cpu[i], wall[i] = time.thread_time_ns() - cpu_start, time.perf_counter_ns() - wall_start
    blocks = np.sort(cpu.reshape(20, -1), axis=1)[:, 2:-2].mean(axis=1)
    noise = 100 * float(blocks.std() / blocks.mean())
    preempted = 100 * float((wall > 1.2 * cpu).mean())
    advice = ""
    if noise > MAX_NOISE_PERCENT or preempted > MAX_PREEMPTED_PERCENT:
        advice = "timings are noisy; stop other work, or measure with more rounds"
    return Finding("timing noise", f"{noise:.1f} % between blocks, {preempted:.0f} % preempted", advice)


def _providers() -> Finding:
    import onnxruntime

    return Finding("onnxruntime providers", ", ".join(onnxruntime.get_available_providers()))


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python, _providers, _cores, _quota, _load, _steal, _frequency, _noise,
)  # fmt: skip
