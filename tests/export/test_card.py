"""The model card, and the program in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from hwnas.store import read_json


def test_the_card_says_what_is_known_and_its_program_runs(tiny_run: Path) -> None:
    entry = read_json(tiny_run / "pareto.json")["models"][0]
    folder = tiny_run / "models" / entry["id"]
    card = (folder / "README.md").read_text()
    assert f"{entry['test_accuracy']:.2f} %" in card
    assert f"{entry['measured']['latency_ms']:.4g} ms" in card
    for name, value in entry["architecture"].items():
        assert f"| `{name}` | {value} |" in card
    assert "prepared as: grey scenes of 24×24 pixels;\nthen resized to" in card
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
