"""Experiment files."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.config import Experiment, load_config, parse_config, parse_override
from hwnas.errors import ConfigError

MINIMAL = {"name": "x", "data": {"name": "cluttered-digits"}, "space": {"name": "mobilenetv3"}}


def test_shipped_configs_are_valid() -> None:
    paths = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        assert isinstance(load_config(path), Experiment)


def test_unknown_key_is_refused_and_named() -> None:
    with pytest.raises(
        ConfigError, match=r"search\.evaluation: unknown key; known: strategy, algorithm, evaluations"
    ):
        parse_config({**MINIMAL, "search": {"evaluation": 3}})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"training": {"steps": 0}}, r"training\.steps: .*greater than or equal to 1 \(got 0\)"),
        ({"latency": {"budgets_ms": [0.5, -1]}}, r"latency\.budgets_ms: budgets are positive"),
        (
            {"latency": {"budgets_ms": [float("nan")]}},
            r"latency\.budgets_ms\.0: .* finite number \(got nan\)",
        ),
        ({"training": {"steps": True}}, r"training\.steps: true and false are no value for this"),
        ({"training": {"clip_value": float("inf")}}, r"training\.clip_value: .* finite number"),
        ({"export": {"max_accuracy_loss": -1}}, r"export\.max_accuracy_loss: .*greater than or equal to 0"),
        ({"export": {"bits": 4}}, r"export\.bits: unknown key; known: openvino, int8, max_accuracy_loss"),
        ({"name": "n" * 300}, r"name: String should have at most 100 characters \(got 'nnn"),
        ({"latency": {"further_tables": {"n" * 300: "p"}}}, "a device's name has at most 100 characters"),
        (
            {"search": {"evaluations": 10**21}},
            r"search\.evaluations: .*less than or equal to 10000000 \(got 1",
        ),
        (
            {"training": {"batch_size": 10**21}},
            r"training\.batch_size: whole numbers are at most 1,000,000,000",
        ),
        ({"latency": {"threads": 5000}}, r"latency\.threads: .*less than or equal to 1024"),
        ({"seed": 2**63}, "seed: .*less than 9223372036854775808"),
        ({"name": "../up"}, r"name: .*pattern.*\(got '\.\./up'\)"),
        ({"data": {}}, r"data\.name: Field required"),
        (
            {
                "search": {"objectives": ["accuracy", "latency_ms@pi"]},
                "latency": {"further_tables": {"p": "p"}},
            },
            r"x: search: 'latency_ms@pi' is no metric of this experiment; .* latency_ms@p \(did you",
        ),
        (
            {"search": {"objectives": ["latency_ms", "accuracy"]}},
            r"search\.objectives: objectives are accuracy, then others, each once",
        ),
        ({"search": {"objectives": ["accuracy", "macs", "macs"]}}, "then others, each once"),
        ({"search": {"objectives": []}}, "objectives are accuracy"),
        ({"latency": {"further_tables": {"../pi": "p"}}}, r"further_tables: a device's name is of letters"),
        (
            {"search": {"objectives": ["accuracy", "macs"]}},
            r"x: latency\.budgets_ms: give one, or latency_ms as one of search\.objectives$",
        ),
        (
            {
                "search": {"objectives": ["accuracy"]},
                "latency": {"source": "measured", "budgets_ms": [1]},
            },
            "source: measured needs latency_ms as one of search.objectives$",
        ),
        ({"search": {"constraints": {"flops": {"upper": 3}}}}, "search: 'flops' is no metric"),
        ({"search": {"constraints": {"latency_ms": {"upper": 3}}}}, "bounded by latency.budgets_ms"),
        ({"search": {"constraints": {"macs": {}}}}, r"search\.constraints\.macs: give an upper or a lower"),
        ({"search": {"constraints": {"macs": {"upper": 1, "lower": 2}}}}, "lower is above upper"),
        ({"search": {"constraints": {"macs": {"max": 1}}}}, "macs.max: unknown key; known: upper, lower"),
    ],
)
def test_wrong_values_are_named(section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**MINIMAL, **section}, "x")


def test_overrides_reach_any_field(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ndata: {name: imagefolder}\nspace: {name: mobilenetv3}\n")
    overrides = dict(
        map(parse_override, ["search.evaluations=7", "data.path=/tmp/a b", "latency.budgets_ms=[2, 1]"])
    )
    config = load_config(path, overrides)
    assert config.search.evaluations == 7
    assert config.data.parameters == {"path": "/tmp/a b"}
    assert config.latency.budgets_ms == (1.0, 2.0)


@pytest.mark.parametrize("text", ["", "a", "=3", "a=[1", "name.sub=1"])
def test_bad_overrides(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ndata: {name: imagefolder}\nspace: {name: mobilenetv3}\n")
    with pytest.raises(ConfigError, match="--set"):
        load_config(path, dict([parse_override(text)]))


def test_a_key_given_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ntraining: {steps: 3}\ntraining: {steps: 4}\n")
    with pytest.raises(ConfigError, match="'training' is given twice"):
        load_config(path)


@pytest.mark.parametrize(
    "text", ["name: 2024-13-45", "[1, 2]", "a: [", "!!python/object/apply:os.system ['true']", ""]
)
def test_files_that_are_no_experiment(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_config(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml")


def test_a_training_strategy_is_a_name_or_has_parameters() -> None:
    given = {"name": "attentive", "mode": "best", "candidates": 4}
    for strategy, expected in (("uniform", {"name": "uniform"}), (given, given)):
        found = parse_config({**MINIMAL, "training": {"strategy": strategy}}).training.strategy
        assert found.model_dump() == expected
    assert parse_config(MINIMAL).training.strategy.name == "sandwich"
    with pytest.raises(ConfigError, match=r"training\.loss: .*'kd' or 'alpha' \(got 'kl'\)"):
        parse_config({**MINIMAL, "training": {"loss": "kl"}})


@pytest.mark.parametrize(
    ("value", "cores"),
    [("4-7", (4, 5, 6, 7)), ("0,2-3", (0, 2, 3)), (3, (3,)), ([5, 1, 1], (1, 5)), (None, None)],
)
def test_cores_are_numbers_or_a_list_as_that_of_taskset(value: object, cores: tuple[int, ...] | None) -> None:
    assert parse_config({**MINIMAL, "latency": {"cores": value}}).latency.cores == cores


@pytest.mark.parametrize(
    "value", [True, "x", "7-4", "", "0-99999", "1;2", [], [-1], [9000], ["a"], [[1]], 1.5, {"a": 1}]
)
def test_what_names_no_cores_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"latency\.cores"):
        parse_config({**MINIMAL, "latency": {"cores": value}})
