"""Torch on this machine: eager on the CPU, and as CUDA graphs on an NVIDIA GPU. Torch is loaded when used.

What is timed is the network that `Supernet.extract` gives, with its batch norms, rebuilt from the operators
and weights of the ONNX model; a model that hwnas did not make cannot be timed here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from hwnas.errors import DeviceError, SpaceError
from hwnas.latency.devices.local import LocalDevice, Row, Run
from hwnas.latency.measure import Plan
from hwnas.memory import keep_freed_memory
from hwnas.ops.network import random_inputs
from hwnas.ops.onnx import parts

if TYPE_CHECKING:
    from torch import Tensor, nn

GRAPH_WARMUP_RUNS = 3  # before a CUDA graph is captured, so that libraries have chosen and allocated
HOLD_CYCLES = 50_000  # of the GPU's clock, about 25 µs, for each run that the CPU queues meanwhile


class TorchDevice(LocalDevice):
    """Times networks in eager mode on the CPU; `threads` are those of the intra-op pool."""

    @property
    def runtime(self) -> dict[str, Any]:
        import torch

        return {
            "name": "torch",
            "version": str(torch.__version__),
            "provider": "cpu",
            "threads": self.threads,
            "graph_optimization": "none",
        }

    @contextmanager
    def settings(self) -> Iterator[None]:
        import torch

        keep_freed_memory()  # as in a process that has trained, so that it does not matter which one measures
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)

    def open(self, model: bytes) -> Run:
        network, inputs = _network(model)
        return lambda: network(*inputs)


class TorchCudaDevice(LocalDevice):
    """Times networks as CUDA graphs by events on the current GPU, without TF32.

    The time of a run is what passes on the GPU between its events. The kept runs of a visit are queued while
    the GPU is held up, so that it never waits for the CPU between them; wall time is theirs together, that
    pause included, shared evenly. TF32 is off and cuDNN's heuristics choose the algorithms of convolutions.
    """

    def __init__(self, threads: int = 1, cores: Sequence[int] | None = None) -> None:
        """DeviceError without a GPU that torch can use, and for more than the one thread that launches."""
        if threads != 1:
            raise DeviceError(f"threads is {threads}; torch-cuda launches from one, give 1")
        super().__init__(threads, cores)
        import torch

        if not torch.cuda.is_available():
            raise DeviceError(
                "torch sees no CUDA GPU; install a driver and a CUDA build of torch, or use the device torch"
            )

    @property
    def runtime(self) -> dict[str, Any]:
        import torch

        return {
            "name": "torch-cuda",
            "version": str(torch.__version__),
            "provider": "cuda",
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "threads": self.threads,
            "graph_optimization": "cuda-graph",
            "tf32": False,
        }

    @property
    def statistic(self) -> str:
        return "device-trimmed-mean"

    @contextmanager
    def settings(self) -> Iterator[None]:
        import torch

        self._memory = torch.cuda.graph_pool_handle()  # graphs never run at once: they share their memory
        matmul = torch.backends.cuda.matmul
        before = matmul.allow_tf32
        matmul.allow_tf32 = False
        try:
            with (
                torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False),
                torch.inference_mode(),
            ):
                yield
        finally:
            matmul.allow_tf32 = before

    def open(self, model: bytes) -> Run:
        import torch

        network, inputs = _network(model)
        network, inputs = network.cuda(), tuple(tensor.cuda() for tensor in inputs)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(GRAPH_WARMUP_RUNS):
                network(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            network(*inputs)

        # The graph owns no weights.
        def run(held: tuple[nn.Module, tuple[Tensor, ...]] = (network, inputs)) -> None:
            graph.replay()

        return run

    def wall_ns(self, run: Run) -> int:
        import torch

        start = time.perf_counter_ns()
        run()
        torch.cuda.synchronize()
        return time.perf_counter_ns() - start

    def visit(self, runs: Sequence[Run], plan: Plan) -> list[Row]:
        import torch

        def event() -> torch.cuda.Event:
            return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

        events = [[(event(), event()) for _ in range(plan.kept_runs)] for _ in runs]
        torch.cuda.synchronize()
        for _ in range(plan.warmup_runs):
            for run in runs:
                run()
        start_ns = time.perf_counter_ns()
        torch.cuda._sleep(HOLD_CYCLES * plan.kept_runs * len(runs))  # type: ignore[no-untyped-call]
        for kept in range(plan.kept_runs):
            for run, pairs in zip(runs, events, strict=True):
                start, stop = pairs[kept]
                start.record()
                run()
                stop.record()
        torch.cuda.synchronize()
        wall_ns = (time.perf_counter_ns() - start_ns) // (plan.kept_runs * len(runs))
        return [
            [(round(1e6 * start.elapsed_time(stop)), wall_ns, False) for start, stop in pairs]
            for pairs in events
        ]


def _network(model: bytes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network of an ONNX model that hwnas made, and its inputs; DeviceError for another."""
    import torch

    from hwnas.networks.blocks import unfolded_network

    try:
        network, weights, batch_size = parts(onnx.load_from_string(model))
    except (DecodeError, SpaceError) as error:
        raise DeviceError(f"torch cannot load a model: {error}") from None
    arrays = random_inputs(network.inputs, batch_size or 1).values()
    return unfolded_network(network, weights), tuple(torch.from_numpy(array) for array in arrays)
