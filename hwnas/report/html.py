"""report.html: one page that says what was found and how far it can be trusted. It loads nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from hwnas import text
from hwnas.export.card import class_table
from hwnas.latency.table import size_text
from hwnas.report.data import (
    OperatorTime,
    ReportData,
    accuracy_agreement,
    by_stage,
    chosen_model,
    evaluations_to_match_random,
    in_common,
    latency_agreement,
    models_frame,
    repeats,
    thinned,
    timed_model,
)
from hwnas.report.drawing import cost, describe, draw_network
from hwnas.report.figures import FIGURES, to_png, to_svg
from hwnas.store import remove_file, write_bytes, write_text

HERE = Path(__file__).parent
SHOWN_CLASSES = 30
# Of an entry of pareto.json, what has a place of its own on the page.
PLACED = {
    "id", "architecture", "validation_accuracy", "test_accuracy", "predicted", "measured", "macs", "params",
    "budget_ms", "status", "precision", "quantized", "finetuned", "verifications", "class_accuracy",
}  # fmt: skip


def write_report(data: ReportData, directory: str | Path) -> Path:
    """Write figures/*.png and report.html into a run's folder; returns the path of report.html.

    Each file is written whole or not at all; the picture of a figure that the run does not have is removed.
    StoreError if something cannot be written.
    """
    directory, data = Path(directory), printable(data)
    figures = drawn_figures(data)
    for name in FIGURES:
        path = directory / "figures" / f"{name}.png"
        if name in figures:
            write_bytes(path, to_png(figures[name]))
        else:
            remove_file(path)
    write_text(directory / "report.html", render(data, figures))
    return directory / "report.html"


def drawn_figures(data: ReportData) -> dict[str, Figure]:
    """Draw the figures that a run has, by name."""
    drawn = {name: draw(data) for name, draw in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def printable(data: ReportData) -> ReportData:
    """The data with a replacement character for each that is not to be printed, in all of its text."""
    cleaned = {f.name: _printable(getattr(data, f.name)) for f in fields(data)}
    return replace(data, **cleaned)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return text.printable(value)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_printable, value))
    if isinstance(value, OperatorTime):
        return OperatorTime(**_printable(vars(value)))
    if isinstance(value, pd.DataFrame):
        return value.map(_printable).rename(columns=_printable)
    return value


def render(data: ReportData, figures: Mapping[str, Figure] | None = None) -> str:
    """Return the report as one HTML page, light and dark, that refers to no other files than the models'.

    All text is escaped. Without its script the page shows everything.

    Args:
        data: The facts of the run.
        figures: Its figures by name; by default they are drawn from the data.

    Returns:
        The text of the page.
    """
    data = printable(data)
    figures = drawn_figures(data) if figures is None else figures
    rows = models_frame(data.models).to_dict("records")
    models = [_model(data, {str(name): value for name, value in row.items()}) for row in rows]
    by_id = {model["id"]: model for model in models}
    evaluated = {row["id"]: row for row in thinned(data.evaluations).to_dict("records")}
    tips = {
        key: _tip(key, values, by_id.get(key), evaluated.get(key))
        for key, values in data.architectures.items()
    }
    links = {model["id"]: model["link"] for model in models}
    key, timed = chosen_model(data), timed_model(data)
    return _ENVIRONMENT.get_template("report.html.j2").render(
        data=data,
        models=models,
        chosen=None if key is None else by_id[key],
        timed=None if timed is None else by_id[timed],
        further=list(dict.fromkeys(name for model in models for name in model["further"])),
        repeated=_repeated(data),
        choices=[(b, None if key is None else by_id[key]) for b, key in sorted(data.budgets_ms.items())],
        measured=sum(_known(model["measured_ms"]) for model in models),
        figures={name: Markup(to_svg(figure, name, tips, links)) for name, figure in figures.items()},
        latency=latency_agreement(data),
        accuracy=accuracy_agreement(data),
        common=in_common(data) if models else None,
        matched=evaluations_to_match_random(data),
        failed=int((data.evaluations["status"] == "failed").sum()),
        sections=_sections(data),
        facts=_flat(data.environment),
        config=yaml.safe_dump(_plain(data.config), sort_keys=False, allow_unicode=True),
        style=Markup(_STYLE),
        script=Markup(_SCRIPT),
        script_digest=Markup(_DIGEST),
    )


def _model(data: ReportData, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of a model: its row of `models_frame`, and all that is shown on its card."""
    key = row["id"]
    entry = next(model for model in data.models if model["id"] == key)
    operators = data.operators[key]
    time, macs = sum(cost(o) for o in operators), sum(o.macs for o in operators)
    grid: dict[str, dict[str, list[Any]]] = {}
    for (stage, trait), values in by_stage(data.architectures[key]).items():
        grid.setdefault(stage, {})[trait] = values
    whole = grid.pop("", {})
    predicted = entry["predicted"]
    more = {name: value for name, value in entry.items() if name not in PLACED}
    if entry.get("int8"):
        more["int8"] = {name: value for name, value in entry["int8"].items() if name != "class_accuracy"}
    return {
        **row,
        "link": f"#model-{quote(key)}",
        "knee": key == data.knee,
        "int8": entry.get("int8"),
        "made": _made(entry),
        "verifications": [
            {**v, "drift": None if v["drift"] is None else 100 * v["drift"], "on": v["device"]["name"]}
            for v in entry.get("verifications", ())
        ],
        "further": {metric.partition("@")[2]: ms for metric, ms in predicted.items() if "@" in metric},
        "whole": whole,
        "stages": grid,
        "traits": list(dict.fromkeys(trait for cells in grid.values() for trait in cells)),
        "sum_ms": time if operators and all(o.ms is not None for o in operators) else None,
        "operators": [
            {
                **asdict(o),
                "what": describe(o),
                "share": 100 * cost(o) / (time or 1),
                "macs_share": 100 * o.macs / (macs or 1),
            }
            for o in operators
        ],
        "drawing": Markup(draw_network(operators)) if operators else "",
        "by_class": class_table(entry),
        "more": _flat(_without_none(more)),
        "files": data.files[key],
    }


def _made(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a model was made of, and what became better; None if it is as the search found it."""
    if "quantized" in entry:
        made = entry["quantized"]
        low, high = made["speedup_ci"]
        text = f"{made['speedup']:.2f} times as fast (95 %: {low:.2f}–{high:.2f}), calibrated by "
        text += made["calibration"]
        if made["excluded"]:
            plural = "s" if len(made["excluded"]) > 1 else ""
            text += f", {len(made['excluded'])} operator{plural} in single precision"
    elif "finetuned" in entry:
        made = entry["finetuned"]
        low, high = made["gain_ci"]
        text = f"{made['gain']:+.2f} points of validation accuracy (95 %: {low:+.2f} to {high:+.2f}) by "
        text += f"{made['epochs']} epochs"
    else:
        return None
    return {"of": made["from"], "text": text}


def _repeated(data: ReportData) -> dict[str, Any] | None:
    """What verifications say of each other; None if no model has several on the run's device."""
    found = repeats(data)
    if found.empty:
        return None
    last = found.groupby("id").last()
    moved = last["drift"].dropna()
    return {
        "times": int(found.groupby("id").size().max()),
        "first": str(found["date"].min().date()),
        "last": str(found["date"].max().date()),
        "models": len(last),
        "moved": len(moved),
        "median": 100 * float(moved.median()) if len(moved) else 0.0,
        "disturbed": int(last["disturbed"].sum()),
    }


def _tip(
    key: str,
    values: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    evaluated: Mapping[Any, Any] | None,
) -> str:
    """What a point of a figure stands for, in a few lines."""
    lines = [key]
    if model is not None:
        how = "measured" if _known(model["measured_ms"]) else "predicted"
        lines.append(f"{_number(model['validation'], 2, ' %')}, {_ms(model['latency_ms'])} {how}")
        kind = "" if model["kind"] == "model" else f", {model['kind']}"
        lines.append(f"{model['status']}{kind}{', knee' if model['knee'] else ''}")
    elif evaluated is not None:
        over = "" if evaluated["feasible"] else ", over budget"
        accuracy = _number(evaluated["accuracy"], 2, " %")
        lines.append(f"{accuracy}, {_ms(evaluated['latency_ms'])} predicted{over}")
    kinds: dict[str, list[str]] = {}
    for (_, trait), chosen in by_stage(values).items():
        kinds.setdefault(trait, []).append(" ".join(map(_value, chosen)))
    lines += [f"{trait} {' · '.join(chosen)}" for trait, chosen in kinds.items()]
    return "\n".join(lines[:12])


def _sections(data: ReportData) -> dict[str, dict[str, str]]:
    """The facts of the run by title; a fact that it does not have is left out."""
    device, runtime, protocol = data.table["device"], data.table["runtime"], data.table["protocol"]
    training, search = data.config.get("training", {}), data.config.get("search", {})
    images, classes = data.dataset["images"], list(data.dataset["classes"])
    names = ", ".join(map(str, classes[:SHOWN_CLASSES]))
    more = f" and {len(classes) - SHOWN_CLASSES} more" if len(classes) > SHOWN_CLASSES else ""

    def share(name: str) -> str | None:
        return f"{100 * protocol[name]:.1f} %" if name in protocol else None

    found: dict[str, dict[str, Any]] = {
        "Device": {
            "device": device.get("name"),
            "processor": device.get("cpu"),
            "cores": device.get("cores"),
            "runtime": f"{runtime['name']} {runtime['version']}",
            "provider": runtime.get("provider"),
            "threads": runtime.get("threads"),
            "batch size": runtime.get("batch_size"),
            "precision": runtime.get("precisions"),
        },
        "Latency": {
            "statistic": protocol.get("statistic"),
            "rounds": protocol.get("rounds"),
            "runs of a visit": f"{protocol['kept_runs']} kept after {protocol['warmup_runs']} discarded"
            if "kept_runs" in protocol
            else None,
            "first, cold run": f"takes {protocol['cold_ratio']:.3g} times as long"
            if protocol.get("cold_ratio")
            else None,
            "runs preempted": share("preempted"),
            "core taken by other work": share("taken"),
            "noise": protocol.get("noise") or ("none seen" if "noisy" in protocol else None),
            "time to measure": _duration(protocol["seconds"]) if protocol.get("seconds") else None,
            "verdict": data.verdict or None,
        },
        "Data": {
            **data.config.get("data", {}),
            "images": ", ".join(f"{n} {split}" for split, n in images.items()),
            f"{len(classes)} classes": names + more,
        },
        "Training": {
            name.replace("_", " "): value.get("name") if isinstance(value, Mapping) else value
            for name, value in training.items()
        },
        "Search": {
            **{name.replace("_", " "): value for name, value in search.items() if value != {}},
            "seed of the run": data.config.get("seed"),
        },
    }
    return {title: _flat(_without_none(facts)) for title, facts in found.items()}


def _without_none(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _plain(value: Any) -> Any:
    """Mappings and sequences as dicts and lists, for YAML."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings, and lists of them, as one, by dotted key; other lists as text."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        items = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif items and all(isinstance(item, Mapping) for item in items):
            flat |= _flat({str(n): item for n, item in enumerate(items, 1)}, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = ", ".join(map(_value, items))
    return flat


# ---- numbers as text; what is not known is a dash ------------------------------------------------


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _unbroken(text: str) -> str:
    """No line ends between a number and its unit."""
    return re.sub(r"(?<=\d) (?=%|px\b|ms\b|[KMG]\b|points)", "\u00a0", text)


def _number(value: float | None, decimals: int = 1, unit: str = "") -> str:
    return _unbroken(f"{value:.{decimals}f}{unit}") if value is not None and _known(value) else "—"


def _digits(value: float) -> str:
    """Three significant digits."""
    value = float(f"{value:.3g}")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def _value(value: Any) -> str:
    """A value of a choice, a setting or a fact."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _ms(value: float) -> str:
    return _unbroken(f"{_digits(value)} ms") if _known(value) else "—"


def _count(value: float) -> str:
    """Three significant digits with K, M or G."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if value >= factor:
            return _unbroken(f"{_digits(value / factor)}{unit}")
    return f"{value:.0f}"


def _moment(text: str) -> str:
    """A date and time of ISO 8601, easier to read; any other text as it is."""
    return re.sub(r"^([\d-]{10})T([\d:]{5,8})\+00:00$", r"\1 \2 UTC", str(text))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(HERE),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "number": _number,
    "digits": _digits,
    "ms": _ms,
    "count": _count,
    "moment": _moment,
    "size_text": size_text,
    "unbroken": _unbroken,
    "value": _value,
    "duration": _duration,
}
_ENVIRONMENT.tests["known"] = _known

_STYLE = (HERE / "report.css").read_text(encoding="utf-8")
_SCRIPT = (HERE / "report.js").read_text(encoding="utf-8")
_DIGEST = "sha256-" + base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
