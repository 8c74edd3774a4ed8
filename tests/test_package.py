"""The public names, and what importing them loads."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hwnas


def test_public_names_are_pinned() -> None:
    assert sorted(hwnas.__all__) == [
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
    for name in hwnas.__all__:
        assert callable(getattr(hwnas, name))
        assert name in dir(hwnas)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        hwnas.nope  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import hwnas",
        "import hwnas.spaces, hwnas.predictors, hwnas.searching.loop, hwnas.latency.profiling, hwnas.cli",
        "import hwnas; hwnas.search; hwnas.profile; hwnas.get_space('mobilenetv3').sample(3, 0)",
    ],
)
def test_no_torch_where_none_is_needed(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_is_the_module() -> None:
    """Its entry point imports next to nothing before it can be interrupted."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"hwnas": "hwnas.__main__:main"}
    code = "import sys, hwnas.__main__ as m; m.main; sys.exit('typer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
