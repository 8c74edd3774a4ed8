"""hwnas: hardware-aware multi-objective neural architecture search.

One supernet, one measured latency table of the device, one search: a Pareto front of models that keep their
latency. Names load on first use, so that `import hwnas` and searching load no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.config import load_config
    from hwnas.errors import HwnasError
    from hwnas.export.folder import load_model
    from hwnas.export.onnx import export_onnx
    from hwnas.latency.profiling import profile
    from hwnas.latency.table import LatencyTable
    from hwnas.networks.blocks import build_network as build
    from hwnas.networks.calibration import calibrate
    from hwnas.networks.ofa import load_ofa_checkpoint
    from hwnas.networks.supernet import Supernet, load_supernet
    from hwnas.pipeline import Run, run
    from hwnas.searching.loop import SearchResult, SearchSession, search
    from hwnas.searching.objectives import Constraint, Evaluation, Objective
    from hwnas.searching.pareto import ParetoFront
    from hwnas.spaces import Architecture, Architectures, Choice, Operator, SearchSpace, get_space
    from hwnas.store import Store
    from hwnas.training.data import from_loader, load_dataset, resize
    from hwnas.training.evaluation import AccuracyEvaluator
    from hwnas.training.train import train

__version__ = "0.1.0"

_HOMES = {
    "AccuracyEvaluator": "hwnas.training.evaluation",
    "Architecture": "hwnas.spaces",
    "Architectures": "hwnas.spaces",
    "Choice": "hwnas.spaces",
    "Constraint": "hwnas.searching.objectives",
    "Evaluation": "hwnas.searching.objectives",
    "HwnasError": "hwnas.errors",
    "LatencyTable": "hwnas.latency.table",
    "Objective": "hwnas.searching.objectives",
    "Operator": "hwnas.spaces",
    "ParetoFront": "hwnas.searching.pareto",
    "Run": "hwnas.pipeline",
    "SearchResult": "hwnas.searching.loop",
    "SearchSession": "hwnas.searching.loop",
    "SearchSpace": "hwnas.spaces",
    "Store": "hwnas.store",
    "Supernet": "hwnas.networks.supernet",
    "build": "hwnas.networks.blocks:build_network",
    "calibrate": "hwnas.networks.calibration",
    "export_onnx": "hwnas.export.onnx",
    "from_loader": "hwnas.training.data",
    "get_space": "hwnas.spaces",
    "load_config": "hwnas.config",
    "load_dataset": "hwnas.training.data",
    "load_model": "hwnas.export.folder",
    "load_ofa_checkpoint": "hwnas.networks.ofa",
    "load_supernet": "hwnas.networks.supernet",
    "profile": "hwnas.latency.profiling",
    "resize": "hwnas.training.data",
    "run": "hwnas.pipeline",
    "search": "hwnas.searching.loop",
    "train": "hwnas.training.train",
}

__all__ = [
    "AccuracyEvaluator",
    "Architecture",
    "Architectures",
    "Choice",
    "Constraint",
    "Evaluation",
    "HwnasError",
    "LatencyTable",
    "Objective",
    "Operator",
    "ParetoFront",
    "Run",
    "SearchResult",
    "SearchSession",
    "SearchSpace",
    "Store",
    "Supernet",
    "build",
    "calibrate",
    "export_onnx",
    "from_loader",
    "get_space",
    "load_config",
    "load_dataset",
    "load_model",
    "load_ofa_checkpoint",
    "load_supernet",
    "profile",
    "resize",
    "run",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "testing":
        return import_module("hwnas.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'hwnas' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "testing"})
