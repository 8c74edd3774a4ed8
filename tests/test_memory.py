from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from hwnas.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        [torch.ones(2 * 2**20) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_freed_memory()
faults()
print(faults())
"""


def faults(how: str) -> int:
    """Page faults of five steps, each of which makes 20 tensors of 8 MiB and drops them, after as many.

    Unless told otherwise, the process maps each anew: glibc does so by itself only as chance has it.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", FAULTS, how]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_steps_do_not_fault_in_the_memory_of_the_step_before() -> None:
    assert faults("keep") < faults("leave") / 20
