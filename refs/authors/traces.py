"""Files of traces: what a layer did in each of some runs, and where the code came from. safetensors; no pickle, no code.

A run is a case, with its own numbers or another's. Under "N/", for run N: `start.NAME` (the tensors after the layer's own init), `output`, `grad.x` and
`grad.NAME` with the case's parameters copied in, and the same under `own.` at the layer's own start. The header's `runs` says of each
its case, the digest and the fingerprint of its numbers, and what is trained; `made` says with what it was recorded, `content` is the digest of everything.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refs.case import Case
from refs.numbers import normal
from refs.problem import Problem

FORMAT = "author-traces"
ALIKE = 2.0**-40  # relative difference of numbers that are the same but for the order of their sums
Fingerprint = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One run. digest, fingerprint: of what it ran on, in bits and in size. trained: canonical names. tensors: see the module."""

    case: Case
    digest: str
    fingerprint: Fingerprint
    trained: tuple[str, ...]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Traces:
    """A file's content. provenance: of the code. made: versions and machine."""

    provenance: Mapping[str, Any]
    made: Mapping[str, str]
    runs: Sequence[Run]


@functools.lru_cache(maxsize=4096)
def fingerprint(problem: Problem) -> Fingerprint:
    """Norms and projections of all numbers of a run: on another processor their last bits differ, because products and decompositions
    round in another order, and these hardly.
    """
    told: list[float] = []
    for name, tensor in sorted(_flat(problem).items()):
        value = tensor.detach().double()
        along = normal("fingerprint", name, shape=tuple(value.shape))
        told += [float(value.norm()), float((value * along).sum() / along.norm())]
    return tuple(told)


@functools.lru_cache(maxsize=4096)
def digest(problem: Problem) -> str:
    """Of all numbers of a run: another weight, input, parameter, cotangent or batch is another run."""
    sha = hashlib.sha256()
    _add(sha, _flat(problem))
    return sha.hexdigest()


def _flat(problem: Problem) -> dict[str, Tensor]:
    flat = {"x": problem.x, "weight": problem.weight, "cotangent": problem.cotangent, **problem.parameters, **problem.frozen}
    if problem.bias is not None:
        flat["bias"] = problem.bias
    for n, batch in enumerate(problem.data):
        flat |= {f"data.{n}.{name}": value for name, value in vars_of(batch).items()}
    return flat


def run_of(case: Case, problem: Problem, trained: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Run:
    """A run on these numbers."""
    return Run(case, digest(problem), fingerprint(problem), trained, tensors)


def exactly(runs: Iterable[Run], case: Case, digest: str) -> Run | None:
    """The run of a case on the numbers with this digest, or None."""
    return next((run for run in runs if (run.case, run.digest) == (case, digest)), None)


def nearly(runs: Iterable[Run], case: Case, fingerprint: Fingerprint) -> Run | None:
    """The run of a case on these numbers but for their last bits, or None."""
    return next((run for run in runs if run.case == case and _alike(run.fingerprint, fingerprint)), None)


def _alike(one: Fingerprint, other: Fingerprint) -> bool:
    norms = [norm for norm in one[::2] for _ in range(2)]
    return len(one) == len(other) and all(abs(a - b) <= ALIKE * norm for a, b, norm in zip(one, other, norms, strict=True))


def _add(sha: Any, tensors: Mapping[str, Tensor]) -> None:
    for name in sorted(tensors):
        value = tensors[name].detach().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().data)


def _content(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Digest of a whole file: safetensors has none of its own."""
    sha = hashlib.sha256(json.dumps({name: value for name, value in sorted(header.items()) if name != "content"}).encode())
    _add(sha, tensors)
    return sha.hexdigest()


def vars_of(batch: Any) -> dict[str, Tensor]:
    """The tensors of a calibration batch by name."""
    return {name: getattr(batch, name) for name in batch.__slots__ if isinstance(getattr(batch, name), Tensor)}


def write(file: Path, traces: Traces) -> None:
    """Replace a file, whole or not at all; OSError if it cannot be written."""
    tensors = {f"{n}/{name}": value.contiguous() for n, run in enumerate(traces.runs) for name, value in run.tensors.items()}
    runs = [
        {"case": repr(run.case), "digest": run.digest, "fingerprint": run.fingerprint, "trained": list(run.trained)}
        for run in traces.runs
    ]
    header = {
        "format": FORMAT,
        "provenance": json.dumps(traces.provenance),
        "made": json.dumps(traces.made),
        "runs": json.dumps(runs),
    }
    header["content"] = _content(tensors, header)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{os.getpid()}-{file.name}.tmp")
    try:
        save_file(tensors, aside, header)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def read(file: Path) -> Traces:
    """What `write` wrote; FileNotFoundError, or ValueError that names the file if it is damaged or something else."""
    if not file.is_file():
        raise FileNotFoundError(f"there are no recorded traces {file}")
    try:
        with safe_open(file, framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {key: handle.get_tensor(key).clone() for key in handle.keys()}
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format')!r}, should be {FORMAT!r}")
        if (found := _content(tensors, header)) != header["content"]:
            raise ValueError(f"its content has SHA-256 {found}, should be {header['content']}: it was changed or damaged")
        runs = []
        for n, about in enumerate(json.loads(header["runs"])):
            own = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{n}/")}
            runs.append(Run(Case.parse(about["case"]), about["digest"], tuple(about["fingerprint"]), tuple(about["trained"]), own))
        return Traces(json.loads(header["provenance"]), json.loads(header["made"]), runs)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} holds no traces: {error}") from error
