"""What training a supernet costs, and what the strategies are worth.

python benchmarks/training.py speed        # a sandwich step, the data pipeline, the evaluation of a subnet
python benchmarks/training.py strategies   # cluttered digits, or CIFAR-10, at about equal CPU time
python benchmarks/training.py memory       # a sandwich step that keeps what it frees, and one that does not

Figures are medians over rounds, with the quartiles; what is compared is timed in turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hwnas.config import Experiment, Training, load_config
from hwnas.memory import keep_freed_memory
from hwnas.networks.blocks import build_network
from hwnas.networks.supernet import Supernet
from hwnas.spaces import Architecture, NetworkSpace, get_space
from hwnas.training import loop
from hwnas.training.checkpoint import Arithmetic, State
from hwnas.training.data import Dataset, Held, read_dataset
from hwnas.training.evaluation import CALIBRATION_BATCH, AccuracyEvaluator, evaluating

console = Console(width=110)
ROOT = Path(__file__).parents[1]


IMAGES = {"digits": (1, 24), "cifar10": (3, 32)}  # configurations: channels and pixels of the images


def experiment(name: str, path: str | None = None) -> Experiment:
    """configs/NAME.yaml, with its images in a folder where they are a user's own."""
    data = {} if name == "digits" else {"data.path": path or "/"}
    return load_config(ROOT / "configs" / f"{name}.yaml", data)


def configured(config: Experiment) -> tuple[NetworkSpace, Training]:
    """The space of a configuration, and how it is trained."""
    named, channels = config.space, IMAGES[config.name][0]
    return get_space(named.name, classes=10, channels=channels, **named.parameters), config.training


def noise(n: int, channels: int, size: int) -> Dataset:
    """Images whose content does not matter, kept as bytes as real ones are."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (n,), generator=generator)
    classes = tuple(map(str, range(10)))
    return Dataset(Held(images), labels, classes, (0.5,) * channels, (0.25,) * channels, {}, "noise")


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, which other work on the machine disturbs least."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def spread(ratios: list[float]) -> str:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def planned(name: str, threads: int, precision: str) -> tuple[Supernet, loop.Plan]:
    """The supernet of a configuration, and its training on images without content."""
    space, settings = configured(experiment(name))
    settings = settings.model_copy(update={"threads": threads, "precision": precision})
    torch.set_num_threads(threads)
    net = Supernet(space).train()
    data = noise(20000, *IMAGES[name])
    return net, loop._plan(net, data, settings, 0, None, torch.device("cpu"))


# ---- speed ----------------------------------------------------------------------------------------


def speed(name: str, rounds: int, threads: int, precision: str) -> None:
    """Those of one configuration."""
    channels, size = IMAGES[name]
    keep_freed_memory()  # as the loop does
    net, plan = planned(name, threads, precision)
    space, settings, train_data = net.space, plan.settings, plan.data
    validation = noise(2000, channels, size)
    arithmetic = loop.choose_arithmetic(net, plan)
    console.print(f"{name}: {arithmetic}, {threads} threads, batch {settings.batch_size}")
    state = State(net, loop._optimizer(net, settings), arithmetic)
    batches = loop._batches(plan, 0)
    new, seen, waiting = [], [], []
    for number in range(rounds):
        subnets = plan.strategy.subnets(number, np.random.default_rng(number), lambda arch: 0.0)
        batch = next(batches)

        def make(subnets=subnets) -> None:  # type: ignore[no-untyped-def]
            """A batch, at the resolutions of a step."""
            (part,) = next(batches)
            for subnet in subnets:
                part.at(space.resolution(subnet.arch), arithmetic.channels_last)

        making = seconds(make)
        own = [static_step(space, s.arch, settings, arithmetic, batch[0]) for s in subnets]
        for step in own:  # a network that is trained alone has seen its shapes before
            step()

        def together(batch=batch, subnets=subnets) -> None:  # type: ignore[no-untyped-def]
            loss = float(loop._accumulate(net, batch, subnets, arithmetic, plan, None))
            loop._update(state, loss, 1e-3, settings)

        for ratios in (new, seen, seen):
            spent = seconds(together)
            ratios.append(spent / sum(seconds(step) for step in own))
        waiting.append(making / spent)
    console.print(f"  a sandwich step / its networks' own steps, subnets seen before: {spread(seen)}")
    console.print(f"  the same, subnets new: {spread(new)}")
    console.print(f"  making a batch / a step: {spread(waiting)}")
    wide = settings.model_copy(update={"trivial_augment": True})
    batches = loop._batches(loop._plan(net, train_data, wide, 0, None, plan.device), 0)
    next(batches)
    ratios = [seconds(make) / seconds(together) for _ in range(rounds)]
    console.print(f"  the same with TrivialAugment: {spread(ratios)}")
    evaluator = AccuracyEvaluator(net, train_data, validation)
    to_bare: dict[str, list[float]] = {}
    for arch in space.sample(rounds, 1):
        evaluator.accuracy(arch)
        passes = bare_passes(net, arch, evaluator)
        for bare in passes.values():
            bare()
        for _ in range(2):
            whole = seconds(lambda arch=arch: evaluator.accuracy(arch))  # type: ignore[misc]
            for kind, bare in passes.items():
                to_bare.setdefault(kind, []).append(whole / seconds(bare))
    for kind, found in to_bare.items():
        console.print(f"  evaluation of a subnet / forward passes of {kind}: {spread(found)}")


def static_step(
    space: NetworkSpace, arch: Architecture, settings: Training, arithmetic: Arithmetic, part: loop.Part
) -> Callable[[], None]:
    """A step of training an architecture as a plain network, as the loop makes one."""
    network = build_network(space, arch).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, settings.momentum, nesterov=True)
    images = part.at(space.resolution(arch), arithmetic.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        logits = loop._computed(network, arithmetic, images)
        F.cross_entropy(logits, part.labels, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert torch.nn.utils.get_total_norm(gradients).isfinite()
        torch.nn.utils.clip_grad_value_(network.parameters(), 1.0)
        optimizer.step()

    return step


def bare_passes(
    net: Supernet, arch: Architecture, evaluator: AccuracyEvaluator
) -> dict[str, Callable[[], None]]:
    """The forward passes of calibration and evaluation, by what makes them."""
    statistics = evaluator.statistics(arch)
    network = net.extract(arch, statistics)
    calibration = [x for x, _ in evaluator._batches(evaluator.calibration_data, CALIBRATION_BATCH, arch)]
    images = [x for x, _ in evaluator.batches(arch)]

    def plain() -> None:
        with torch.no_grad():
            network.train()
            for x in calibration:
                network(x)
            network.eval()
            for x in images:
                network(x)

    def elastic(calibration: list[Tensor], images: list[Tensor]) -> None:
        with torch.no_grad():
            net.train()
            for x in calibration:
                net(x, arch)
        with evaluating(net):
            for x in images:
                net(x, arch, statistics)

    channels_first = [[x.contiguous() for x in held] for held in (calibration, images)]
    return {
        "its plain network": plain,
        "the supernet": lambda: elastic(calibration, images),
        "the supernet, channels first": lambda: elastic(*channels_first),
    }


# ---- memory ---------------------------------------------------------------------------------------

STEPS = 6  # that are timed, after as many that warm up


def memory(name: str, rounds: int, threads: int) -> None:
    """Steps of the same subnets in processes of their own, in turns."""
    ratios, faults = [], []
    for _ in range(rounds):
        kept, left = (in_a_new_process(name, threads, keep) for keep in (True, False))
        ratios.append(kept[0] / left[0])
        faults.append((kept[1], left[1]))
    console.print(
        f"{name}, {threads} threads: a step that keeps memory / one that does not: {spread(ratios)}"
    )
    console.print("  page faults a step: {:,.0f} and {:,.0f}".format(*np.median(faults, axis=0)))


def in_a_new_process(name: str, threads: int, keep: bool) -> tuple[float, float]:
    """CPU-seconds and page faults of a step; what a process was told of its memory cannot be taken back."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(a_step, (name, threads, keep))


def a_step(name: str, threads: int, keep: bool) -> tuple[float, float]:
    if keep:
        keep_freed_memory()
    net, plan = planned(name, threads, "bf16")
    arithmetic, batches = Arithmetic("bf16", channels_last=True), loop._batches(plan, 0)
    state = State(net, loop._optimizer(net, plan.settings), arithmetic)
    subnets = plan.strategy.subnets(0, np.random.default_rng(0), lambda arch: 0.0)

    def steps() -> None:
        for _ in range(STEPS):
            loss = float(loop._accumulate(net, next(batches), subnets, arithmetic, plan, None))
            loop._update(state, loss, 1e-3, plan.settings)

    steps()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    spent = seconds(steps)
    return spent / STEPS, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / STEPS


# ---- strategies -----------------------------------------------------------------------------------

STRATEGIES: dict[str, dict[str, object]] = {
    "sandwich, kd": {"strategy": "sandwich"},
    "sandwich, alpha": {"strategy": "sandwich", "loss": "alpha"},
    "sandwich with four, kd": {"strategy": "sandwich", "random_subnets": 4},
    "attentive worst, kd": {"strategy": {"name": "attentive", "mode": "worst"}},
    "attentive best, kd": {"strategy": {"name": "attentive", "mode": "best"}},
    "progressive, kd": {"strategy": "progressive"},
    "uniform": {"strategy": "uniform"},
}


def strategies(name: str, path: str | None, seed: int, cpu_s: float, only: list[str]) -> None:
    """Each strategy for as many steps as take `cpu_s` CPU-seconds, otherwise as the configuration trains."""
    torch.set_num_threads(1)
    config = experiment(name, path)
    space, settings = configured(config)
    named = config.data
    train_data, validation = (
        read_dataset(named.name, split, config.seed, named.parameters) for split in ("train", "validation")
    )
    table = Table(title=f"{name}: validation accuracy after {cpu_s:g} CPU-seconds, seed {seed}, percent")
    for column in ("strategy", "steps", "CPU s", "largest", "smallest", "30 random: mean", "least"):
        table.add_column(column, justify="right" if column != "strategy" else "left")
    judged = [space.largest(), space.smallest(), *space.sample(30, 123)]
    for label, changes in STRATEGIES.items():
        if only and label not in only:
            continue
        base = {**settings.model_dump(), "threads": 1, "precision": "bf16", **changes}

        def run(steps: int, base: dict[str, Any] = base) -> tuple[Supernet, float]:
            net = Supernet(space, seed)
            warmup_steps = min(base["warmup_steps"], steps // 10)
            few = {"steps": steps, "report_every": steps, "warmup_steps": warmup_steps}
            return net, trained(net, Training.model_validate({**base, **few}), train_data, validation, seed)

        a_step = (run(90)[1] - run(30)[1]) / 60  # without what every training costs, however long
        steps = round(cpu_s / a_step)
        net, spent = run(steps)
        accuracy = AccuracyEvaluator(net, train_data, validation)(judged)
        figures = [accuracy[0], accuracy[1], accuracy[2:].mean(), accuracy[2:].min()]
        table.add_row(label, str(steps), f"{spent:.1f}", *(f"{figure:.1f}" for figure in figures))
    console.print(table)


def trained(net: Supernet, settings: Training, data: Dataset, validation: Dataset, seed: int) -> float:
    """Train, and the CPU-seconds that it took."""
    few = validation.subset(64, 0)  # judging costs next to nothing
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        loop.train(net, data, few, settings, folder, seed)
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "strategies", "memory"))
    parser.add_argument("--config", choices=IMAGES, default="digits")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu-seconds", type=float, default=12.0)
    parser.add_argument("--only", action="append", default=[], help="of the strategies")
    parser.add_argument("--data", metavar="DIR", help="a folder with CIFAR-10, for its strategies")
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed(arguments.config, arguments.rounds, arguments.threads, arguments.precision)
    elif arguments.what == "memory":
        memory(arguments.config, arguments.rounds, arguments.threads)
    else:
        if (arguments.config == "cifar10") != (arguments.data is not None):
            parser.error("--config cifar10, and it alone, needs its images: give --data DIR with it")
        strategies(arguments.config, arguments.data, arguments.seed, arguments.cpu_seconds, arguments.only)


if __name__ == "__main__":
    main()
