from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.report.data import (
    ReportData,
    accuracy_agreement,
    agreement,
    by_stage,
    chosen_model,
    evaluations_to_match_random,
    in_common,
    latency_agreement,
    models_frame,
    operator_times,
    split_name,
    traits_of_models,
)
from tests.report.conftest import make_space, make_table


def test_agreement_by_hand() -> None:
    found = agreement([1.1, 1.8, 3.0, np.nan, 9.0], [1.0, 2.0, 3.0, 4.0, np.nan], relative=True)
    assert found is not None
    assert found.n == 3
    assert found.median_error == pytest.approx(10)
    assert found.mean_error == pytest.approx(20 / 3)
    assert found.kendall_tau == pytest.approx(1)
    points = agreement([90, 95], [91, 93], relative=False)
    assert points is not None
    assert points.median_error == pytest.approx(1.5)


def test_agreement_of_too_little() -> None:
    assert agreement([], [], relative=True) is None
    assert agreement([np.nan], [1.0], relative=True) is None
    one = agreement([2.0], [1.0], relative=True)
    assert one is not None
    assert one.median_error == 100
    assert np.isnan(one.kendall_tau)
    same = agreement([1.0, 1.0], [1.0, 2.0], relative=False)
    assert same is not None
    assert np.isnan(same.kendall_tau)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20, unique=True))
def test_a_perfect_prediction_has_no_error(values: list[float]) -> None:
    found = agreement(values, values, relative=True)
    assert found is not None
    assert (found.median_error, found.mean_error) == (0, 0)
    assert found.kendall_tau == pytest.approx(1)


def test_models_are_sorted_by_what_is_known_of_their_latency(data: ReportData) -> None:
    first, second = data.models[:2]
    unknown = {**second, "id": "late", "predicted": {"accuracy": None, "latency_ms": 99.0}}
    for measured in (None, {"latency_ms": None, "latency_ci_ms": None}):
        frame = models_frame([{**unknown, "measured": measured}, first])
        assert frame["id"].tolist() == [first["id"], "late"]
        assert frame["latency_ms"].tolist() == [first["measured"]["latency_ms"], 99.0]
        assert np.isnan(frame.loc[1, ["measured_ms", "ci_low", "ci_high"]].astype(float)).all()
    assert models_frame([]).empty


def test_only_what_was_measured_is_compared(data: ReportData) -> None:
    unmeasured = [{**model, "measured": None} for model in data.models[1:]]
    found = latency_agreement(replace(data, models=[data.models[0], *unmeasured]))
    assert found is not None
    assert found.n == 1
    assert latency_agreement(replace(data, models=unmeasured)) is None
    predicted = accuracy_agreement(data)
    assert predicted is not None
    seen = data.evaluations
    assert predicted.n == (seen["predicted_accuracy"].notna() & (seen["status"] == "ok")).sum()


def test_evaluations_to_match_random(data: ReportData) -> None:
    traces = {"linas": [1.0, 4.0, 6.0], "random": [2.0, 3.0, 5.0]}
    assert evaluations_to_match_random(replace(data, hypervolume=traces)) == 3
    assert evaluations_to_match_random(replace(data, hypervolume={**traces, "linas": [1.0, 2.0]})) is None
    assert evaluations_to_match_random(replace(data, hypervolume={"linas": [1.0]})) is None


def test_the_chosen_model_is_that_of_the_loosest_budget_met(data: ReportData) -> None:
    tight, loose = data.models[0]["id"], data.models[1]["id"]
    assert chosen_model(replace(data, budgets_ms={1.0: loose, 0.5: tight, 2.0: None})) == loose
    best = max(data.models, key=lambda model: model["validation_accuracy"])["id"]
    assert chosen_model(replace(data, budgets_ms={0.1: None})) == best
    assert chosen_model(replace(data, budgets_ms={}, models=[])) is None


def test_operator_times_are_those_of_the_table() -> None:
    space = make_space()
    table, arch = make_table(space), space.sample(1, 0)[0]
    found = operator_times(space, arch, table)
    assert sum(o.ms or 0.0 for o in found) == pytest.approx(table.sum_ms(space, [arch])[0])
    assert sum(o.macs for o in found) == space.macs([arch])[0]
    assert [o.slot for o in found] == list(space.lower(arch))
    assert {o.ms for o in operator_times(space, arch, None)} == {None}


def test_names_of_choices_say_stage_and_trait() -> None:
    assert split_name("stage1.layer2.kernel") == ("stage1", "kernel")
    assert split_name("stage1.depth") == ("stage1", "depth")
    assert split_name("resolution") == ("", "resolution")
    assert split_name("layer3") == ("", "layer3")
    values = {"s.depth": 2, "s.layer1.kernel": 3, "s.layer2.kernel": 5, "resolution": 24}
    assert by_stage(values) == {("s", "depth"): [2], ("s", "kernel"): [3, 5], ("", "resolution"): [24]}


def test_traits_are_means_of_layers_fastest_model_first(data: ReportData) -> None:
    slow, fast = data.models[-1]["id"], data.models[0]["id"]
    architectures = {
        slow: {"s.layer1.kernel": 3, "s.layer2.kernel": 5, "se": True, "op": "a"},
        fast: {"s.layer1.kernel": 3, "se": False, "op": "b", "more": 1},
    }
    found = traits_of_models(
        replace(data, models=[data.models[-1], data.models[0]], architectures=architectures)
    )
    assert found["s", "kernel"].to_dict() == {fast: 3.0, slow: 4.0}
    assert list(found["s", "kernel"].index) == [fast, slow]
    assert found["", "se"].tolist() == ["False", "True"]
    assert found["", "op"].tolist() == ["b", "a"]
    assert found["", "more"].isna().tolist() == [False, True]


def test_what_is_in_common(data: ReportData) -> None:
    models = sorted(data.models, key=lambda m: m["measured"]["latency_ms"])[:6]
    architectures = {
        model["id"]: {"same": 24, "text": "k5", "up": i, "down": -i, "mixed": (-1) ** i, "deep": 0}
        for i, model in enumerate(models)
    }
    del architectures[models[0]["id"]]["deep"]  # what one does not have, not all have
    found = in_common(replace(data, models=models, architectures=architectures))
    assert found.same == {("", "same"): 24, ("", "text"): "k5"}
    assert found.grows == {("", "up"): pytest.approx(1)}
    assert found.shrinks == {("", "down"): pytest.approx(-1)}
    few = in_common(replace(data, models=models[:3], architectures=architectures))
    assert not few.grows
    assert not few.shrinks
