"""Recorded numbers of layers whose code cannot be had any more: weight, input, parameters, and what came out. Data, verified when it is read.

A case of the weight kind "recorded:NAME" runs on the numbers of `vectors/NAME.safetensors`: `weight`, `bias`, `x`; in the state that was recorded
also `param.NAME`, `buffer.NAME` (and `weight_after`, which stands in the weight's place) and the cotangent `g`. `y`, `grad.x` and `grad.NAME` came out.
The header says repository, commit, file and its hash, licence, and the config that the layer was built with.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from refs.case import Case
from refs.formula import RESIDUAL, Tensors

KIND = "recorded:"
VECTORS = Path(__file__).parent / "vectors"
SUMS = "SHA256SUMS"  # in the notation of `sha256sum --check`


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A file's content: its header and its tensors."""

    about: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    @property
    def state(self) -> str:
        """That the parameters were in."""
        return "init" if self.about["at_init"] == "True" else "perturbed"

    @property
    def dtype(self) -> str:
        """That it was recorded in."""
        return str(self.tensors["y"].dtype).removeprefix("torch.")

    def under(self, prefix: str) -> Tensors:
        """Its tensors PREFIX.NAME, by name."""
        return {key.removeprefix(f"{prefix}."): value for key, value in self.tensors.items() if key.startswith(f"{prefix}.")}

    @property
    def frozen(self) -> Tensors:
        """What was not trained."""
        return self.under("buffer") | {RESIDUAL: self.tensors["weight_after"]}


def of(case: Case) -> Recording | None:
    """The recording that a case runs on, if it does; ValueError if it is damaged, unknown, or of other sizes than the case says."""
    if not case.weight.startswith(KIND):
        return None
    found = read(case.weight.removeprefix(KIND))
    for name, said in (("weight", (case.d_out, case.d_in)), ("x", (*case.batch, case.d_in)), ("y", (*case.batch, case.d_out))):
        if said != (shape := tuple(found.tensors[name].shape)):
            raise ValueError(f"{case.weight}: {name} is {shape}; the case says {said}")
    if case.bias != ("bias" in found.tensors):
        raise ValueError(f"{case.weight} has {'a' if 'bias' in found.tensors else 'no'} bias; the case says bias={case.bias}")
    return found


def read(name: str, folder: Path = VECTORS) -> Recording:
    """A recording; ValueError that names the file if it is not one of the table's, not there, or not what the table says."""
    return _read(name, folder)


def names(folder: str, vectors: Path = VECTORS) -> list[str]:
    """Of all recordings of a folder."""
    return [file.removesuffix(".safetensors") for file in _sums(vectors) if file.startswith(f"{folder}/")]


@functools.cache
def _read(name: str, folder: Path) -> Recording:
    sums = _sums(folder)
    file = f"{name}.safetensors"
    if file not in sums:
        raise ValueError(f"unknown recording {name!r}; {SUMS} lists {', '.join(key.removesuffix('.safetensors') for key in sums)}")
    path = folder / file
    if not path.is_file():
        raise ValueError(f"{SUMS} lists {file}, and it is not there: {path}")
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sums[file]:
        raise ValueError(f"{file} has SHA-256 {found}, {SUMS} says {sums[file]}: it was changed or damaged")
    try:
        with safe_open(path, framework="pt") as handle:
            return Recording(handle.metadata() or {}, {key: handle.get_tensor(key).clone() for key in handle.keys()})
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file: {error}") from error


def _sums(folder: Path) -> dict[str, str]:
    """File → SHA-256."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
