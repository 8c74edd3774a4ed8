"""The folder of an exported model: a plain network in safe formats, which needs nothing else to be loaded.

    model.json          the operators that it is made of, its classes, how images are prepared; sealed
    model.safetensors   the state_dict of that network, batch-norm statistics included
    SHA256SUMS          of every other file in the folder; see `hwnas.export.sums`

`model.json` holds the SHA-256 of the weights, so that the two cannot be mixed up. Nothing in them is
executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hwnas.errors import ChecksumError, SpaceError, StoreError
from hwnas.files import expanded
from hwnas.networks.blocks import StaticNetwork
from hwnas.ops.network import InputSpec, Network
from hwnas.spaces import Operator
from hwnas.store import file_digest, parse_json, read_bytes, read_json, write_bytes, write_json
from hwnas.text import command_line

SCHEMA = 1
DEFINITION_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


def _export_command(folder: Path) -> str:
    """The command that writes a model folder again."""
    run = folder.parent.parent if folder.parent.name == "models" else "RUN"
    if tuned := re.fullmatch(r"(\w+)-ft(\d+)", folder.name):
        options = ["--model", tuned[1], "--epochs", tuned[2], "--restart"]
        return command_line("hwnas", "finetune", run, *options)
    return command_line("hwnas", "export", run, "--restart", "export")


def _remedy(folder: Path) -> str:
    """Advice on a damaged model folder."""
    return f"restore the folder from a copy, or write it again: {_export_command(folder)}"


def save_model(network: StaticNetwork, folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `model.json` into a folder, each whole or not at all.

    `facts` is plain data about the model that goes into `model.json`.
    """
    folder = expanded(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(state))
    write_json(
        folder / DEFINITION_FILE,
        {
            "schema": SCHEMA,
            **facts,
            "operators": [{"key": op.key, "norm_eps": op.norm_eps} for op in network.operators],
            **_connections(network.network),
            "weights_sha256": file_digest(folder / WEIGHTS_FILE),
        },
    )


def _connections(network: Network) -> dict[str, Any]:
    """Return the inputs and connections of a network as plain data; nothing for a chain."""
    if network.is_chain:
        return {}
    return {"inputs": [asdict(spec) for spec in network.inputs], "connections": network.connections}


def load_model(folder: str | Path) -> StaticNetwork:
    """The network in the folder of an exported model, such as ``runs/digits/models/<id>``, in eval mode.

    A plain torch module from (batch, channels, height, width) to logits (batch, classes); `input_shape` is
    (channels, height, width). It is built from `model.json` and `model.safetensors` alone, without the
    supernet or the run, and nothing in them is executed. `model.json` also says how images are prepared and
    what the classes are. StoreError if a file is missing, of another schema, or the weights are not of this
    network's names, shapes and types, and for a model in 8 bits; ChecksumError if one of the two is not what
    was written.
    """
    folder = expanded(folder)
    definition, weights = folder / DEFINITION_FILE, folder / WEIGHTS_FILE
    if not definition.exists():
        _check_precision(folder)
        raise StoreError(
            f"there is no model in {folder} (no {DEFINITION_FILE}); give a folder such as "
            f"runs/digits/models/ID. An older hwnas wrote none; to add it: {_export_command(folder)}"
        )
    schema = parse_json(definition, read_bytes(definition)).get("schema")
    if schema != SCHEMA:
        raise StoreError(
            f"{definition} has schema {schema!r}, this hwnas reads {SCHEMA}; use the hwnas that wrote it"
        )
    data = read_json(definition, _remedy(folder))
    with torch.device("meta"):  # shapes without memory, until they are known to be those of the file
        network = StaticNetwork(_network(data, definition))
    if file_digest(weights) != data.get("weights_sha256"):
        raise ChecksumError(f"{weights} is not what {definition.name} was written for; {_remedy(folder)}")
    try:
        state = safetensors.torch.load(read_bytes(weights))
    except safetensors.SafetensorError as error:
        raise StoreError(f"{weights} is not a safetensors file ({error}); {_remedy(folder)}") from None
    _check_tensors(state, network.state_dict(), weights)
    network.load_state_dict(state, assign=True)
    return network.eval()


def _check_precision(folder: Path) -> None:
    """StoreError if a folder is that of a model in 8 bits."""
    path = folder / "architecture.json"
    made_of = read_json(path, _remedy(folder)).get("quantized") if path.exists() else None
    if made_of is not None:
        raise StoreError(
            f"{folder} is a model in 8 bits, which ONNX Runtime runs and torch does not; the network that it "
            f"is made of is {folder.with_name(str(made_of['from']))}"
        )


def _network(data: Mapping[str, Any], path: Path) -> Network:
    """The network that `model.json` describes; StoreError if it describes none."""
    try:
        operators = [
            replace(Operator.parse(str(entry["key"])), norm_eps=_positive(entry["norm_eps"]))
            for entry in data["operators"]
        ]
        inputs = [InputSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in data.get("inputs", ())]
        connections = tuple(tuple(sources) for sources in data.get("connections", ()))
    except (SpaceError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} does not say what the network is made of ({error}); {_remedy(path.parent)}"
        ) from None
    try:
        if "connections" in data:
            return Network(tuple(inputs), tuple(operators), connections)
        return Network.chain(operators)
    except SpaceError:
        raise StoreError(
            f"{path}: its operators do not follow on each other; {_remedy(path.parent)}"
        ) from None


def _positive(number: Any) -> float:
    if not isinstance(number, float) or not 0 < number < math.inf:
        raise ValueError(f"norm_eps is {number!r}")
    return number


def _check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """StoreError, naming the first that is wrong, unless names, shapes and types are the expected ones."""
    for name in sorted(found.keys() | expected.keys()):
        kinds = [
            f"{str(tensors[name].dtype).removeprefix('torch.')} {tuple(tensors[name].shape)}"
            if name in tensors
            else "missing"
            for tensors in (found, expected)
        ]
        if kinds[0] != kinds[1]:
            wanted = "not part of the network" if kinds[1] == "missing" else f"in the network {kinds[1]}"
            raise StoreError(
                f"{path} does not hold this network's weights: {name} is {kinds[0]}, {wanted}; "
                f"{_remedy(path.parent)}"
            )
