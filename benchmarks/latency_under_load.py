"""How much other work beside a profile changes its table, and whether the table says so.

    python benchmarks/latency_under_load.py [digits] [ofa64] [ofa128] [--hogs 0 1 2]

Profiles a space idle, then beside busy loops in other processes, with the same seed and so the same operators
and networks, and compares operators and predicted networks with the idle table. Takes up to three minutes a
space on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from latency import CALIBRATING, SPACES

from hwnas.latency.profiling import profile
from hwnas.latency.table import LatencyTable
from hwnas.spaces import NetworkSpace

NETWORKS = 500


@contextmanager
def busy(hogs: int) -> Iterator[None]:
    """Busy loops in so many processes of their own."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(hogs)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def compare(space: NetworkSpace, idle: LatencyTable, loaded: LatencyTable) -> str:
    """Differences in percent of operators and of predicted random networks."""
    archs = space.sample(NETWORKS, 1)
    operators = [loaded.operators[key].ms / entry.ms - 1 for key, entry in idle.operators.items()]
    networks = loaded.latency_ms(archs) / idle.latency_ms(archs) - 1
    return "; ".join(
        f"{what}: median {100 * np.median(found):+.1f} %, mean of absolute "
        f"{100 * np.mean(np.abs(found)):.1f} %, largest {100 * np.max(np.abs(found)):.1f} %"
        for what, found in (("operators", np.array(operators)), ("networks", networks))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spaces", nargs="*", default=["digits", "ofa64"], help=", ".join(SPACES))
    parser.add_argument("--hogs", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    for name in arguments.spaces:
        space = SPACES[name]()
        idle = profile(space, calibration_networks=CALIBRATING[name])
        print(f"{name}, load {os.getloadavg()[0]:.1f}: {idle.summary()}")
        for hogs in arguments.hogs:
            start = time.perf_counter()
            with busy(hogs):
                table = profile(space, calibration_networks=CALIBRATING[name])
            protocol = table.protocol
            print(
                f"  {hogs} busy loops, {time.perf_counter() - start:.0f} s: {compare(space, idle, table)}; "
                f"{100 * protocol['preempted']:.1f} % preempted, {100 * protocol['taken']:.0f} % taken, "
                f"drift {100 * protocol['drift']:.1f} %, "
                f"halves {max(row['repeatability_cv'] for row in table.calibration):.1f} %; "
                f"{'NOISY: ' + '; '.join(protocol['noise']) if protocol['noisy'] else 'not noisy'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
