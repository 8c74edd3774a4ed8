from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from hwnas.config import Training
from hwnas.errors import ChecksumError, DamagedImagesError, DataError, TrainingError
from hwnas.networks.blocks import build_network
from hwnas.networks.drop import Drop
from hwnas.networks.supernet import Supernet
from hwnas.progress import Progress, silent
from hwnas.spaces import Architecture, NetworkSpace
from hwnas.training import loop
from hwnas.training.checkpoint import State
from hwnas.training.data import Dataset, Held, Split, load_dataset
from hwnas.training.data.stored import Streamed
from hwnas.training.loop import (
    CHECKPOINT_FILE,
    Arithmetic,
    _order,
    choose_arithmetic,
    learning_rate_at,
    train,
)
from hwnas.training.strategies import Phase, Subnet, get_strategy

from ..networks.small_spaces import SPACES, lively
from .small_data import blobs, tiny_space

SETTINGS = Training(
    steps=9, batch_size=16, warmup_steps=2, precision="fp32", threads=1, crop_padding=1, flip=True
)


def reporting(every: int) -> Training:
    """The settings with so many steps from report to report."""
    return SETTINGS.model_copy(update={"report_every": every})


class Killed(Exception):
    """Stands for the end of the process."""


class Recorder:
    """A progress that keeps what it is told, and dies at a step."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at
        self.told: list[tuple[int, int, str]] = []

    def __call__(self, done: int, total: int, text: str) -> None:
        self.told.append((done, total, text))
        if done == self.dies_at:
            raise Killed


def _killed_at(last: int) -> Callable[[int, Training, Phase], float]:
    """The learning rate, until a step at which the process dies."""

    def learning_rate(step: int, settings: Training, phase: Phase) -> float:
        if step == last:
            raise Killed
        return learning_rate_at(step, settings, phase)

    return learning_rate


def tiny_net() -> Supernet:
    return Supernet(tiny_space(classes=3))


def plan_of(net: Supernet, settings: Training) -> loop.Plan:
    return loop._plan(net, blobs(), settings, 0, None, torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "channels_last"),
    [
        ({}, False),
        ({}, True),
        ({"strategy": {"name": "attentive", "mode": "best"}, "loss": "alpha"}, True),
        ({"strategy": {"name": "progressive"}, "average": 0.8}, True),  # a new phase at the third step
        ({"strategy": {"name": "uniform"}, "accumulate": 2}, True),
    ],
    ids=["fp32", "channels last", "attentive", "progressive", "uniform"],
)
def test_a_killed_and_resumed_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], channels_last: bool
) -> None:
    data, validation = blobs(), blobs(60, seed=1)
    settings = Training.model_validate({**reporting(3).model_dump(), **changes})
    # The measurement that a resumed training does not repeat; its outcome must come from the checkpoint.
    monkeypatch.setattr(loop, "choose_arithmetic", lambda *_: Arithmetic("fp32", channels_last))
    whole = tiny_net()
    expected = train(whole, data, validation, settings, tmp_path / "whole", seed=5)

    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        train(tiny_net(), data, validation, settings, broken, 5, Recorder(dies_at=3))
    monkeypatch.setattr(loop, "choose_arithmetic", lambda *_: Arithmetic("bf16", not channels_last))
    again = Recorder()
    monkeypatch.setattr(loop, "learning_rate_at", _killed_at(8))  # two steps after a checkpoint
    with pytest.raises(Killed):
        train(tiny_net(), data, validation, settings, broken, 5, again)
    monkeypatch.setattr(loop, "learning_rate_at", learning_rate_at)
    assert [done for done, _, _ in again.told] == [4, 5, 6, 7, 8]
    resumed = tiny_net()
    found = train(resumed, data, validation, settings, broken, 5)

    assert found.arithmetic == expected.arithmetic
    assert resumed.checksum == whole.checksum != tiny_net().checksum
    for one, other in zip(found.reports, expected.reports, strict=True):
        assert (one.step, one.loss, one.largest_accuracy) == (other.step, other.loss, other.largest_accuracy)


def test_an_interrupted_training_repeats_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, validation = blobs(), blobs(60, seed=1)
    whole = tiny_net()
    expected = train(whole, data, validation, reporting(6), tmp_path / "whole", seed=5)

    def interrupt(done: int, total: int, text: str = "") -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_net(), data, validation, reporting(6), tmp_path / "cut", 5, interrupt)
    resumed, again = tiny_net(), Recorder()
    found = train(resumed, data, validation, reporting(6), tmp_path / "cut", 5, again)
    assert again.told[0][0] == 5
    assert resumed.checksum == whole.checksum
    assert [report.loss for report in found.reports] == [report.loss for report in expected.reports]


def test_a_stream_trains_as_memory_does(tmp_path: Path) -> None:
    """The same images, in memory and decoded as they are needed, killed and gone on: the same weights."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 30, 16, 16), dtype=np.uint8)
    for name, images in zip(("a", "b", "c"), pixels, strict=True):
        for split, some in (("train", images[:24]), ("val", images[24:27]), ("test", images[27:])):
            (tmp_path / split / name).mkdir(parents=True)
            for i, image in enumerate(some):
                Image.fromarray(image).save(tmp_path / split / name / f"{i}.png")

    def load(split: Split, memory_mb: int) -> Dataset:
        return load_dataset("imagefolder", split, path=str(tmp_path), size=80, memory_mb=memory_mb)

    space = tiny_space(classes=3, channels=3)
    nets = [Supernet(space) for _ in range(3)]
    held, streamed, validation = load("train", 100), load("train", 1), load("validation", 1)
    assert isinstance(streamed.stored, Streamed)
    train(nets[0], held, validation, SETTINGS, tmp_path / "held")
    with pytest.raises(Killed):
        train(nets[1], streamed, validation, reporting(3), tmp_path / "run", 0, Recorder(dies_at=3))
    train(nets[2], streamed, validation, reporting(3), tmp_path / "run")
    assert nets[2].checksum == nets[0].checksum != Supernet(space).checksum


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, second, recorder = tiny_net(), tiny_net(), Recorder()
    expected = train(first, blobs(), blobs(60), SETTINGS, tmp_path)
    assert train(second, blobs(), blobs(60), reporting(2), tmp_path, progress=recorder) == expected
    assert recorder.told == []
    assert first.checksum == second.checksum
    assert not second.training


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path)
    slower = SETTINGS.model_copy(update={"learning_rate": 0.05})
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.1, is 0\.05.*delete it"):
        train(tiny_net(), blobs(), blobs(60), slower, tmp_path)
    with pytest.raises(TrainingError, match="seed was 0, is 1"):
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path, seed=1)
    with pytest.raises(TrainingError, match="data was"):
        train(tiny_net(), blobs(seed=9), blobs(60), SETTINGS, tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    intact = path.read_bytes()
    for damaged in (intact[:-1] + bytes([intact[-1] ^ 1]), intact[:200], safetensors.torch.save({})):
        path.write_bytes(damaged)
        with pytest.raises(ChecksumError, match=r"checkpoint\.safetensors.*delete it"):
            train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path)


def spoiled(data: Dataset, image: int = 50) -> Dataset:
    """The same with one image whose values overflow in the network."""
    images = data.images.clone()
    images[image] = 3e38
    return dataclasses.replace(data, stored=Held(images))


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    net, recorder = tiny_net(), Recorder()
    data = spoiled(blobs(), int(_order(96, (), 0, 0)[-1]))  # an image of the last batch of the first epoch
    message = r"step 5: loss nan .* learning rate 0\.\d+ on images with values from -\d.* to 3e\+38; lower"
    with pytest.raises(TrainingError, match=message):
        train(net, data, blobs(60), SETTINGS, tmp_path, progress=recorder)
    assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())
    # The checkpoint is of the last good step: what goes on from it meets the same loss again.
    with pytest.raises(TrainingError, match=r"step 5: loss nan"):
        train(tiny_net(), data, blobs(60), SETTINGS, tmp_path)


def test_a_loss_that_is_not_finite_at_the_first_step_does_not_advise_a_lower_learning_rate(
    tmp_path: Path,
) -> None:
    data = spoiled(blobs(), int(_order(96, (), 0, 0)[0]))
    message = r"step 0: loss nan .* so a lower learning rate does not help: correct the images or the initial"
    with pytest.raises(TrainingError, match=message):
        train(tiny_net(), data, blobs(60), SETTINGS, tmp_path)


def test_outputs_on_validation_images_that_are_not_finite_stop_the_training(tmp_path: Path) -> None:
    message = (
        r"step 2: architecture \w+ on the data: the outputs for 1 of 60 images are NaN or infinite, first "
        r"for image 7; .* goes on from step 0"
    )
    with pytest.raises(TrainingError, match=message):
        train(tiny_net(), blobs(), spoiled(blobs(60), 7), reporting(2), tmp_path)


def test_a_learning_rate_that_diverges_is_reported(tmp_path: Path) -> None:
    wild = SETTINGS.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0, "clip_value": 1e9})
    with pytest.raises(TrainingError, match=r"learning rate [\d.]+e\+\d+"):
        train(tiny_net(), blobs(), blobs(60), wild, tmp_path)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="15 training images are fewer than a batch of 16"):
        train(tiny_net(), blobs(15), blobs(60), SETTINGS, tmp_path)


def test_data_that_does_not_fit_the_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 channels and 3 classes, the space is made for 1 and 10"):
        train(Supernet(tiny_space()), blobs(), blobs(60), SETTINGS, tmp_path)


def test_values_that_are_not_known_are_not_changed(tmp_path: Path) -> None:
    wide = SETTINGS.model_copy(update={"trivial_augment": True})
    data = blobs()
    with pytest.raises(DataError, match=r"values 0 to 1; without their mean \(0.0,\) .* are -\d.* to \d"):
        train(tiny_net(), data, blobs(60), wide, tmp_path)
    low, high = float(data.images.min()), float(data.images.max())
    known = dataclasses.replace(data, mean=(-low / (high - low),), std=(1 / (high - low),))
    assert train(tiny_net(), known, blobs(60), wide, tmp_path).reports[-1].step == 9


def test_learning_rate() -> None:
    settings = Training(steps=100, warmup_steps=10, learning_rate=0.2)
    rates = [learning_rate_at(step, settings, Phase(0, 100)) for step in range(100)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == rates[10] == pytest.approx(0.2)
    assert rates[55] == pytest.approx(0.1)
    assert 0 < rates[99] < 0.001
    assert learning_rate_at(0, Training(warmup_steps=0), Phase(0, 1500)) == pytest.approx(0.1)
    short = Training(steps=30, warmup_steps=50, learning_rate=0.2)  # still rises to its peak, and falls
    rates = [learning_rate_at(step, short, Phase(0, 30)) for step in range(30)]
    assert max(rates) == rates[14] == pytest.approx(0.2)
    assert rates[29] < 0.01
    half = [learning_rate_at(step, settings, Phase(40, 90, 0.5)) for step in range(40, 90)]
    assert (half[0], max(half)) == (pytest.approx(0.02), pytest.approx(0.1))
    assert half[5] == max(half)
    assert 0 < half[-1] < 0.001


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_explicit_precision_leaves_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(loop, "_accumulate", lambda *_: pytest.fail("timed"))
    net, settings = tiny_net(), SETTINGS.model_copy(update={"precision": precision})
    assert choose_arithmetic(net, plan_of(net, settings)) == Arithmetic(precision, True)


def test_arithmetic_is_measured_without_touching_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    net = tiny_net().train()
    checksum = net.checksum
    timed: set[Arithmetic] = set()
    accumulate = loop._accumulate

    def spy(net: Supernet, *rest: Any) -> Tensor:
        timed.add(rest[2])
        return accumulate(net, *rest)

    monkeypatch.setattr(loop, "_accumulate", spy)
    assert choose_arithmetic(net, plan_of(net, Training(batch_size=16, threads=1))) in timed
    assert timed == {Arithmetic(p, last) for p in ("fp32", "bf16") for last in (False, True)}
    assert net.checksum == checksum
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_training_killed_before_its_first_report_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, validation = blobs(), blobs(60, seed=1)
    settings = SETTINGS.model_copy(update={"precision": "auto"})
    monkeypatch.setattr(loop, "choose_arithmetic", lambda *_: Arithmetic("bf16", False))
    whole = tiny_net()
    train(whole, data, validation, settings, tmp_path / "whole")
    monkeypatch.setattr(loop, "learning_rate_at", _killed_at(2))
    with pytest.raises(Killed):
        train(tiny_net(), data, validation, settings, tmp_path / "broken")
    monkeypatch.setattr(loop, "learning_rate_at", learning_rate_at)
    monkeypatch.setattr(loop, "choose_arithmetic", lambda *_: pytest.fail("measured again"))
    resumed = tiny_net()
    assert train(resumed, data, validation, settings, tmp_path / "broken").arithmetic == Arithmetic(
        "bf16", False
    )
    assert resumed.checksum == whole.checksum


@example_settings(max_examples=15, deadline=None)
@given(
    space=st.sampled_from([tiny_space(), SPACES["basic"]]), seed=st.integers(0, 10**6), n=st.integers(1, 3)
)
def test_gradients_reach_the_shared_weights_of_all_active_parts_and_only_those(
    space: NetworkSpace, seed: int, n: int
) -> None:
    net = Supernet(space).train()
    lively(net)  # batch norms that are not zero, behind which nothing would arrive
    archs = list(space.sample(n, seed))
    subnets = [Subnet(arch, labels=1, teacher=0) for arch in archs]
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(32, 1, 24, 24, generator=generator)
    part = loop.Part(images, torch.arange(32) % 10, None)
    loop._accumulate(net, [part], subnets, Arithmetic("fp32", True), plan_of(net, SETTINGS), None)
    active = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in net.parameters()}
    for arch in archs:
        for slot, operator in net.space.lower(arch).items():
            for op in operator.ops:
                for part in net.op(slot, op.name).cut(op).values():
                    whole = part._base if part._is_view() else part  # the part is a view of its parameter
                    if id(whole) in active:
                        mask = active[id(whole)]
                        mask.as_strided(part.shape, part.stride(), part.storage_offset()).fill_(True)
    for name, parameter in net.named_parameters():
        found, expected = parameter.grad, active[id(parameter)]
        if found is None:
            assert not expected.any(), name
            continue
        assert (found[~expected] == 0).all(), name
        # Behind a ReLU a channel may be silent for a whole batch.
        assert (found[expected] != 0).double().mean() > 0.7, name


def test_weights_decay_and_batch_norm_and_biases_do_not() -> None:
    net = tiny_net()
    settings = SETTINGS.model_copy(update={"weight_decay": 0.25, "momentum": 0.75})
    groups = loop._optimizer(net, settings).param_groups
    assert all(group["nesterov"] and group["momentum"] == 0.75 for group in groups)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        weighs = name.endswith((".conv.weight", ".linear.weight"))
        assert decay[id(parameter)] == (0.25 if weighs else 0), name


def test_an_average_moves_towards_the_weights_by_its_decay() -> None:
    net = tiny_net()
    state = State(net, loop._optimizer(net, SETTINGS), Arithmetic("fp32", True))
    state.average = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for decay in (0.75, 0.5):
        loop._follow(state, decay)
    for name, parameter in net.named_parameters():
        assert torch.allclose(state.average[name], 0.625 * parameter), name  # 0.5 * 0.25 + 0.5


class Heard(nn.Module):
    """A supernet that keeps what it is asked to leave out."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net
        self.drops: list[Drop | None] = []

    def forward(
        self, images: Tensor, arch: Architecture, statistics: None, drop: Drop | None = None
    ) -> Tensor:
        self.drops.append(drop)
        return self.net(images, arch, statistics, drop)


def test_labels_are_smoothed_and_only_who_learns_from_them_alone_leaves_out() -> None:
    net = tiny_net().train()
    plan = plan_of(net, SETTINGS.model_copy(update={"label_smoothing": 0.25}))
    drop = Drop(0, 1e-9, torch.Generator())  # nothing is left out yet
    part = loop.Part(blobs(16).images, blobs(16).labels, drop)
    archs = [net.space.largest(), *net.space.sample(2, 0)]
    subnets = [Subnet(archs[0], 1, 0), Subnet(archs[1], 0, 1), Subnet(archs[2], 1, 1)]
    heard, fp32 = Heard(net), Arithmetic("fp32", True)
    loss = loop._accumulate(heard, [part], subnets, fp32, plan, None)
    assert heard.drops == [drop, None, None]
    said = net(part.at(24, True), archs[0]).detach().log_softmax(1)
    right = said.gather(1, part.labels[:, None]).mean()
    assert float(loss) == pytest.approx(float(-(0.75 * right + 0.25 * said.mean())), rel=1e-5)


def test_an_average_of_the_weights_is_the_result(tmp_path: Path) -> None:
    """The average follows weights that the training itself would have ended with."""
    plain, averaged, still = tiny_net(), tiny_net(), tiny_net()
    for net, average in ((plain, 0.0), (averaged, 0.9), (still, 0.0)):
        settings = SETTINGS.model_copy(update={"average": average, "steps": 9})
        if net is not still:
            train(net, blobs(), blobs(60), settings, tmp_path / str(average))
    state = safetensors.torch.load_file(tmp_path / "0.9" / CHECKPOINT_FILE)
    for name, parameter in averaged.named_parameters():
        assert torch.equal(parameter, state[f"average.{name}"])
        assert torch.equal(plain.get_parameter(name), state[f"net.{name}"])
    assert averaged.checksum not in (plain.checksum, still.checksum)


def test_parts_of_a_batch_are_normalised_alone_and_averaged() -> None:
    """Two equal halves give what one of them gives."""
    net = tiny_net().train()
    plan = plan_of(net, SETTINGS)
    part = next(loop._batches(plan, 0))[0]
    subnets = plan.strategy.subnets(0, np.random.default_rng(0), lambda arch: 0.0)
    found = []
    for batch in ([part], [part, part]):
        loss = loop._accumulate(net, batch, subnets, Arithmetic("fp32", True), plan, None)
        found.append((loss, [p.grad.clone() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_parts_hold_every_image_of_an_epoch_once() -> None:
    net = tiny_net()
    settings = SETTINGS.model_copy(update={"accumulate": 2, "crop_padding": 0, "flip": False})
    plan, data = plan_of(net, settings), blobs()
    batches = loop._batches(plan, 0)
    drawn = [part for _ in range(6) for part in next(batches)]  # 6 batches of 16 are an epoch of 96
    images = torch.cat([part.images for part in drawn])
    assert {len(part.images) for part in drawn} == {8}
    assert torch.equal(images.flatten(1).sum(1).sort().values, data.images.flatten(1).sum(1).sort().values)
    again = next(loop._batches(plan, 5))
    assert all(torch.equal(a.images, b.images) for a, b in zip(again, drawn[10:], strict=True))


@pytest.mark.parametrize("external", ["supernet", "network"])
def test_another_teacher_teaches(tmp_path: Path, external: str) -> None:
    """Its word changes what is learnt, and it stays as it is."""
    space = tiny_space(classes=3)
    teacher = Supernet(space, rng=7)
    network: nn.Module = build_network(space, space.largest(), 7) if external == "network" else teacher
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    taught, alone = tiny_net(), tiny_net()
    train(taught, blobs(), blobs(60), SETTINGS, tmp_path / "taught", teacher=network)
    train(alone, blobs(), blobs(60), SETTINGS, tmp_path / "alone")
    assert taught.checksum != alone.checksum
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(TrainingError, match=r"teacher was .*, is None"):
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path / "taught")


class Logits(nn.Module):
    """A teacher whose parts are in different modes; `classes` of None makes something else than logits."""

    def __init__(self, classes: int | None) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(24 * 24, classes or 3)
        self.classes = classes
        self.norm.eval()
        self.linear.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        said = self.linear(self.norm(x).flatten(1))
        return (said,) if self.classes is None else said


def test_a_teacher_is_given_back_as_it_was(tmp_path: Path) -> None:
    """Its modes and gradient flags too, also where the training fails."""

    def state(teacher: nn.Module) -> tuple[list[bool], list[bool]]:
        return [m.training for m in teacher.modules()], [p.requires_grad for p in teacher.parameters()]

    for name, teacher in (("plain", Logits(3)), ("supernet", tiny_net().eval())):
        before = state(teacher)
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path / name, teacher=teacher)
        assert state(teacher) == before
        with pytest.raises(TrainingError):
            train(tiny_net(), spoiled(blobs()), blobs(60), SETTINGS, tmp_path / f"{name}2", teacher=teacher)
        assert state(teacher) == before


def test_a_teacher_whose_logits_are_not_finite_is_named(tmp_path: Path) -> None:
    teacher = Logits(3)
    with torch.no_grad():
        teacher.linear.weight[0, 0] = float("nan")
    with pytest.raises(
        TrainingError, match="step 0: the logits of the teacher are NaN or infinite on images"
    ):
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path, teacher=teacher)


@pytest.mark.parametrize(("classes", "made"), [(7, r"\(16, 7\)"), (None, "tuple")])
def test_a_teacher_of_other_classes_is_refused(tmp_path: Path, classes: int | None, made: str) -> None:
    with pytest.raises(TrainingError, match=rf"makes {made} of 16 images, not \(16, 3\), .*same data"):
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path, teacher=Logits(classes))


def test_a_supernet_cannot_be_its_own_teacher(tmp_path: Path) -> None:
    net = tiny_net()
    with pytest.raises(
        TrainingError, match="the teacher is the supernet that is to be trained; give another"
    ):
        train(net, blobs(), blobs(60), SETTINGS, tmp_path, teacher=net)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_teacher_of_the_settings_is_a_folder(tmp_path: Path) -> None:
    teacher = Supernet(tiny_space(classes=3), rng=7)
    teacher.save(tmp_path / "teacher")
    one, other = tiny_net(), tiny_net()
    named = SETTINGS.model_copy(update={"teacher": str(tmp_path / "teacher")})
    train(one, blobs(), blobs(60), named, tmp_path / "one")
    train(other, blobs(), blobs(60), SETTINGS, tmp_path / "other", teacher=teacher)
    assert one.checksum == other.checksum


@pytest.mark.parametrize(("classes", "steps"), [(10, 9), (3, 8)])
def test_a_strategy_made_for_another_training_is_refused(tmp_path: Path, classes: int, steps: int) -> None:
    strategy = get_strategy("sandwich", tiny_space(classes), steps)
    with pytest.raises(TrainingError, match=rf"made for space .* and {steps} steps, .*steps is 9; make"):
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path, strategy=strategy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 15, "accumulate": 2}, r"batch_size 15 cannot be divided into 2 equal parts"),
        ({"batch_size": 16, "accumulate": 16}, r"into 16 equal parts of 2 images or more \(1 processes"),
        ({"strategy": {"name": "sandwhich"}}, r"unknown training\.strategy 'sandwhich'"),
        ({"strategy": {"name": "uniform"}}, r"uniform learns from labels alone; leave out"),
        ({"strategy": {"name": "uniform"}, "loss": "alpha"}, r"leave out training\.loss, which is alpha"),
        ({"strategy": {"name": "uniform"}, "random_subnets": 3}, r"out training\.random_subnets, which is 3"),
        ({"strategy": {"name": "progressive"}, "random_subnets": 0}, r"progressive has no number of random"),
        ({"crop_padding": 24}, r"crop_padding 24 shifts images of 24 pixels out of sight; give at most 23"),
        ({}, r"teacher is made for 1 channels and 10 classes, the space for 1 and 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    settings = Training.model_validate({**SETTINGS.model_dump(), **changes})
    with pytest.raises(TrainingError, match=message):
        train(tiny_net(), blobs(), blobs(60), settings, tmp_path, teacher=Supernet(tiny_space()))


def test_the_name_of_a_strategy_is_no_strategy(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"strategy is 'attentive'; give a Strategy, or name it"):
        train(tiny_net(), blobs(), blobs(60), SETTINGS, tmp_path, strategy="attentive")  # type: ignore[arg-type]


def test_training_leaves_no_batch_norm_statistics(tmp_path: Path) -> None:
    """What a subnet is judged by comes from its own calibration; nothing of the training is stored."""
    net = tiny_net()
    train(net, blobs(), blobs(60), SETTINGS, tmp_path)
    buffers = dict(net.named_buffers())
    assert buffers
    for name, buffer in buffers.items():
        assert torch.equal(buffer, torch.full_like(buffer, float(name.endswith("running_var")))), name
    assert not net.has_statistics


def test_statistics_of_imported_weights_mean_nothing_after_training(tmp_path: Path) -> None:
    net = tiny_net()
    net.has_statistics = True
    train(net, blobs(), blobs(), Training(**{**SETTINGS.model_dump(), "steps": 1}), tmp_path)
    assert not net.has_statistics


def test_gradients_are_clipped_only_where_a_limit_is_given(tmp_path: Path) -> None:
    """No limit is what a limit is that no gradient reaches, and not what a tight one is."""
    found = []
    for limit in (None, 1e6, 1e-4):
        net = tiny_net()
        settings = SETTINGS.model_copy(update={"clip_value": limit})
        train(net, blobs(), blobs(60), settings, tmp_path / str(limit))
        found.append(net.checksum)
    assert found[0] == found[1] != found[2]


def test_threads_and_global_random_numbers_are_as_before(tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(3)
    during: list[int] = []
    train(
        tiny_net(),
        blobs(),
        blobs(60),
        SETTINGS,
        tmp_path,
        progress=lambda done, total, text="": during.append(torch.get_num_threads()),
    )
    after = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert (set(during), after) == ({SETTINGS.threads}, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bf16_learns_too(tmp_path: Path) -> None:
    settings = Training(steps=30, batch_size=32, warmup_steps=5, precision="bf16", threads=1)
    result = train(tiny_net(), blobs(960), blobs(150, seed=1), settings, tmp_path)
    assert result.arithmetic.precision == "bf16"
    assert result.reports[-1].largest_accuracy > 90
    assert result.reports[-1].smallest_accuracy > 60


@pytest.mark.slow
def test_a_short_training_learns_digits(tmp_path: Path) -> None:
    """Ten classes: chance is 10 %."""
    sizes = {"train": 4000, "validation": 500}
    data, validation = (load_dataset("cluttered-digits", split, **sizes) for split in ("train", "validation"))
    settings = Training(
        steps=450, batch_size=32, warmup_steps=10, precision="fp32", threads=1, report_every=225
    )
    net, recorder = Supernet(tiny_space()), Recorder()
    result = train(net, data, validation, settings, tmp_path, progress=recorder)
    assert [report.step for report in result.reports] == [225, 450]
    assert result.reports[-1].largest_accuracy > 25
    assert result.reports[-1].smallest_accuracy > 15
    assert result.reports[1].loss < result.reports[0].loss
    assert recorder.told[-1][:2] == (450, 450)
    assert f"largest {result.reports[-1].largest_accuracy:.1f} %" in recorder.told[-1][2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"device": "cuda"})
    with pytest.raises(TrainingError, match=r"training\.device is cuda.* has no GPU: torch sees 0.*cpu"):
        train(tiny_net(), blobs(), blobs(60), settings, tmp_path)


@pytest.mark.gpu
def test_a_gpu_learns_too(tmp_path: Path) -> None:
    settings = Training(steps=30, batch_size=32, warmup_steps=5, device="cuda", dropout=0.1, average=0.5)
    net = tiny_net()
    result = train(net, blobs(960), blobs(150, seed=1), settings, tmp_path)
    assert result.reports[-1].largest_accuracy > 90
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}


# ---- damaged files of streamed images ------------------------------------------------------------

PHOTO_SETTINGS = Training.model_validate({**reporting(100).model_dump(), "steps": 6, "batch_size": 8})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """80 noisy images to train with and 6 to validate with, as files."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 40), ("val", 3), ("test", 3)):
        for brightness, name in ((0, "dark"), (120, "bright")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 100, (12, 12, 3)) + brightness
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    return tmp_path / "photos"


def train_photos(photos: Path, folder: Path, progress: Progress = silent, **options: Any) -> str:
    """Train on streamed images, 10 steps an epoch; the checksum of the supernet."""
    how = {"path": str(photos), "size": 100, "memory_mb": 1, **options}
    data, validation = (load_dataset("imagefolder", split, **how) for split in ("train", "validation"))
    assert isinstance(data.stored, Streamed)
    net = Supernet(tiny_space(classes=2, channels=3))
    train(net, data, validation, PHOTO_SETTINGS, folder, seed=3, progress=progress)
    return net.checksum


def file_read_at(photos: Path, step: int) -> Path:
    """The first file that a step reads."""
    files = sorted(photos.glob("train/*/*.png"))
    return files[int(loop._order(len(files), (), 3, 0)[step * PHOTO_SETTINGS.batch_size])]


def interrupt_at(step: int) -> Progress:
    def progress(done: int, total: int, text: str = "") -> None:
        if done == step and text.startswith("loss"):
            raise KeyboardInterrupt

    return progress


def test_damaged_files_of_all_splits_are_listed_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    bad = [photos / name for name in ("train/bright/03.png", "train/dark/39.png")]
    for file in bad:
        file.write_bytes(b"damaged")
    with pytest.raises(
        DamagedImagesError, match=r"cannot read 2 files as images: \S+03\.png .*39\.png"
    ) as error:
        train_photos(photos, tmp_path / "supernet")
    assert list(error.value.files) == list(map(str, bad))
    assert not (tmp_path / "supernet" / CHECKPOINT_FILE).exists()


def test_a_training_resumes_when_a_file_that_no_step_has_read_is_repaired(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, folder = file_read_at(photos, step=5), tmp_path / "supernet"
    with pytest.raises(KeyboardInterrupt):
        train_photos(photos, folder, interrupt_at(3))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DamagedImagesError, match=rf"cannot read 1 file as images: {file} "):
        train_photos(photos, folder)
    for repaired in (file, photos / "val" / "dark" / "01.png"):  # no report has used validation images yet
        Image.new("RGB", (30, 20), "white").save(repaired)
    resumed = train_photos(photos, folder)
    assert "image files that no step has read yet have changed" in caplog.text
    assert resumed == train_photos(photos, tmp_path / "whole")


def test_a_training_resumes_without_a_file_that_no_step_has_read(photos: Path, tmp_path: Path) -> None:
    file, folder = file_read_at(photos, step=5), tmp_path / "supernet"
    with pytest.raises(KeyboardInterrupt):
        train_photos(photos, folder, interrupt_at(3))
    file.write_bytes(b"damaged")
    resumed = train_photos(photos, folder, skip_damaged=True)
    assert resumed == train_photos(photos, tmp_path / "whole", skip_damaged=True)
    Image.new("RGB", (30, 20), "white").save(file)  # the file stays left out
    name = file.relative_to(photos / "train").as_posix()
    assert resumed == train_photos(photos, folder, left_out={"train": [name]})


def test_a_training_does_not_resume_when_a_file_that_it_read_has_changed(
    photos: Path, tmp_path: Path
) -> None:
    file, folder = file_read_at(photos, step=1), tmp_path / "supernet"
    with pytest.raises(KeyboardInterrupt):
        train_photos(photos, folder, interrupt_at(3))
    before = file.read_bytes()
    Image.new("RGB", (30, 20), "white").save(file)
    with pytest.raises(TrainingError, match=r"is of another training .*; restore the images that"):
        train_photos(photos, folder)
    with pytest.raises(TrainingError, match="; read the images by its reader, full, not by draft"):
        train_photos(photos, folder, reader="draft")
    file.write_bytes(before)
    assert train_photos(photos, folder) == train_photos(photos, tmp_path / "whole")


def test_leaving_out_a_file_changes_no_order_before_its_turn() -> None:
    every = loop._order(50, (), 0, 4)
    some = loop._order(48, (7, 31), 0, 4)
    numbers = np.delete(np.arange(50), [7, 31])
    assert numbers[some].tolist() == [number for number in every if number not in (7, 31)]
