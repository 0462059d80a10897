"""Reading and forging adapter files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save_file
from torch import Tensor, nn

import lite
from lite.files import DIGEST, digest
from lite.tests import toys
from lite.tests.toys import bits, net, snapshot, trained

TWO = [lite.DoRAConfig(r=2, alpha=3, target_names=["first"]), lite.DeLoRAConfig(r=3, target_names=["last"])]
CONFIGS = {
    **{name: make(r=2) for name, make in toys.CONFIGS.items()},
    "two of the weight": [
        lite.PiSSAConfig(r=3, alpha=2, niter=2, target_names=["first"]),
        lite.LoRAXSConfig(r=2, alpha=3, target_names=["last"]),
    ],
    "two": TWO,
    "two in front": [lite.HRAConfig(r=4, target_names=["first"]), lite.IA3FFConfig(target_names=["last"])],
    "road_2": lite.RoadConfig(road_variant="road_2", group_size=2),
    "road_4": lite.RoadConfig(road_variant="road_4", group_size=4),
}


def read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors, read at once: `safe_open` opens a file twice, and somebody may replace it in between."""
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {}), load(data)


def content(file: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The same, comparable by value."""
    metadata, tensors = read(file)
    return metadata, {name: bits(tensor) for name, tensor in tensors.items()}


def forge(file: Path, change: Callable[[dict[str, str], dict[str, Tensor]], None]) -> None:
    """Rewrite a file after `change` had its way with metadata and tensors."""
    metadata, tensors = read(file)
    change(metadata, tensors)
    rest = {key: text for key, text in metadata.items() if key != DIGEST}
    if DIGEST in metadata:  # otherwise every change would be refused for this alone
        metadata[DIGEST] = digest(rest, tensors)
    save_file(tensors, file, metadata or None)


def forge_adapters(file: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Rewrite a file after `change` had its way with the list of adapters in its header."""

    def rewrite(metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
        adapters = json.loads(metadata["adapters"])
        change(adapters)
        metadata["adapters"] = json.dumps(adapters)

    forge(file, rewrite)


def attached_two() -> nn.Module:
    """A model with the configs of TWO and other values than those of a file."""
    return trained(lite.attach(net(), TWO), seed=6)


def refused(model: nn.Module, file: Path, error: Any, message: str | re.Pattern[str] | None) -> str:
    """What `load` says as it refuses a file; the model stays as it was."""
    before = snapshot(model)
    with pytest.raises(error, match=message) as caught:
        lite.load(model, file)
    assert snapshot(model) == before
    return str(caught.value)
