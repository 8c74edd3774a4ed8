from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import DeviceError, TableError, TimingError
from hwnas.latency import profiling
from hwnas.latency.campaign import (
    FIRST_ROUNDS,
    LEAST_ROUNDS,
    Chunk,
    measure_chosen,
    measure_in_passes,
    pass_visits,
)
from hwnas.latency.measure import Plan
from hwnas.latency.profiling import _chunks, profile, subject_of, table_of
from hwnas.latency.table import LatencyTable
from hwnas.progress import silent
from tests.latency.fakes import FakeDevice, PinnedDevice, small_space, weight_cost

SPACE = small_space()
NETWORKS = {"calibration_networks": 3, "held_out_networks": 2}
SUBJECT = subject_of(SPACE, "fp32", 3, 2, 0)
INDEX = {operator: i for i, operator in enumerate(SUBJECT.operators)}
CHAINS = [tuple(INDEX[operator] for operator in SPACE.operators(arch)) for arch in SPACE.sample(400, 0)]


def test_passes_add_up_to_the_rounds_asked_for():
    device = FakeDevice()
    table = profile(SPACE, device, rounds=12, **NETWORKS)
    assert (table.protocol["rounds"], table.protocol["stopped"]) == (12, "rounds")
    assert 2 * table.protocol["passes"] == len(device.plans) >= 4  # one chunk of operators, one of networks


class Refusing(FakeDevice):
    """A device that cannot run the second model of a list."""

    def measure(self, models, plan, progress=silent):
        raise DeviceError("it fails", 1)


def test_the_error_of_a_chosen_model_has_its_index_in_the_whole_list():
    with pytest.raises(DeviceError) as caught:
        measure_chosen([b"e", b"g"], (4, 6), 9, Refusing(), Plan(((0, 1),)), silent)
    assert caught.value.model == 6


def campaign(half_width, **options):
    return measure_in_passes(
        SUBJECT.models, SUBJECT.chunks, FakeDevice(), half_width, seed=SUBJECT.seed, **options
    )


def test_rounds_go_on_until_the_result_is_precise():
    early = campaign(lambda passes: 0.0)
    assert early.stopped == "precision"
    assert early.rounds == LEAST_ROUNDS
    assert len(early.passes) >= 2
    seen = []
    never = campaign(lambda passes: seen.append(len(passes)) or math.inf)
    assert (never.stopped, never.rounds) == ("patience", LEAST_ROUNDS)
    assert seen == sorted(set(seen))


def test_patience_buys_rounds_where_they_are_cheap(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("hwnas.latency.campaign.time.monotonic", lambda: next(clock))  # a second a look
    patient = campaign(lambda passes: math.inf, patience_s=100)
    assert patient.stopped == "patience"
    assert patient.seconds >= 100 > sum(p.seconds for p in patient.passes[: -2 * patient.chunks])
    assert patient.rounds > LEAST_ROUNDS
    assert campaign(lambda passes: math.inf, rounds=5, patience_s=100).rounds == 5


def test_an_exact_device_is_done_soon():
    device = FakeDevice()
    protocol = profile(SPACE, device, **NETWORKS).protocol
    assert protocol["stopped"] == "precision"
    assert protocol["half_width"] == 0


def test_no_pass_begins_after_the_time_limit():
    found = campaign(lambda passes: math.inf, time_limit_s=1e-9)
    assert (found.stopped, len(found.passes), found.rounds) == ("time limit", found.chunks, FIRST_ROUNDS)
    with pytest.raises(DeviceError, match=r"models could be opened; allow more time"):
        profile(SPACE, "onnxruntime", time_limit_s=1e-6, **NETWORKS)


def test_a_limit_that_ends_too_soon_says_so():
    device = CutShort()
    with pytest.raises(
        DeviceError, match=r"time limit of 1e-09 s.* models were timed less than twice; allow"
    ):
        measure_in_passes(
            SUBJECT.models, SUBJECT.chunks, device, lambda passes: math.inf, seed=0, time_limit_s=1e-9
        )


class CutShort(FakeDevice):
    """Out of time after the first visits of a pass."""

    def measure(self, models, plan, progress=silent):
        return super().measure(models, replace(plan, visits=plan.visits[:3]), progress)


# ---- resuming -----------------------------------------------------------------------------------


def interrupted(checkpoint, device, passes):
    """A profile that is interrupted when so many passes are finished."""
    calls = []

    def interrupt(done, total, text=""):
        calls.append(text)
        if len(calls) > passes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(SPACE, device, rounds=12, checkpoint=checkpoint, progress=interrupt, **NETWORKS)


def noisy_device():
    """A device whose times depend on the visits alone, so that a pass measured again is the same."""

    def disturb(times):
        generator = np.random.default_rng(int(times.sum()) % 2**32)
        return (times * generator.normal(1, 0.02, times.shape)).astype(np.int64)

    return FakeDevice(disturb=disturb)


def without_seconds(table):
    return replace(table, protocol={k: v for k, v in table.protocol.items() if k != "seconds"})


@pytest.mark.usefixtures("still_clock")
def test_an_interrupted_profile_goes_on(tmp_path):
    whole = profile(SPACE, noisy_device(), rounds=12, **NETWORKS)
    folder = tmp_path / "unfinished"
    interrupted(folder, noisy_device(), 1)
    assert len(list(folder.iterdir())) == 1
    device = noisy_device()
    table = profile(SPACE, device, rounds=12, checkpoint=folder, **NETWORKS)
    assert len(device.plans) == 2 * table.protocol["passes"] - 1
    assert without_seconds(table) == without_seconds(whole)


def test_passes_of_something_else_are_not_taken_over(tmp_path):
    other = noisy_device()
    interrupted(tmp_path, other, 1)
    for options in ({"rng": 1}, {"device": FakeDevice(name="other")}):
        device = options.pop("device", noisy_device())
        table = profile(SPACE, device, rounds=12, checkpoint=tmp_path, **NETWORKS, **options)
        assert len(device.plans) == 2 * table.protocol["passes"]


@pytest.mark.usefixtures("still_clock")
@pytest.mark.parametrize("place", [0, 40, -5])
def test_a_damaged_pass_is_measured_again(tmp_path, place):
    whole = profile(SPACE, noisy_device(), rounds=12, checkpoint=tmp_path, **NETWORKS)
    first = min(tmp_path.iterdir())
    data = bytearray(first.read_bytes())
    data[place] ^= 0xFF
    first.write_bytes(bytes(data))
    device = noisy_device()
    table = profile(SPACE, device, rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert len(device.plans) == 2 * table.protocol["passes"]
    assert without_seconds(table) == without_seconds(whole)


# ---- cores --------------------------------------------------------------------------------------


def test_all_passes_run_on_the_same_cores_and_the_table_names_them(tmp_path):
    device = PinnedDevice(4, 5, 6)
    table = profile(SPACE, device, rounds=12, **NETWORKS)
    assert [plan.cores for plan in device.plans] == [(), *[(4,)] * (len(device.plans) - 1)]
    assert table.protocol["cores"] == [4]
    assert "threads 1 on cores 4, fp32" in table.summary()
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").protocol["cores"] == [4]
    assert profile(SPACE, FakeDevice(), rounds=4, **NETWORKS).protocol["cores"] is None


def test_a_resumed_profile_runs_on_the_cores_of_its_kept_passes(tmp_path):
    interrupted(tmp_path, PinnedDevice(5), 1)
    device = PinnedDevice(4, 5, 6)
    table = profile(SPACE, device, rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert [plan.cores for plan in device.plans] == [(5,)] * (2 * table.protocol["passes"] - 1)
    assert table.protocol["cores"] == [5]


def test_kept_passes_are_measured_again_if_their_cores_may_not_be_used_any_more(tmp_path, caplog):
    interrupted(tmp_path, PinnedDevice(5), 2)
    device = PinnedDevice(6)
    table = profile(SPACE, device, rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert "2 kept passes ran on cores 5, which are no longer available" in caplog.text
    assert "measured again on cores 6" in caplog.text
    assert [plan.cores for plan in device.plans[:3]] == [(5,), (), (6,)]
    assert len(device.plans) == 1 + 2 * table.protocol["passes"]
    assert table.protocol["cores"] == [6]


def test_kept_passes_without_cores_are_taken_over(tmp_path):
    """Older versions did not keep the cores."""
    interrupted(tmp_path, FakeDevice(), 1)
    device = PinnedDevice(4, 5, 6)
    table = profile(SPACE, device, rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert [plan.cores for plan in device.plans[:3]] == [(), (4,), (4,)]
    assert table.protocol["cores"] == [4]


def test_cores_that_change_on_the_way_end_a_profile_that_can_be_repeated(tmp_path):
    device = PinnedDevice(5)

    def taken_away(done, total, text=""):
        if len(device.plans) == 2:
            device.available = [6]

    with pytest.raises(
        DeviceError, match=r"began on cores 5, which are no longer available.*on cores 6.*measure again"
    ):
        profile(SPACE, device, rounds=12, checkpoint=tmp_path, progress=taken_away, **NETWORKS)
    table = profile(SPACE, device, rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert table.protocol["cores"] == [6]


# ---- clocks -------------------------------------------------------------------------------------


def clock(*zeros):
    """A device with so many readings of 0 ns at the beginning of each pass, in the order of the passes."""
    counts = iter(zeros)

    def disturb(times):
        disturbed = times.copy()
        disturbed.flat[: next(counts, 0)] = 0
        return disturbed

    return FakeDevice(disturb=disturb)


def test_one_impossible_reading_is_dropped_and_counted_in_the_table(tmp_path):
    table = profile(SPACE, clock(1), rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert table.protocol["dropped_readings"] == 1
    assert table.operators == profile(SPACE, FakeDevice(), rounds=12, **NETWORKS).operators
    assert "1 impossible clock readings were dropped" in table.summary()
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").protocol["dropped_readings"] == 1


def test_a_pass_of_a_broken_clock_is_not_kept(tmp_path):
    with pytest.raises(TimingError, match="measure again"):
        profile(SPACE, clock(0, 40), rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert len(list(tmp_path.iterdir())) == 1
    device = FakeDevice()
    table = profile(SPACE, device, rounds=12, checkpoint=tmp_path, **NETWORKS)
    assert len(device.plans) == 2 * table.protocol["passes"] - 1
    assert table.protocol["dropped_readings"] == 0


def test_a_kept_pass_of_a_broken_clock_is_measured_again(tmp_path, monkeypatch):
    """Older versions kept such passes."""
    with monkeypatch.context() as patch:
        patch.setattr("hwnas.latency.campaign.check_clock", lambda passes: None)
        measure_in_passes(
            SUBJECT.models,
            SUBJECT.chunks,
            clock(0, 40),
            lambda passes: 0.0,
            seed=SUBJECT.seed,
            rounds=4,
            checkpoint=tmp_path,
        )
    assert len(list(tmp_path.iterdir())) == 4
    device = FakeDevice()
    profile(SPACE, device, rounds=4, checkpoint=tmp_path, **NETWORKS)
    assert len(device.plans) == 3


def test_passes_that_make_no_table_are_not_kept(tmp_path):
    """The message says to profile again, which the kept passes would only repeat."""
    upside_down = FakeDevice(cost=lambda model: 10**9 // (1 + weight_cost(model)))
    with pytest.raises((DeviceError, TableError), match="profile again"):
        profile(SPACE, upside_down, rounds=4, checkpoint=tmp_path, **NETWORKS)
    assert not list(tmp_path.iterdir())
    assert profile(SPACE, FakeDevice(), rounds=4, checkpoint=tmp_path, **NETWORKS).operators


# ---- chunks -------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(30, 200))
def test_chunks_hold_all_models_and_no_more_than_may_be_open(limit):
    subject = SUBJECT
    chunks = _chunks(CHAINS, len(subject.operators), subject.models, limit)
    assert all(len(chunk.models) <= limit for chunk in chunks)
    assert {model for chunk in chunks for model in chunk.models} == set(range(len(subject.models)))
    first = subject.first_network
    assert all((chunk.models[0] >= first) == (chunk.models[-1] >= first) for chunk in chunks)
    assert all(subject.empty in chunk.models for chunk in chunks if chunk.models[0] < first)
    for chunk in chunks:
        visits = pass_visits(chunk, 1, 0, 0)
        assert {place for visit in visits for place in visit} == set(range(len(chunk.models)))


def test_chunks_hold_no_more_bytes_than_may_be_open(monkeypatch):
    subject = SUBJECT
    limit = sum(map(subject.models.size, range(len(subject.models)))) // 4
    monkeypatch.setattr(profiling, "OPEN_BYTES", limit)
    chunks = _chunks(CHAINS, len(subject.operators), subject.models)
    assert len(chunks) > 2
    assert all(sum(map(subject.models.size, chunk.models)) <= limit for chunk in chunks)
    assert {model for chunk in chunks for model in chunk.models} == set(range(len(subject.models)))


def test_chunks_give_the_table_that_one_gives():
    subject = subject_of(SPACE, "fp32", 12, 12, 0)
    chunks = _chunks(CHAINS, len(subject.operators), subject.models, 60)
    assert len(chunks) > 2
    device = FakeDevice()
    tables = []
    for parts in (subject.chunks, chunks):
        subject = replace(subject, chunks=parts)
        found = measure_in_passes(
            subject.models, parts, device, lambda passes: 0.0, seed=subject.seed, rounds=4
        )
        tables.append(table_of(subject, found, device.identity))
    assert tables[0].operators.keys() == tables[1].operators.keys()
    for key, entry in tables[0].operators.items():
        assert tables[1].operators[key].ms == pytest.approx(entry.ms)


def test_a_chunk_draws_its_visits_from_the_number_of_the_pass():
    chunk = Chunk((3, 5), lambda generator: [(int(generator.choice([3, 5])),) for _ in range(20)])
    assert pass_visits(chunk, 2, 0, 1) == pass_visits(chunk, 2, 0, 1) != pass_visits(chunk, 2, 0, 2)
    assert {model for visit in pass_visits(chunk, 2, 0, 1) for model in visit} == {0, 1}
