import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from hwnas.report.data import OperatorTime, ReportData, operator_times
from hwnas.report.figures import FIGURES
from hwnas.report.html import printable, render, write_report
from hwnas.spaces import get_space
from tests.report.conftest import make_data, make_table

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
        if not {"style", "script"} & set(self.open):
            self.text += f" {data}"


def page(data: ReportData) -> Page:
    return Page(render(data))


def words(html: str) -> str:
    return " ".join(Page(html).text.split())


def text(data: ReportData) -> str:
    """Return the words of the page, which is rendered without figures because they take long to draw."""
    return words(render(data, {}))


def words_with_figures(data: ReportData) -> str:
    return words(render(data))


def first(data: ReportData, **changes: Any) -> ReportData:
    """The same run with changes to its first model."""
    return replace(data, models=[{**data.models[0], **changes}, *data.models[1:]])


def test_the_page_loads_nothing(html: str) -> None:
    found = Page(html)
    assert not {tag for tag, _ in found.elements} & {
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "img",
    }
    for tag, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                assert value is not None
                assert value.startswith(("#", "models/")), (tag, value)
    svg = "http://www.w3.org/2000/svg"  # a name that the script needs, no address
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", html.replace(svg, ""))


def test_only_the_script_of_the_page_may_run(html: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in Page(html).elements if a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy


def test_links_lead_somewhere(data: ReportData, html: str) -> None:
    elements = Page(html).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for _, a in elements if (a.get("href") or "").startswith("#")]
    assert {f"#model-{model['id']}" for model in data.models} <= set(targets)
    assert {unquote(target[1:]) for target in targets if target} <= set(ids)
    for reference in re.findall(r"url\(#([^)]*)\)", html):
        assert reference in ids


def hostile_run(data: ReportData, text: str) -> ReportData:
    """The same run, and all text that can be another's is `text`."""
    key, operator = data.models[0]["id"], OperatorTime(text, text, (8, 4, 4), {text: text}, 10, 10, 0.1)
    model = {**data.models[0], "id": text, "status": text, "note": [{text: text}]}
    model["predicted"] = {**model["predicted"], f"latency_ms@{text}": 1.0}
    others = [{**m, "predicted": {**m["predicted"], f"latency_ms@{text}": 2.0}} for m in data.models[1:]]
    values = {f"stage1.{text}": text, text: text}
    ids = [text if evaluated == key else evaluated for evaluated in data.evaluations["id"]]
    return replace(
        data,
        name=text,
        config={text: [text, {"a": text}], "data": {"name": text}, "search": {text: text}},
        environment={text: {text: text}, "date": text},
        evaluations=data.evaluations.assign(id=pd.Series(ids, dtype=object)),
        models=[model, *others],
        architectures={**data.architectures, text: values},
        operators={**data.operators, text: [operator]},
        files={**data.files, text: [text]},
        budgets_ms={0.5: text},
        hypervolume={text: [1.0, 2.0], "random": [1.0, 1.5]},
        reference=text,
        table={
            **data.table,
            "device": {"name": text},
            "runtime": {**data.table["runtime"], "name": text, "version": text},
            "calibration": [{**data.table["calibration"][0], "precision": text}],
        },
        verdict=text,
        dataset={"classes": [text, "b"], "images": {text: 3}},
        seconds={text: 1.0},
        knee=text,
    )  # fmt: skip


def test_hostile_text_stays_text(data: ReportData) -> None:
    harmless = {(tag, *sorted(a)) for tag, a in page(hostile_run(data, "harmless")).elements}
    found = page(hostile_run(data, HOSTILE))
    assert {(tag, *sorted(a)) for tag, a in found.elements} == harmless
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert found.text.count(HOSTILE) >= 40
    assert all(set(a) <= {"href", "class", "data-id"} for tag, a in found.elements if tag == "a")


def test_what_is_not_to_be_printed_is_replaced(data: ReportData, tmp_path: Path) -> None:
    html = render(hostile_run(data, "\x1b]0;gone\x07\x1b[31mred\x9b0m\u202egnp.\x00\ud800"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", html)
    assert "\ufffd]0;gone\ufffd\ufffd[31mred\ufffd0m\ufffdgnp.\ufffd\ufffd" in html
    write_report(hostile_run(data, "\x1b[31m\ud800"), tmp_path)
    same = printable(data)
    assert same.evaluations.equals(data.evaluations)
    assert replace(same, evaluations=data.evaluations) == data


def test_what_the_page_says(data: ReportData, html: str) -> None:
    said = words(html)
    models = sorted(data.models, key=lambda m: m["measured"]["latency_ms"])
    for model in models:
        assert f"{model['id']} {model['validation_accuracy']:.2f} % {model['test_accuracy']:.2f} %" in said
    errors = [
        abs(m["predicted"]["latency_ms"] / m["measured"]["latency_ms"] - 1) * 100
        for m in models
        if m["predicted"]["latency_ms"] is not None
    ]
    assert f"off by {np.median(errors):.1f} % in the median of the {len(errors)} measured models" in said
    for budget, key in data.budgets_ms.items():
        assert f"{budget:g} ms {key}" in said
    assert "error 3.2× smaller than MACs’" in said
    assert "MACs alone would do" in said
    operators = len(data.table["operators"])
    assert "Verdict: good: 2.1 % error on unseen networks" in said
    assert f"{operators} operators, each timed in 48 shuffled rounds" in said
    assert "batch 1 · 2026-03-14 15:09:26 UTC" in said
    assert "train 23 min 32 s" in said
    assert "100 architectures truly evaluated, 1 of them failed" in said
    assert f'InferenceSession("models/{data.budgets_ms[0.5]}/model.onnx"' in said
    assert "images 6000 train, 2000 validation, 4000 test" in said
    assert "10 classes digit 0, digit 1" in said
    assert "first, cold run takes 7.9 times as long" in said


def test_every_model_has_a_card(data: ReportData, html: str) -> None:
    cards = re.findall(
        r'<article class="model" id="model-([0-9a-f]{12}[^"]*)">(.*?)</article>', html, re.DOTALL
    )
    models = sorted(data.models, key=lambda m: m["measured"]["latency_ms"])
    assert [key for key, _ in cards] == [model["id"] for model in models]
    for model, (key, card) in zip(models, cards, strict=True):
        said = " ".join(Page(card).text.split())
        assert f"Test accuracy {model['test_accuracy']:.2f} %" in said
        assert f"resolution {model['architecture']['resolution']}" in said
        assert f"{len(data.operators[key])} operators" in said
        assert card.count("<rect") == len(data.operators[key])
        for file in data.files[key]:
            assert f'href="models/{key}/{file}"' in card
        width = model["architecture"]["stage2.width"]
        kernels = [v for name, v in model["architecture"].items() if re.match(r"stage2.*kernel", name)]
        row = re.search(r"<tr><th>stage2</th>(.*?)</tr>", card)
        assert row is not None
        cells = re.findall(r"<td>([^<]*)</td>", row[1])
        assert {str(width), ", ".join(map(str, kernels))} <= set(cells)


def test_accuracies_by_class_are_listed(data: ReportData) -> None:
    names = [f"class {i}" for i in range(40)]
    counts = {name: {"correct": 40 - i, "images": 50} for i, name in enumerate(names)}
    known = {"class_accuracy": {"test": counts, "validation": counts}, "int8": None}
    known["int8"] = {"status": "candidate", "reason": "not measured yet", **known}
    first, *others = data.models
    shown = text(replace(data, models=[{**first, **known}, *others]))
    assert shown.count("Accuracy by class") == 1  # the other models do not know it
    assert "The 10 of 40 classes with the lowest test accuracy." in shown
    assert "class 39 2.0 % of 50 2.0 % of 50 class 38" in shown
    assert "class 29" not in shown
    assert "class_accuracy" not in shown


def test_what_else_an_entry_says_is_shown(data: ReportData, html: str) -> None:
    assert "What else is known" not in words(html)
    int8 = {"status": "kept", "reason": "1.8 times as fast", "latency_ms": {"fp32": 1.0, "int8": 0.55555555}}
    assert "What else is known" not in text(first(data, int8=None))
    said = text(first(data, int8=int8, status="undecidable"))
    assert "In 8 bits kept 1.8 times as fast" in said
    assert "int8.latency_ms.int8 0.555556" in said
    assert "undecidable" in said


def test_what_a_model_was_made_of_is_said(data: ReportData, html: str) -> None:
    said = words(html)
    small = next(m for m in data.models if "quantized" in m)
    assert f"In 8 bits, made of {small['quantized']['from']} 1.25 times as fast (95 %: 1.22–1.28)" in said
    assert "calibrated by percentile, 1 operator in single precision" in said
    tuned = next(m for m in data.models if "finetuned" in m)
    assert f"Fine-tuned from {tuned['finetuned']['from']} +0.30 points of validation accuracy" in said
    taken = words_with_figures(replace(data, budgets_ms={0.5: small["id"]}))
    made_of = small["quantized"]["from"]
    assert (
        f"Inside {made_of} , the model of the loosest budget met, in single precision; in 8 bits it is"
        in taken
    )


def test_verifications_are_listed(data: ReportData, html: str) -> None:
    said = words(html)
    assert said.count("Verified 3 times") == len(data.models)
    assert "board, onnxruntime 1.31.0" in said
    assert "+7.0 %" in said
    assert "12 % of runs preempted" in said
    assert "The models were verified up to 2 times, from 2026-03-14 to 2026-03-28." in said
    assert (
        f"{len(data.models)} of {len(data.models)} certainly changed since the time before, by 7.0 %" in said
    )
    steady = [{**m, "verifications": [{**v, "drift": None} for v in m["verifications"]]} for m in data.models]
    assert f"None of {len(data.models)} certainly changed" in text(replace(data, models=steady))
    once = [{**m, "verifications": m["verifications"][1:]} for m in data.models]
    assert "From one verification" not in text(replace(data, models=once))


def test_the_knee_is_named(data: ReportData, html: str) -> None:
    assert "verified knee" in words(html)
    assert "knee" not in text(replace(data, knee=None))


def test_what_the_models_have_in_common(data: ReportData) -> None:
    same = {key: {**values, "stage2.width": 24} for key, values in data.architectures.items()}
    latency = {m["id"]: m["measured"]["latency_ms"] for m in data.models}
    fastest_first = sorted(latency, key=lambda key: latency[key])
    for place, key in enumerate(fastest_first):
        same[key] = {**same[key], "stage1.width": 8 + place, "stage3.width": -place}
    said = text(replace(data, architectures=same))
    assert f"All {len(data.models)} have stage2 width 24." in said
    assert re.search(r"What grows with latency, strongest first: [^.]*stage1 width", said)
    assert re.search(r"What shrinks: [^.]*stage3 width", said)


@pytest.mark.parametrize("name", ["resnet50", "proxyless"])
def test_other_spaces(name: str) -> None:
    data, space = make_data(evaluations=30), get_space(name, resolutions=(64, 96))
    archs = dict(zip(data.architectures, space.sample(len(data.architectures), 0), strict=True))
    ids = [model["id"] for model in data.models]
    table = make_table(space)
    said = words_with_figures(
        replace(
            data,
            architectures={key: arch.values for key, arch in archs.items()},
            operators={key: operator_times(space, archs[key], table) for key in ids},
        )
    )
    assert "Where the time goes" in said
    assert "What the models are like" in said
    assert "resolution" in said


def test_a_budget_that_nothing_meets(data: ReportData) -> None:
    fastest = min(model["measured"]["latency_ms"] for model in data.models)
    said = text(replace(data, budgets_ms={0.01: None}))
    assert f"0.01 ms no model fits; the fastest takes {fastest:.3f} ms" in said
    assert "the most accurate model" in said  # what is looked into, where no budget chooses


def test_without_budgets_the_example_is_the_most_accurate(data: ReportData) -> None:
    said = words_with_figures(replace(data, budgets_ms={}))
    best = max(data.models, key=lambda model: model["validation_accuracy"])["id"]
    assert "Which model to take" not in said
    assert f'"models/{best}/model.onnx"' in said


@pytest.mark.parametrize("measured", [None, {"latency_ms": None, "latency_ci_ms": None}])
def test_models_that_were_not_measured(data: ReportData, measured: Any) -> None:
    said = words_with_figures(
        replace(data, models=[{**model, "measured": measured} for model in data.models])
    )
    assert "No model was measured" in said
    assert "nan" not in said.lower()
    key = data.budgets_ms[0.5]
    predicted = next(m for m in data.models if m["id"] == key)["predicted"]["latency_ms"]
    assert re.search(rf"0\.5 ms {key} \S+ % {predicted:.3f} ms predicted", said)


def test_one_model(data: ReportData) -> None:
    one = replace(data, models=data.models[:1], budgets_ms={}, evaluations=data.evaluations[:1])
    said = words_with_figures(one)
    assert "The model has" in said
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
        architectures={},
        operators={},
        budgets_ms={},
        hypervolume={},
        training=[],
        table={**data.table, "calibration": []},
        dataset={"classes": [], "images": {}},
        seconds={},
        knee=None,
    )
    said = text(bare)
    assert "The search ended without a model" in said
    assert "100 of them failed" in said
    assert "was not calibrated" in said
    assert "<svg" not in render(bare)


def test_a_calibration_without_held_out_networks_is_shown_as_not_judged(data: ReportData) -> None:
    quality = ("held_out", "macs_baseline")
    one, other = data.table["calibration"]
    missing = {name: value for name, value in one.items() if name not in quality}
    null = {**other, **dict.fromkeys(quality)}
    without_figures = replace(
        data,
        evaluations=data.evaluations.assign(accuracy=np.nan, predicted_accuracy=np.nan, status="failed"),
        models=[],
        architectures={},
        operators={},
        budgets_ms={},
        hypervolume={},
        training=[],
        knee=None,
    )
    shown = text(replace(without_figures, table={**data.table, "calibration": [missing, null]}))
    assert shown.count("not judged: no network was left") == 2


def test_no_predictions_and_no_random_search(data: ReportData) -> None:
    evaluations = data.evaluations.assign(predicted_accuracy=np.nan)
    said = words_with_figures(
        replace(data, evaluations=evaluations, hypervolume={"random": data.hypervolume["random"]})
    )
    assert "Is the predictor right?" not in said
    said = words_with_figures(replace(data, hypervolume={"linas": data.hypervolume["linas"]}))
    assert "random" not in said


def test_a_search_worse_than_random_says_so(data: ReportData) -> None:
    said = text(replace(data, hypervolume={"linas": [1.0, 2.0], "random": [2.0, 3.0]}))
    assert "did not reach the hypervolume of random search" in said


def test_unknown_numbers_are_dashes(data: ReportData) -> None:
    said = words_with_figures(first(data, test_accuracy=None, budget_ms=None))
    assert f"{data.models[0]['validation_accuracy']:.2f} % —" in said
    assert "nan" not in said.lower()


def test_latency_without_a_table_shows_macs(data: ReportData) -> None:
    operators = {key: [replace(o, ms=None) for o in found] for key, found in data.operators.items()}
    table = {name: value for name, value in data.table.items() if name not in ("operators", "calibration")}
    said = words_with_figures(replace(data, operators=operators, table=table, verdict=""))
    assert "Where the time goes" not in said
    assert "Share of MACs" in said
    assert "more of the MACs" in said
    assert "Each evaluated network was built and timed" in said


def test_write_report_leaves_whole_files_and_no_old_picture(
    data: ReportData, html: str, tmp_path: Path
) -> None:
    path = write_report(data, tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == html
    pictures = tmp_path / "figures"
    assert {p.name for p in pictures.iterdir()} == {f"{name}.png" for name in FIGURES}
    write_report(replace(data, training=[]), tmp_path)
    assert {p.stem for p in pictures.iterdir()} == FIGURES.keys() - {"training"}
