"""One architecture trained on from what it inherits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hwnas.config import Training
from hwnas.networks.base import tensors_digest
from hwnas.networks.supernet import Supernet
from hwnas.spaces import SPACES, get_space
from hwnas.training.finetune import Alone, finetuning, inherited
from hwnas.training.loop import train

from ..networks.small_spaces import lively
from .small_data import blobs, tiny_space
from .test_loop import Killed, Recorder

SETTINGS = Training(
    steps=400, batch_size=16, warmup_steps=40, learning_rate=0.5, precision="fp32", threads=1, flip=True
)


@pytest.mark.parametrize("transform", [False, True])
def test_what_is_inherited_computes_the_same(transform: bool) -> None:
    space = tiny_space(classes=3, kernels=(3, 5, 7))
    net = lively(Supernet(space, 0, transform)).train()
    images = torch.randn(4, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    for arch in (space.largest(), space.smallest(), *space.sample(3, 0)):
        alone = inherited(net, arch).train()
        own = alone.space.architecture(arch.values)
        with torch.no_grad():
            torch.testing.assert_close(alone(images, own), net(images, arch))
        parameters = sum(p.numel() for p in alone.parameters())
        assert parameters == space.params([arch])[0]  # no matrix among them
        alone.get_parameter(next(iter(alone.state_dict()))).data.add_(1.0)  # a copy
        with torch.no_grad():
            assert not torch.equal(alone(images, own), net(images, arch))


@pytest.mark.parametrize("name", SPACES)
def test_networks_of_every_space_inherit(name: str) -> None:
    space = get_space(name)
    arch = space.smallest()
    net = Supernet(space)
    alone = inherited(net, arch)
    extracted, own = net.eval().extract, alone.space.architecture(arch.values)
    with pytest.warns(UserWarning, match="statistics"):
        one, other = extracted(arch).state_dict(), alone.eval().extract(own).state_dict()
    assert tensors_digest(one) == tensors_digest(other)


def test_settings_keep_the_share_of_the_warm_up() -> None:
    found = finetuning(SETTINGS, epochs=5, images=100)
    assert (found.steps, found.warmup_steps) == (30, 3)
    assert found.learning_rate == pytest.approx(0.05)
    assert found.flip
    assert finetuning(SETTINGS, 5, 100, learning_rate=0.2).learning_rate == 0.2


def test_it_learns_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    """The teacher's largest subnet stays as it is; a resumed training is the same as one that was not."""
    space = tiny_space(classes=3)
    teacher, arch = Supernet(space, 1), space.smallest()
    before = teacher.checksum
    settings = finetuning(SETTINGS, epochs=8, images=96)

    def tune(folder: str, recorder: Recorder) -> Supernet:
        net = inherited(Supernet(space, 0), arch)
        folder_path = tmp_path / folder
        folder_path.mkdir(exist_ok=True)
        alone = Alone(net.space, settings.steps)
        found = train(
            net, blobs(), blobs(90, 1), settings, folder_path, 0, recorder, teacher=teacher, strategy=alone
        )
        assert [report.step for report in found.reports][-1] == settings.steps
        assert found.reports[-1].largest_accuracy > 60
        return net

    whole = tune("whole", Recorder())
    with pytest.raises(Killed):
        tune("killed", Recorder(dies_at=20))
    again = tune("killed", Recorder())
    assert tensors_digest(whole.state_dict()) == tensors_digest(again.state_dict())
    assert teacher.checksum == before
