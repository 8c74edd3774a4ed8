"""The supernets that are shipped: small, whole, described, and as accurate as their page says."""

from __future__ import annotations

from pathlib import Path

import pytest

import hwnas
from hwnas.config import load_config
from hwnas.networks.supernet import Supernet
from hwnas.spaces import get_space

ROOT = Path(__file__).parents[1]
SUPERNETS = ROOT / "examples" / "supernets"
FOLDERS = sorted(path.parent for path in SUPERNETS.glob("*/supernet.json"))
DATA = ROOT.parent / "shared" / "data" / "cifar10"


def stated(name: str) -> tuple[float, float]:
    """Test accuracies of the largest and the smallest subnet, in percent."""
    lines = (SUPERNETS / "README.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith(f"| `{name}`"))
    cells = [cell.strip() for cell in row.split("|")]
    return float(cells[3].removesuffix(" %")), float(cells[4].removesuffix(" %"))


def found(net: Supernet, name: str, **parameters: object) -> tuple[float, float]:
    train, test = (hwnas.load_dataset(name, split=s, **parameters) for s in ("train", "test"))
    evaluator = hwnas.AccuracyEvaluator(net, train, test)
    high, low = evaluator([net.space.largest(), net.space.smallest()])
    return high, low


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_shipped_supernet(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    net = hwnas.load_supernet(folder)
    path = {} if folder.name == "digits" else {"data.path": "/"}  # a user's own
    experiment = load_config(ROOT / "configs" / f"{folder.name}.yaml", path)
    named = experiment.space
    facts = {"classes": net.space.definition["classes"], "channels": net.space.definition["channels"]}
    assert net.space.id == get_space(named.name, **facts, **named.parameters).id
    # Threads and arithmetic are those of the machine, the rest is the experiment's.
    made, asked = net.metadata["training"], experiment.training.recipe
    assert {**made, "threads": None, "precision": None} == {**asked, "threads": None, "precision": None}


def test_digits_are_recognised_as_stated() -> None:
    net = hwnas.load_supernet(SUPERNETS / "digits")
    assert found(net, "cluttered-digits") == pytest.approx(stated("digits"), abs=1)  # other images calibrate


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="CIFAR-10 is not beside this checkout")
def test_cifar10_is_recognised_as_stated() -> None:
    net = hwnas.load_supernet(SUPERNETS / "cifar10")
    assert found(net, "cifar10", path=str(DATA)) == pytest.approx(stated("cifar10"), abs=1)
