"""Make the golden files of this folder from Once-for-All's own code; tests do not run this.

    pip download ofa==0.1.0.post202307202001 --no-deps && unzip ofa-*.whl -d OFA
    python -m tests.golden.make_ofa_golden OFA

For each network a file holds the names and shapes of its state dict, five of its subnets (the largest, the
smallest, three random ones) in its own words, and their logits in eval mode for `synthetic.images()`, with
the weights of `synthetic.tensor`. The script also checks that Once-for-All takes the legacy names of
`synthetic.legacy` for the same weights.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden.synthetic import images, legacy, tensor

FOLDER = Path(__file__).parent
MOBILE = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4], "dropout_rate": 0}
RESNET = {
    "depth_list": [0, 1, 2],
    "expand_ratio_list": [0.2, 0.25, 0.35],
    "width_mult_list": [0.65, 0.8, 1.0],
    "dropout_rate": 0,
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ofa_mbv3_d234_e346_k357_w1.0": ("OFAMobileNetV3", {**MOBILE, "width_mult": 1.0}),
    "ofa_mbv3_d234_e346_k357_w1.2": ("OFAMobileNetV3", {**MOBILE, "width_mult": 1.2}),
    "ofa_proxyless_d234_e346_k357_w1.3": ("OFAProxylessNASNets", {**MOBILE, "width_mult": 1.3}),
    "ofa_resnet50": ("OFAResNets", RESNET),
}
# For each argument of set_active_subnet: how many values it has, and which.
MOBILENETV3_LISTS = {"ks": (20, (3, 5, 7)), "e": (20, (3, 4, 6)), "d": (5, (2, 3, 4))}
PROXYLESS_LISTS = {"ks": (21, (3, 5, 7)), "e": (21, (3, 4, 6)), "d": (6, (2, 3, 4))}
RESNET_LISTS = {"d": (5, (0, 1, 2)), "e": (18, (0.2, 0.25, 0.35)), "w": (6, (0, 1, 2))}
LISTS = {
    "OFAMobileNetV3": MOBILENETV3_LISTS,
    "OFAProxylessNASNets": PROXYLESS_LISTS,
    "OFAResNets": RESNET_LISTS,
}


class _Anything(types.ModuleType):
    """A stand-in for a module that is imported and not used."""

    def __getattr__(self, name: str) -> Any:
        return sys.modules.get(f"{self.__name__}.{name}", object)


def networks_of(ofa: Path) -> types.ModuleType:
    """The elastic networks of Once-for-All's package."""
    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torch._six"]
    for name in [*names, "torchvision.datasets"]:
        sys.modules[name] = _Anything(name)
    sys.path.insert(0, str(ofa))
    return importlib.import_module("ofa.imagenet_classification.elastic_nn.networks")


def subnets(kind: str) -> list[dict[str, list[Any]]]:
    rng = np.random.default_rng(0)
    lists = LISTS[kind]
    found = [{arg: [values[end]] * n for arg, (n, values) in lists.items()} for end in (-1, 0)]
    found += [{arg: rng.choice(values, n).tolist() for arg, (n, values) in lists.items()} for _ in range(3)]
    return found


@torch.no_grad()
def logits(net: Any, chosen: list[dict[str, list[Any]]]) -> np.ndarray:
    net.eval()
    found = []
    for subnet in chosen:
        net.set_active_subnet(**subnet)
        found.append(net(torch.from_numpy(images())).numpy()[0])
    return np.stack(found)


def main(ofa: Path) -> None:
    package = networks_of(ofa)
    for name, (kind, arguments) in NETWORKS.items():
        shapes = {
            key: list(value.shape)
            for key, value in getattr(package, kind)(**arguments).state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        state = {key: torch.from_numpy(tensor(key, tuple(shape))) for key, shape in shapes.items()}
        current, old = getattr(package, kind)(**arguments), getattr(package, kind)(**arguments)
        current.load_state_dict(state)
        old.load_state_dict({legacy(key): value for key, value in state.items()})
        chosen = subnets(kind)
        found = logits(current, chosen)
        assert np.array_equal(found, logits(old, chosen))
        about = json.dumps({"shapes": shapes, "subnets": chosen})
        np.savez_compressed(FOLDER / f"{name}.npz", logits=found, about=about)
        print(name, len(shapes), np.abs(found).max(axis=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
