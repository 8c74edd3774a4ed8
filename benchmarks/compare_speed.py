"""Compare the speed of two revisions of hwnas on one machine, interleaved.

python benchmarks/compare_speed.py BEFORE AFTER [--rounds N] [--only NAME …]

Each revision is checked out into a folder of its own, and works in a process of its own, on one core with one
thread. Each round runs every work once by each revision, in alternating order. A figure is the median over
the rounds of AFTER's processor time divided by BEFORE's, with the 95 % interval of the median (bootstrap).
Works use public names only:

- import: `import hwnas`, and `import hwnas.pipeline`, in a new process
- inner loop: a search by linas with ridge predictors on the Once-for-All space and a shipped table
- look-up: the latencies of 200,000 architectures by a shipped table
- sandwich: forward and backward passes of four subnets of the digits supernet
- static: the same passes of four plain networks of these architectures
- evaluation: calibration and validation accuracy of a subnet of the digits supernet
- lowering: the operators and their table keys of 300 new architectures
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIGITS_TABLE = "latency_tables/amd-epyc-1-thread-digits.json"
OFA_TABLE = "latency_tables/amd-epyc-1-thread-ofa-mobilenetv3.json"
IMPORTS = {"import hwnas": "import hwnas", "import pipeline": "import hwnas.pipeline"}


# ---- the works of one revision, in its own process ------------------------------------------------


def import_seconds(statement: str) -> float:
    """Return the processor seconds of a new process that imports."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def works() -> dict[str, Callable[[int], object]]:
    """Return the works by name. Each takes the number of the round, which seeds what it draws."""
    import torch

    import hwnas
    from hwnas.latency.table import LatencyTable

    torch.set_num_threads(1)
    ofa = hwnas.get_space("mobilenetv3", resolutions=(128, 160, 192, 224))
    ofa_table = LatencyTable.load(OFA_TABLE)
    parameters = hwnas.load_config("configs/digits.yaml").space.parameters
    digits = hwnas.get_space("mobilenetv3", classes=10, channels=1, **parameters)
    net = hwnas.Supernet(digits)
    train, validation = (
        hwnas.load_dataset("cluttered-digits", split, seed=0, train=2000, validation=500)
        for split in ("train", "validation")
    )
    evaluator = hwnas.AccuracyEvaluator(net, train, validation)
    labels = torch.arange(64) % 10

    def accuracy(archs: Any) -> Any:
        return 80 - 4e8 / (ofa.macs(archs) + 0.1 * ofa.params(archs))

    def inner_loop(number: int) -> object:
        objectives = [
            hwnas.Objective("accuracy", "max", accuracy, expensive=True),
            hwnas.Objective("latency_ms", "min", ofa_table.latency_ms),
        ]
        return hwnas.search(
            ofa, objectives, strategy="linas", predictor="ridge", evaluations=120, seed=number
        )

    def look_up(number: int) -> object:
        return ofa_table.latency_ms(many)

    def passes(forward: Callable[[Any, Any], Any], number: int) -> None:
        for arch in digits.sample(4, rng=number):
            size = digits.resolution(arch)
            images = torch.zeros(64, 1, size, size)
            torch.nn.functional.cross_entropy(forward(images, arch), labels).backward()

    def sandwich(number: int) -> object:
        net.train()
        passes(net, number)
        net.zero_grad()
        return net.eval()

    def static(number: int) -> object:
        networks = {arch: hwnas.build(digits, arch).train() for arch in digits.sample(4, rng=number)}
        return passes(lambda images, arch: networks[arch](images), number)

    def evaluation(number: int) -> object:
        return evaluator(digits.sample(1, rng=number))

    def lowering(number: int) -> object:
        return [[op.key for op in ofa.operators(arch)] for arch in ofa.sample(300, rng=number)]

    many = ofa.sample(200_000, rng=0)
    return {
        "inner loop": inner_loop,
        "look-up": look_up,
        "sandwich": sandwich,
        "static": static,
        "evaluation": evaluation,
        "lowering": lowering,
    }


def serve() -> None:
    """Run the works that standard input names, with the number of the round, and print their seconds."""
    known = works()
    for name in known:
        known[name](1000)  # caches and lazy imports
    print("ready", flush=True)
    for line in sys.stdin:
        name, _, number = line.strip().rpartition(" ")
        if name in IMPORTS:
            print(import_seconds(IMPORTS[name]), flush=True)
            continue
        begin = time.process_time()
        known[name](int(number))
        print(time.process_time() - begin, flush=True)


# ---- both revisions -------------------------------------------------------------------------------


def started(checkout: Path) -> subprocess.Popen[str]:
    """Start the process of a revision, and wait until it is ready."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).resolve(), "--serve"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"the revision in {checkout} cannot do the works")
    return process


def asked(process: subprocess.Popen[str], work: str, number: int) -> float:
    """Return the seconds of one work."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{work} {number}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    from compare_revisions import checked_out

    names = [*IMPORTS, "inner loop", "look-up", "sandwich", "static", "evaluation", "lowering"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in arguments.only}
    with tempfile.TemporaryDirectory(prefix="hwnas-speed-") as temporary:
        processes = []
        for side in ("before", "after"):
            commit = checked_out(getattr(arguments, side), Path(temporary) / side)
            print(f"{side}: {commit}", flush=True)
            processes.append(started(Path(temporary) / side))
        for number in range(arguments.rounds):
            for name, pairs in seconds.items():
                order = (0, 1) if number % 2 == 0 else (1, 0)
                spent = {side: asked(processes[side], name, number) for side in order}
                pairs.append((spent[0], spent[1]))
        for process in processes:
            process.communicate(timeout=60)
    generator = np.random.default_rng(0)
    for name, pairs in seconds.items():
        before, after = np.array(pairs).T
        ratios = after / before
        medians = np.median(generator.choice(ratios, (10_000, len(ratios))), axis=1)
        low, high = np.quantile(medians, (0.025, 0.975))
        print(
            f"{name:16} {np.median(before):8.4f} s → {np.median(after):8.4f} s   "
            f"ratio {np.median(ratios):.3f} ({low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve()
    else:
        main()
