import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.report.data import ReportData
from hwnas.report.figures import FIGURES
from hwnas.report.html import render, write_report

HOSTILE = """<script>alert("1")</script>'&amp;$x^{$ {{ 7*7 }}"""
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps elements and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data}"


def page(data: ReportData) -> Page:
    return Page(render(data))


def text(data: ReportData) -> str:
    return " ".join(page(data).text.split())


def first(data: ReportData, **changes: Any) -> ReportData:
    """The same run with changes to its first model."""
    return replace(data, models=[{**data.models[0], **changes}, *data.models[1:]])


def test_the_page_loads_nothing(data: ReportData) -> None:
    html = render(data)
    found = Page(html)
    assert not {tag for tag, _ in found.elements} & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:", "models/")), (tag, value)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html)


def test_links_lead_somewhere(data: ReportData) -> None:
    elements = page(data).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for _, a in elements if (a.get("href") or "").startswith("#")]
    assert targets
    assert {target[1:] for target in targets if target} <= set(ids)
    for reference in re.findall(r"url\(#([^)]*)\)", render(data)):
        assert reference in ids


def test_hostile_text_stays_text(data: ReportData) -> None:
    model = {**data.models[0], "id": HOSTILE, "status": HOSTILE}
    hostile = replace(
        data,
        name=HOSTILE,
        config={HOSTILE: [HOSTILE, {"a": HOSTILE}]},
        environment={HOSTILE: {HOSTILE: HOSTILE}, "date": HOSTILE},
        models=[model, *data.models[1:]],
        budgets_ms={0.5: HOSTILE},
        hypervolume={HOSTILE: [1.0, 2.0], "random": [1.0, 1.5]},
        reference=HOSTILE,
        table={
            **data.table,
            "device": {"name": HOSTILE},
            "runtime": {**data.table["runtime"], "name": HOSTILE, "version": HOSTILE},
            "calibration": [{**data.table["calibration"][0], "precision": HOSTILE}],
        },
        seconds={HOSTILE: 1.0},
    )
    html = render(hostile)
    found = Page(html)
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in found.elements}
    assert found.text.count(HOSTILE) >= 14
    assert all(set(a) <= {"href"} for tag, a in found.elements if tag == "a")


def test_what_the_page_says(data: ReportData) -> None:
    said = text(data)
    models = sorted(data.models, key=lambda m: m["measured"]["latency_ms"])
    for model in models:
        assert f"{model['id']} {model['validation_accuracy']:.2f} % {model['test_accuracy']:.2f} %" in said
    errors = [abs(m["predicted"]["latency_ms"] / m["measured"]["latency_ms"] - 1) * 100 for m in models]
    assert f"off by {np.median(errors):.1f} % in the median of the {len(models)} measured models" in said
    for budget, key in data.budgets_ms.items():
        assert f"{budget:g} ms {key}" in said
    assert "error 3.2× smaller than MACs’" in said
    assert "MACs alone would do" in said
    assert "93 operators, each timed in 48 shuffled rounds" in said
    assert "train 23 min 32 s" in said
    assert "200 architectures truly evaluated, 1 of them failed" in said
    assert f'InferenceSession("models/{data.budgets_ms[1.2]}/model.onnx"' in said


def test_a_budget_that_nothing_meets(data: ReportData) -> None:
    fastest = min(model["measured"]["latency_ms"] for model in data.models)
    said = text(replace(data, budgets_ms={0.01: None}))
    assert f"0.01 ms no model fits; the fastest takes {fastest:.3f} ms" in said


def test_without_budgets_the_example_is_the_most_accurate(data: ReportData) -> None:
    said = text(replace(data, budgets_ms={}))
    best = max(data.models, key=lambda model: model["validation_accuracy"])["id"]
    assert "Which model to take" not in said
    assert f'"models/{best}/model.onnx"' in said


@pytest.mark.parametrize("measured", [None, {"latency_ms": None, "latency_ci_ms": None}])
def test_models_that_were_not_measured(data: ReportData, measured: Any) -> None:
    said = text(replace(data, models=[{**model, "measured": measured} for model in data.models]))
    assert "No model was measured" in said
    assert "nan" not in said.lower()
    key = data.budgets_ms[0.5]
    predicted = next(m for m in data.models if m["id"] == key)["predicted"]["latency_ms"]
    assert re.search(rf"0\.5 ms {key} \S+ % {predicted:.3f} ms predicted", said)


def test_one_model(data: ReportData) -> None:
    said = text(replace(data, models=data.models[:1], budgets_ms={}, evaluations=data.evaluations[:1]))
    assert "predicted for the one measured model is off by" in said
    assert "nan" not in said.lower()


def test_a_run_with_hardly_anything(data: ReportData) -> None:
    evaluations = data.evaluations.assign(accuracy=np.nan, predicted_accuracy=np.nan, status="failed")
    bare = replace(
        data,
        config={},
        environment={},
        evaluations=evaluations,
        models=[],
        budgets_ms={},
        hypervolume={},
        training=[],
        table={**data.table, "calibration": []},
        seconds={},
    )
    said = text(bare)
    assert "The search ended without a model" in said
    assert "200 of them failed" in said
    assert "was not calibrated" in said
    assert "<svg" not in render(bare)


def test_no_predictions_and_no_random_search(data: ReportData) -> None:
    evaluations = data.evaluations.assign(predicted_accuracy=np.nan)
    said = text(replace(data, evaluations=evaluations, hypervolume={"random": data.hypervolume["random"]}))
    assert "Is the predictor right?" not in said
    said = text(replace(data, hypervolume={"linas": data.hypervolume["linas"]}))
    assert "random" not in said


def test_a_search_worse_than_random_says_so(data: ReportData) -> None:
    said = text(replace(data, hypervolume={"linas": [1.0, 2.0], "random": [2.0, 3.0]}))
    assert "did not reach the hypervolume of random search" in said


def test_unknown_numbers_are_dashes(data: ReportData) -> None:
    said = text(first(data, test_accuracy=None, budget_ms=None))
    assert f"{data.models[0]['validation_accuracy']:.2f} % —" in said
    assert "nan" not in said.lower()


def test_write_report_leaves_whole_files_and_no_old_picture(data: ReportData, tmp_path: Path) -> None:
    path = write_report(data, tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render(data)
    pictures = tmp_path / "figures"
    assert {p.name for p in pictures.iterdir()} == {f"{name}.png" for name in FIGURES}
    write_report(replace(data, training=[]), tmp_path)
    assert {p.stem for p in pictures.iterdir()} == FIGURES.keys() - {"training"}
