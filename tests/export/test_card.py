"""The model card, and the program in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from scipy.stats import binomtest

from hwnas.export.card import accuracy_interval, class_table
from hwnas.store import read_json


def test_the_card_says_what_is_known_and_its_program_runs(tiny_run: Path) -> None:
    entry = read_json(tiny_run / "pareto.json")["models"][0]
    folder = tiny_run / "models" / entry["id"]
    card = (folder / "README.md").read_text()
    assert f"{entry['test_accuracy']:.2f} %" in card
    assert f"{entry['measured']['latency_ms']:.4g} ms" in card
    for name, value in entry["architecture"].items():
        assert f"| `{name}` | {value} |" in card
    assert "1. Prepare: grey scenes of 24×24 pixels. The result is 24×24 pixels, grey, bytes from 0" in card
    low, high = accuracy_interval(entry["test_accuracy"], 200)
    assert f"{entry['test_accuracy']:.2f} % (95 %: {low:.2f} to {high:.2f}, 200 images)" in card
    assert "`cluttered-digits`: 600 images to learn from, 200 to choose" in card
    assert "trained for 100 steps of 32 images" in card
    for line in ("stem ", "stage1.layer1 ", "stage2.layer1 ", "head "):
        assert f"\n{line}" in card  # the drawing
    program, in_torch = re.findall(r"```python\n(.*?)```", card, re.S)
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert result.stdout.strip() in "0123456789"
    in_torch += "\nimport torch; print(tuple(network(torch.zeros((1, *network.input_shape))).shape))"
    command = [sys.executable, "-c", in_torch]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, env=os.environ)
    assert result.stdout.strip() == "(1, 10)"
    assert f"torch's test accuracy is {entry['checks']['torch_test_accuracy']:.2f} %" in card


def test_the_layout_is_that_of_hugging_face(tiny_run: Path) -> None:
    """What is asked for in https://github.com/huggingface/hub-docs/blob/main/modelcard.md."""
    for entry in read_json(tiny_run / "pareto.json")["models"]:
        card = (tiny_run / "models" / entry["id"] / "README.md").read_text()
        assert card.startswith("---\n")
        front, page = card[4:].split("\n---\n", 1)
        facts = yaml.safe_load(front)
        assert page.lstrip().startswith(f"# tiny: model {entry['id']}\n")
        assert facts["license"] == "apache-2.0"
        assert facts["pipeline_tag"] == "image-classification"
        assert facts["metrics"] == ["accuracy"]
        assert {"onnx", "neural-architecture-search"} <= set(facts["tags"])
        (model,) = facts["model-index"]
        assert model["name"] == f"tiny-{entry['id']}"
        for result, split in zip(model["results"], ("test", "validation"), strict=True):
            assert result["task"]["type"] == "image-classification"
            assert result["dataset"] == {
                "type": "cluttered-digits",
                "name": "cluttered-digits",
                "split": split,
            }
            (metric,) = result["metrics"]
            assert metric["type"] == "accuracy"
            assert metric["value"] == pytest.approx(entry[f"{split}_accuracy"] / 100, abs=1e-6)


def test_hugging_faces_own_reader_understands_it(tiny_run: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")
    for entry in read_json(tiny_run / "pareto.json")["models"]:
        card = hub.ModelCard.load(tiny_run / "models" / entry["id"] / "README.md")
        assert card.data.model_name == f"tiny-{entry['id']}"
        found = {result.dataset_split: result for result in card.data.eval_results}
        assert found["test"].metric_value == pytest.approx(entry["test_accuracy"] / 100, abs=1e-6)
        assert (found["test"].task_type, found["test"].metric_type) == ("image-classification", "accuracy")
        assert card.data.to_dict()["license"] == "apache-2.0"


def counts(*correct: int) -> dict[str, dict[str, int]]:
    """Classes of 50 images each, by name."""
    return {f"class|{i}": {"correct": right, "images": 50} for i, right in enumerate(correct)}


def test_accuracies_by_class_begin_with_the_lowest() -> None:
    entry = {"class_accuracy": {"test": counts(40, 10, 50), "validation": counts(30, 20, 41)}}
    entry["class_accuracy"]["test"]["rare"] = {"correct": 0, "images": 0}
    entry["class_accuracy"]["validation"]["rare"] = {"correct": 1, "images": 1}
    assert class_table(entry) == (
        "All classes, the lowest test accuracy first.",
        [
            ("class|1", "20.0 % of 50", "40.0 % of 50"),
            ("class|0", "80.0 % of 50", "60.0 % of 50"),
            ("class|2", "100.0 % of 50", "82.0 % of 50"),
            ("rare", "no images", "100.0 % of 1"),
        ],
    )
    assert class_table({}) is None  # an entry of an older hwnas


def test_of_many_classes_the_worst_are_listed() -> None:
    correct = [50 - i % 50 for i in range(1000)]
    entry = {"class_accuracy": {"test": counts(*correct), "validation": counts(*correct)}}
    table = class_table(entry)
    assert table is not None
    assert table[0] == "The 10 of 1,000 classes with the lowest test accuracy."
    assert [row[0] for row in table[1]] == [f"class|{49 + 50 * i}" for i in range(10)]


def test_the_card_lists_the_accuracy_of_each_class(tiny_run: Path) -> None:
    entry = read_json(tiny_run / "pareto.json")["models"][-1]
    card = (tiny_run / "models" / entry["id"] / "README.md").read_text()
    section = card[card.index("## Accuracy by class") : card.index("## Input")]
    rows = re.findall(r"^\| (\d) \| ([\d.]+) % of (\d+) \| ([\d.]+) % of (\d+) \|$", section, re.M)
    assert sorted(row[0] for row in rows) == list("0123456789")
    shares = [float(row[1]) for row in rows]
    assert shares == sorted(shares)
    for name, share, images, *_ in rows:
        known = entry["class_accuracy"]["test"][name]
        assert int(images) == known["images"]
        assert float(share) == pytest.approx(100 * known["correct"] / known["images"], abs=0.05)


@pytest.mark.parametrize(("right", "images"), [(0, 50), (45, 50), (1999, 2000), (360, 360)])
def test_intervals_of_accuracies(right: int, images: int) -> None:
    low, high = accuracy_interval(100 * right / images, images)
    expected = binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((100 * expected.low, 100 * expected.high))
