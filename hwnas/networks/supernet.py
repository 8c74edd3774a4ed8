"""The supernet: the weights of every architecture of a space at once.

It keeps no active state. Which subnet runs, and by which statistics it normalises, are arguments:

    net = Supernet(space)
    statistics = calibrate(net, arch, batches)
    net(x, arch, statistics)
    net.extract(arch, statistics)          # a plain network with the same outputs
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from hwnas.errors import ChecksumError, DataError, SpaceError, StoreError
from hwnas.files import expanded
from hwnas.networks.base import ElasticWeights
from hwnas.networks.blocks import (
    Inputs,
    StaticNetwork,
    initialise,
    named_inputs,
    operator_modules,
    torch_generator,
)
from hwnas.networks.calibration import Statistics
from hwnas.networks.drop import Drop
from hwnas.networks.elastic import (
    ElasticOp,
    Normalise,
    by_batch,
    by_batch_into,
    by_moments,
    by_stored,
)
from hwnas.ops.add import Add
from hwnas.ops.base import RUNNING_MEAN, RUNNING_VAR, Op
from hwnas.ops.linear import Linear
from hwnas.ops.network import InputSpec, Network
from hwnas.spaces import SPACES, Architecture, NetworkSpace, Slot, space_of
from hwnas.spaces.base import Rng, id_of
from hwnas.store import parse_json, read_bytes, read_json, write_bytes, write_json
from hwnas.text import command_line, one_line

SCHEMA = 1
WEIGHTS_FILE = "model.safetensors"
DEFINITION_FILE = "supernet.json"


class Supernet(ElasticWeights):
    """Shared weights of a space. `slots.<slot>.<op>` are elastic ops as large as the largest version.

    `has_statistics` says whether the stored batch-norm statistics mean anything: they do for imported
    weights, training does not touch them. `kernel_transform` says whether smaller kernels are learnt
    transformations of larger ones; see `ElasticOp`. `metadata` is plain data that travels with the weights.
    """

    def __init__(self, space: NetworkSpace, rng: Rng = 0, kernel_transform: bool = False) -> None:
        """He-scale weights drawn by `rng`; residual blocks start as identities (last scale zero)."""
        super().__init__()
        self.space = space
        self.kernel_transform = kernel_transform
        self.has_statistics = False
        self.metadata: dict[str, Any] = {}
        self._warned = False
        self._lower = _cached_lowering(space)
        self.slots = nn.ModuleDict()
        generator = torch_generator(rng)
        for slot in space.slots:
            ops = _elastic_ops(space, slot, generator, kernel_transform)
            self.slots[_module_name(slot.name)] = nn.ModuleDict(ops)
        self._has_norms = any(RUNNING_MEAN in m.specs for m in self.modules() if isinstance(m, ElasticOp))

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: all but the cache."""
        return {key: value for key, value in self.__dict__.items() if key != "_lower"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lower = _cached_lowering(self.space)

    def forward(
        self,
        inputs: Inputs,
        arch: Architecture,
        statistics: Statistics | None = None,
        drop: Drop | None = None,
    ) -> Tensor:
        """Logits (batch, classes) of a subnet for images (batch, channels, height, width) of any size.

        Where the space declares several inputs, `inputs` are tensors in that order, or a mapping by name. In
        training mode batch norm uses the batch's own statistics, whatever else is given, and nothing is
        recorded; what `drop` says is left out. In eval mode batch norm uses `statistics`, or else the stored
        ones, which are right only for imported weights (otherwise one warning), and nothing is left out.
        SpaceError for an architecture of another space, or statistics of another architecture; DataError for
        anything but images with the space's channels.
        """
        _check_architecture(arch)
        if self.training:
            return self._run(inputs, arch, by_batch, drop)
        return self._run(inputs, arch, self._normalise(arch, statistics))

    def batch_moments(self, inputs: Inputs, arch: Architecture) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and unbiased variance, (c,) each, that each batch norm sees in a batch, by "slot.layer"."""
        _check_architecture(arch)
        record: dict[str, tuple[Tensor, Tensor]] = {}
        self._run(inputs, arch, by_batch_into(record))
        return record

    @torch.no_grad()
    def extract(self, arch: Architecture, statistics: Statistics | None = None) -> StaticNetwork:
        """A plain network in eval mode, weights copied, with the outputs of ``self(x, arch, statistics)``."""
        _check_architecture(arch)
        slots, lowered = self._lower(arch)
        moments = statistics.of(arch) if statistics is not None else {}
        if statistics is None:
            self._normalise(arch, None)
        network = StaticNetwork(lowered)
        for block, slot, operator in zip(operator_modules(network), slots, lowered.operators, strict=True):
            for op, (_, module) in zip(operator.ops, block.op_modules(), strict=True):
                weights = self.op(slot, op.name).cut(op)
                if f"{slot}.{op.name}" in moments:
                    mean, var = moments[f"{slot}.{op.name}"]
                    weights |= {RUNNING_MEAN: mean, RUNNING_VAR: var}
                for name, tensor in module.weights().items():
                    tensor.copy_(weights[name])
        return network.eval().to(next(self.parameters()).device)

    def op(self, slot: str, name: str) -> ElasticOp:
        """Return an elastic op by the names of its slot and of itself."""
        ops = cast(nn.ModuleDict, self.slots[_module_name(slot)])
        return cast(ElasticOp, ops[name])

    def save(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `supernet.json` into a folder, each whole or not at all."""
        directory = expanded(directory)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_bytes(directory / WEIGHTS_FILE, safetensors.torch.save(state))
        write_json(
            directory / DEFINITION_FILE,
            {
                "schema": SCHEMA,
                "space": self.space.definition,
                "has_statistics": self.has_statistics,
                "kernel_transform": self.kernel_transform,
                "checksum": self.checksum,
                "metadata": self.metadata,
            },
        )

    def _run(
        self, inputs: Inputs, arch: Architecture, normalise: Normalise, drop: Drop | None = None
    ) -> Tensor:
        slots, network = self._lower(arch)

        def run_operator(place: int, *arguments: Tensor) -> Tensor:
            graph = network.operators[place].graph
            values = dict(zip(graph.inputs, arguments, strict=True))
            for node in graph.nodes:
                read = [values[name] for name in node.inputs]
                if drop is not None and isinstance(node.op, Linear):
                    read[0] = drop.of_features(read[0])
                if drop is not None and isinstance(node.op, Add):
                    read[0] = drop.of_branch(read[0], place / len(slots))
                module = self.op(slots[place], node.op.name)
                values[node.op.name] = module(node.op, *read, normalise=normalise)
            return values[graph.nodes[-1].op.name]

        return network.evaluate(_checked_inputs(network.inputs, inputs), run_operator)

    def _normalise(self, arch: Architecture, statistics: Statistics | None) -> Normalise:
        if statistics is not None:
            return by_moments(statistics.of(arch))
        if self._has_norms and not self.has_statistics and not self._warned:
            self._warned = True
            warnings.warn(
                "the stored batch-norm statistics of this supernet are not those of a subnet; "
                "pass statistics=hwnas.calibrate(net, arch, batches)",
                stacklevel=3,
            )
        return by_stored


def _cached_lowering(space: NetworkSpace) -> Callable[[Architecture], tuple[tuple[str, ...], Network]]:
    """Return the function from an architecture to the slots of its operators and to its network."""

    @lru_cache(maxsize=1024)
    def lower(arch: Architecture) -> tuple[tuple[str, ...], Network]:
        lowered = space.lower(arch)
        return tuple(lowered), space.connect(lowered, space.inputs(arch))

    return lower


def _checked_inputs(specs: Sequence[InputSpec], inputs: Inputs) -> dict[str, Tensor]:
    """Return the inputs by name; DataError unless they are tensors of the declared kinds, of any sizes."""
    named = named_inputs(specs, inputs)
    for spec in specs:
        x = named[spec.name]
        got = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        image, axes = spec.is_image and len(specs) == 1, 1 + len(spec.shape)
        if not isinstance(x, Tensor) or x.dim() != axes or (image and x.shape[1] != spec.shape[0]):
            shape = ", ".join(map(str, ("batch", *spec.shape)))
            if image:
                raise DataError(
                    f"the images are {got}; this space takes tensors (batch, {spec.shape[0]}, height, width)"
                )
            raise DataError(f"input {spec.name!r} is {got}; this space takes a tensor ({shape})")
        if not image and x.is_floating_point() != spec.dtype.startswith("float"):
            raise DataError(f"input {spec.name!r} is {x.dtype}; this space takes {spec.dtype}")
    return named


def _check_architecture(arch: Architecture) -> None:
    if not isinstance(arch, Architecture):
        raise SpaceError(
            f"expected an architecture, got {arch!r:.80}; make one of values by space.architecture(values), "
            "or draw some by space.sample(n, rng)"
        )


def _module_name(slot: str) -> str:
    """Names of torch modules hold no dots."""
    return slot.replace(".", "/")


def _elastic_ops(
    space: NetworkSpace, slot: Slot, generator: torch.Generator, kernel_transform: bool
) -> dict[str, nn.Module]:
    """Return the elastic ops of a slot by name, with their first weights; none if it is always skipped."""
    operators = [op for op in space.slot_operators(slot).values() if op is not None]
    if not operators:
        return {}
    if len({operator.graph.structure for operator in operators}) != 1:
        raise SpaceError(
            f"the sums and activations of {slot.name} differ between architectures; connect its ops alike in "
            "all of them"
        )
    versions: dict[str, list[Op]] = {}
    for operator in operators:
        for op in operator.ops:
            versions.setdefault(op.name, []).append(op)
    ops = {
        name: ElasticOp(f"{slot.name}.{name}", sizes, kernel_transform) for name, sizes in versions.items()
    }
    for name, module in ops.items():
        initialise({key: module.weight(key) for key in module.specs}, versions[name][0], generator)
    graph = operators[0].graph
    branches = [n.inputs[0] for n in graph.nodes if isinstance(n.op, Add) and n.inputs[1] in graph.inputs]
    for name in branches:
        scale = versions[name][0].output_scale
        if scale is not None:
            nn.init.zeros_(ops[name].weight(scale))
    return dict(ops)


def refer_to_supernet(directory: str | Path, target: str | Path, checksum: str) -> None:
    """Have `load_supernet` of a folder load the supernet of another, `target`, which must keep its checksum.

    Writes a `supernet.json` that holds no weights, only where they are, relative to the folder.
    """
    where = os.path.relpath(expanded(target).resolve(), expanded(directory).resolve())
    data = {"schema": SCHEMA, "refers_to": Path(where).as_posix(), "checksum": checksum}
    write_json(expanded(directory) / DEFINITION_FILE, data)


def load_supernet(path: str | Path, space: NetworkSpace | None = None) -> Supernet:
    """The supernet in a folder that `save` wrote, or in the `supernet` folder of a run; in eval mode.

    Where a folder refers to another's supernet, that one, if it is the same still. A supernet of a space of
    your own needs that `space`; otherwise the folder says which it is.

    StoreError if there is none, it is of another schema or of a space that hwnas does not know, SpaceError if
    it is of another than the given one, ChecksumError if it is not what was written or referred to.
    """
    return _loaded(expanded(path), space, ())


def _loaded(path: Path, space: NetworkSpace | None, referring: tuple[Path, ...]) -> Supernet:
    """As `load_supernet`; `referring` are the folders that led here."""
    folder = path
    if not (folder / DEFINITION_FILE).exists() and (folder / "supernet").is_dir():
        folder /= "supernet"
    if not (folder / DEFINITION_FILE).exists():
        run = (path.parent if path.name == "supernet" else path).resolve()
        raise StoreError(
            f"there is no supernet in {path} (no {DEFINITION_FILE}); train one: "
            f"hwnas train CONFIG {command_line('--run-dir', run)}"
        )
    schema = parse_json(folder / DEFINITION_FILE, read_bytes(folder / DEFINITION_FILE)).get("schema")
    if schema != SCHEMA:
        raise StoreError(
            f"{folder / DEFINITION_FILE} has schema {schema!r}, this hwnas reads {SCHEMA}; "
            "use the hwnas that wrote it"
        )
    remedy = "restore it from a copy, or train again"
    data = read_json(folder / DEFINITION_FILE, remedy)
    needed = ("checksum",) if "refers_to" in data else ("checksum", "space", "has_statistics", "metadata")
    missing = [name for name in needed if name not in data]
    if missing:
        raise StoreError(f"{folder / DEFINITION_FILE} does not say its {missing[0]}; {remedy}")
    if "refers_to" in data:
        return _referred(folder, str(data["refers_to"]), str(data["checksum"]), space, referring)
    _check_space(folder, data["space"], space, remedy)
    try:
        made = space_of(data["space"]) if space is None else space
        net = Supernet(made, kernel_transform=bool(data.get("kernel_transform")))
    except SpaceError as error:
        raise StoreError(f"{folder / DEFINITION_FILE} describes no space: {error}; {remedy}") from None
    except (RuntimeError, MemoryError) as error:  # torch raises a RuntimeError where memory is short
        raise StoreError(
            f"{folder / DEFINITION_FILE} describes a network that does not fit in memory; {remedy} "
            f"({one_line(error)})"
        ) from None
    if space is not None:
        remedy += f", or make {type(space).__name__} what it was when this was saved"
    weights = folder / WEIGHTS_FILE
    try:
        state = safetensors.torch.load(read_bytes(weights))
        net.load_state_dict(state)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ChecksumError(
            f"{weights} does not hold this supernet's weights; {remedy} ({one_line(error)})"
        ) from None
    if net.checksum != data["checksum"]:
        raise ChecksumError(f"{weights} is not what was written (its checksum differs); {remedy}")
    net.has_statistics = data["has_statistics"]
    net.metadata = data["metadata"]
    return net.eval()


def _check_space(folder: Path, definition: Any, space: NetworkSpace | None, remedy: str) -> None:
    """Refuse a stored definition of a space that is unknown, or of another one than is given."""
    if not isinstance(definition, Mapping) or not isinstance(definition.get("name"), str):
        raise StoreError(f"{folder / DEFINITION_FILE} describes no space; {remedy}")
    if space is None and definition["name"] not in SPACES:
        raise StoreError(
            f"the supernet in {folder} is of {definition['name']!r:.80}, no space of hwnas's own; give "
            f"the one that it was made of, load_supernet(…, space=…); if that is one of {', '.join(SPACES)}, "
            f"{remedy}"
        )
    if space is not None and id_of(definition) != space.id:
        raise SpaceError(
            f"the supernet in {folder} is of the space {id_of(definition):.80}, not of {space.id}; "
            "give the one that it was made of"
        )


def _referred(
    folder: Path, refers_to: str, checksum: str, space: NetworkSpace | None, referring: tuple[Path, ...]
) -> Supernet:
    """The supernet that the one in `folder` is a reference to."""
    here = folder.resolve()
    target = Path(os.path.normpath(here / refers_to))
    if target in (here, *referring):
        raise StoreError(f"{folder / DEFINITION_FILE} refers to itself; search anew from the run that has it")
    if not (target / DEFINITION_FILE).exists():
        raise StoreError(
            f"the supernet of {folder} is that of {target}, which is gone; put it back, or search anew from "
            "the run that has it: hwnas search RUN --table TABLE --run-dir NEW"
        )
    net = _loaded(target, space, (here, *referring))
    if net.checksum != checksum:
        raise ChecksumError(
            f"the supernet in {target} is no longer the one that {folder} refers to (its checksum is "
            f"{net.checksum[:12]}…, not {checksum[:12]}…); search anew: hwnas search RUN --table TABLE "
            "--run-dir NEW"
        )
    return net
