"""Cores, kinds of cores and CPU quotas, read from a faked /proc and /sys."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from hwnas.errors import DeviceError
from hwnas.latency import doctor, runner
from hwnas.latency.devices import get_device
from tests.conftest import Command

V2 = "36 25 0:31 {root} {mount} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {root} {mount} rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER_V1 = "33 31 0:30 {root} {mount} rw,relatime - cgroup cgroup rw,memory\n"


class System:
    """A faked /proc and cgroup file system; the machine has eight cores, all usable."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.use(monkeypatch, range(8))
        (folder / "proc" / "self").mkdir(parents=True)
        monkeypatch.setattr(runner, "PROC", folder / "proc")
        monkeypatch.setattr(runner, "CPUS", folder / "cpus")
        monkeypatch.setattr(os, "cpu_count", lambda: 8)

    def use(self, monkeypatch: pytest.MonkeyPatch, cores: range | set[int]) -> None:
        """The CPU affinity of the process."""
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(cores), raising=False)

    def cpus(self, capacity: Sequence[int] = (), max_khz: Sequence[int] = ()) -> None:
        """The capacities and the maximum frequencies of the first cores."""
        for core, value in enumerate(capacity):
            self._write(f"cpus/cpu{core}", "cpu_capacity", str(value))
        for core, value in enumerate(max_khz):
            self._write(f"cpus/cpu{core}/cpufreq", "cpuinfo_max_freq", str(value))

    def cgroups(self, cgroup: str, *mounts: tuple[str, str, str]) -> None:
        """/proc/self/cgroup, and a line of /proc/self/mountinfo, a root and a mount point for each mount."""
        lines = (line.format(root=root, mount=self.folder / mount) for line, root, mount in mounts)
        (self.folder / "proc" / "self" / "cgroup").write_text(cgroup)
        (self.folder / "proc" / "self" / "mountinfo").write_text("".join(lines))

    def limit_v2(self, path: str, text: str) -> None:
        self._write(path, "cpu.max", text)

    def limit_v1(self, path: str, quota_us: int, period_us: int = 100_000) -> None:
        self._write(path, "cpu.cfs_quota_us", str(quota_us))
        self._write(path, "cpu.cfs_period_us", str(period_us))

    def _write(self, path: str, name: str, text: str) -> None:
        folder = self.folder / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(tmp_path, monkeypatch)


def test_without_limits_a_process_has_all_cores(system: System) -> None:
    assert (runner.cpu_quota(), runner.max_threads()) == (None, 8)
    system.cgroups("0::/user.slice\n", (V2, "/", "sys"))
    system.limit_v2("sys/user.slice", "max 100000")
    assert (runner.cpu_quota(), runner.max_threads()) == (None, 8)
    system.cgroups("3:cpu,cpuacct:/user\n", (V1, "/", "cpu"))
    system.limit_v1("cpu/user", -1)
    assert (runner.cpu_quota(), runner.max_threads()) == (None, 8)


def test_a_quota_of_version_2_is_read_in_every_ancestor(system: System) -> None:
    system.cgroups("0::/machine.slice/job.scope/task\n", (V2, "/", "sys"))
    system.limit_v2("sys/machine.slice/job.scope/task", "700000 100000")
    assert runner.cpu_quota() == 7
    system.limit_v2("sys/machine.slice/job.scope", "125000 50000")
    assert (runner.cpu_quota(), runner.max_threads()) == (2.5, 2)
    system.limit_v2("sys/machine.slice", "150000 100000")
    assert (runner.cpu_quota(), runner.max_threads()) == (1.5, 1)
    system.limit_v2("sys/machine.slice/job.scope/task/child", "1000 100000")  # does not limit its parent
    assert runner.cpu_quota() == 1.5


def test_a_quota_of_version_1_is_read_in_every_ancestor(system: System) -> None:
    """The CPU controller shares its hierarchy with another one, beside one of version 2."""
    cgroup = "5:memory:/other\n3:cpu,cpuacct:/batch/job 7\n1:name=systemd:/batch\n0::/\n"
    system.cgroups(cgroup, (OTHER_V1, "/", "memory"), (V1, "/", "cpu"), (V2, "/", "unified"))
    system.limit_v1("memory/batch", 1000)
    system.limit_v1("cpu/batch/job 7", 45_000)
    assert (runner.cpu_quota(), runner.max_threads()) == (0.45, 1)
    system.limit_v1("cpu/batch/job 7", -1)
    system.limit_v1("cpu/batch", 200_000, 50_000)
    assert (runner.cpu_quota(), runner.max_threads()) == (4, 4)
    system.limit_v1("cpu", 300_000)
    assert (runner.cpu_quota(), runner.max_threads()) == (3, 3)


def test_in_a_container_the_mounted_part_is_what_limits(system: System) -> None:
    """Docker mounts the container's own cgroup; the path names the host's hierarchy, or leads out of it."""
    system.cgroups("3:cpu,cpuacct:/docker/ab12\n", (V1, "/docker/ab12", "cpu"))
    system.limit_v1("cpu", 250_000)
    assert runner.cpu_quota() == 2.5
    system.cgroups("3:cpu,cpuacct:/docker/ab12/inner\n", (V1, "/docker/ab12", "cpu"))
    system.limit_v1("cpu/inner", 150_000)
    assert runner.cpu_quota() == 1.5
    system.cgroups("0::/../../other.scope\n", (V2, "/", "sys"))
    system.limit_v2("sys", "600000 100000")
    assert runner.cpu_quota() == 6
    system.cgroups("0::/docker/ab12\n", (V2, "/docker/cd34", "sys"))
    assert runner.cpu_quota() == 6


def test_more_threads_than_the_affinity_allows_are_refused(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.use(monkeypatch, {1, 4, 5, 6})
    assert get_device("onnxruntime", 4).identity.runtime["threads"] == 4
    with pytest.raises(
        DeviceError,
        match=r"threads is 5, but this process may use 4 of 8 cores: its CPU affinity is 1,4-6; give 1 to 4, "
        r"or start it with more cores \(taskset",
    ):
        get_device("onnxruntime", 5)


def test_more_threads_than_the_quota_allows_are_refused(system: System) -> None:
    system.cgroups("0::/job\n", (V2, "/", "sys"))
    system.limit_v2("sys/job", "30000 100000")
    get_device("onnxruntime", 1)
    with pytest.raises(
        DeviceError,
        match=r"threads is 2, but this process may use 1 of 8 cores: its cgroup quota is the time of 0.3 "
        r"cores; give 1, or raise the quota \(docker run --cpus",
    ):
        get_device("onnxruntime", 2)
    with pytest.raises(runner.RunnerError, match="quota"):
        runner.onnxruntime_identity(2)


LITTLE_FIRST = (1_800_000,) * 4 + (2_400_000,) * 4


@pytest.mark.parametrize(
    ("capacity", "max_khz", "kinds"),
    [
        ((), (), [[*range(8)]]),
        ((), LITTLE_FIRST, [[4, 5, 6, 7], [0, 1, 2, 3]]),
        ((446,) * 4 + (1024,) * 4, (), [[4, 5, 6, 7], [0, 1, 2, 3]]),
        # The little cores have the higher clock.
        ((420,) * 4 + (1024,) * 4, (1_896_000,) * 4 + (1_800_000,) * 4, [[4, 5, 6, 7], [0, 1, 2, 3]]),
        # Three kinds, as in many phones.
        ((325,) * 4 + (871,) * 3 + (1024,), (), [[7], [4, 5, 6], [0, 1, 2, 3]]),
        # Equal capacities say nothing of cores whose clocks differ.
        ((1024,) * 8, (4_900_000,) * 4 + (3_800_000,) * 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        # Single cores of one kind have a higher turbo clock.
        ((), (5_500_000,) * 4 + (5_800_000,) * 2 + (4_300_000,) * 2, [[0, 1, 2, 3, 4, 5], [6, 7]]),
        # A source that not all cores have is not used.
        ((1024, 446), LITTLE_FIRST, [[4, 5, 6, 7], [0, 1, 2, 3]]),
        ((), (1_800_000,), [[*range(8)]]),
    ],
)
def test_cores_by_kind(
    system: System, capacity: tuple[int, ...], max_khz: tuple[int, ...], kinds: list[list[int]]
) -> None:
    system.cpus(capacity, max_khz)
    assert runner.core_kinds(range(8)) == kinds


def test_idle_cores_are_chosen_among_the_fastest_kind(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.cpus(max_khz=LITTLE_FIRST)
    assert runner.choose_cores(2) == [4, 5]
    ticks = iter([{4: 10, 5: 10, 6: 10, 7: 10}, {4: 19, 5: 10, 6: 19, 7: 11}])
    monkeypatch.setattr(runner, "_busy_ticks", lambda: next(ticks))
    assert runner.choose_cores(2) == [5, 7]
    system.use(monkeypatch, {1, 2, 3})
    assert runner.candidate_cores(2) == [1, 2, 3]


def test_more_threads_than_cores_of_the_fastest_kind_are_refused(system: System) -> None:
    system.cpus(capacity=(446,) * 6 + (1024,) * 2)
    assert runner.candidate_cores(2) == [6, 7]
    with pytest.raises(
        DeviceError,
        match=r"threads is 4, but only 2 of cores 0-7 are of the fastest kind \(6-7\).* give threads up "
        r"to 2, or the slower cores 0-5 \(--cores, latency.cores\)",
    ):
        get_device("onnxruntime", 4)
    assert get_device("onnxruntime", 4, cores=range(6)).identity.runtime["threads"] == 4
    with pytest.raises(DeviceError, match=r"give threads up to 2$"):
        get_device("onnxruntime", 7)


def test_chosen_cores_are_the_only_ones(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    system.cpus(max_khz=LITTLE_FIRST)
    assert runner.choose_cores(2, allowed=[3, 2]) == [2, 3]
    assert runner.choose_cores(1, allowed=[0, 1, 6]) == [6]
    with pytest.raises(DeviceError, match=r"threads is 2, but cores are 6; give 2 cores, or threads up to 1"):
        get_device("onnxruntime", 2, cores=(6,))
    system.use(monkeypatch, {0, 1, 2, 3})
    with pytest.raises(
        DeviceError, match=r"cores are 3-4, but this process may use 0-3; give some of these, or"
    ):
        get_device("onnxruntime", 1, cores=(3, 4))
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert runner.choose_cores(2) == []
    with pytest.raises(DeviceError, match="this system cannot keep a process on chosen cores"):
        get_device("onnxruntime", 1, cores=(3,))


def test_the_cores_of_earlier_passes_are_used_while_they_may_be(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.cpus(max_khz=LITTLE_FIRST)
    assert runner.choose_cores(2, kept=[7, 6]) == [6, 7]
    assert runner.choose_cores(2, allowed=[4, 5], kept=[6, 7]) == [4, 5]
    assert runner.choose_cores(1, kept=[6, 7]) == [4]
    system.use(monkeypatch, set(range(6)))
    assert runner.choose_cores(2, kept=[6, 7]) == [4, 5]


def test_doctor_shows_what_the_process_has(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    system.use(monkeypatch, {0, 1, 2, 5})
    system.cgroups("1:cpu:/job\n", (V1, "/", "cpu"))
    system.limit_v1("cpu/job", 45_000)
    findings = {finding.name: finding for finding in (check() for check in (doctor._cores, doctor._quota))}
    assert findings["cores"].value == "4 of 8 usable: 0-2,5"
    system.cpus(max_khz=LITTLE_FIRST)
    assert doctor._cores().value == "4 of 8 usable: 0-2,5; by kind, the fastest first: 5 / 0-2"
    assert findings["cpu quota"].value == "0.45 cores, so at most 1 threads"
    assert not findings["cpu quota"].ok


@pytest.mark.parametrize(("cores", "text"), [([3], "3"), ([2, 0, 1], "0-2"), ([7, 0, 1, 4, 5], "0-1,4-5,7")])
def test_core_lists_are_those_of_taskset(cores: list[int], text: str) -> None:
    assert runner.core_list(cores) == text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_the_command_refuses_more_threads_than_its_affinity_allows(
    tmp_path: Path, hwnas_command: Command
) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        code, _, err = hwnas_command("benchmark", tmp_path / "none.onnx", "--threads", 2)
    finally:
        os.sched_setaffinity(0, before)
    assert code == 1
    assert f"threads is 2, but this process may use 1 of {os.cpu_count()} cores" in err
    assert "Traceback" not in err
