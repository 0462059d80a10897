"""An author's layer as a reference: its traces, made now from the checkout if there is one, else the recorded ones, replayed."""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from refs import minilm
from refs.authors import manifest, recording, traces
from refs.authors.built import Driver, driver_of
from refs.authors.checkout import CheckoutError, is_there, root
from refs.authors.manifest import Manifest
from refs.authors.request import Asked
from refs.authors.traces import Run, Traces
from refs.calibration import KINDS
from refs.case import Case
from refs.formula import RESIDUAL, Formula
from refs.maps import Entry
from refs.problem import Problem, problem
from refs.subject import Subject

ELSEWHERE = "was recorded on another processor, where the numbers of this case round, or are decomposed, otherwise"
VECTORS = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True, eq=False)
class AuthorLayer:
    """The layer of one manifest. cases: of the suite; which of them are recorded, and in which dtypes and states, says `asked`.

    layers, vectors: where its manifest and its recorded traces are. name: of its column. other_start: why its start and its defaults are not the method's, or None.
    states: of the formula's own, which are recorded besides. in_float32: whether it computes in float32 whatever the dtype, so that it is
    right to float32 only.
    """

    layer: str
    formula: Formula
    cases: tuple[Case, ...]
    name: str = "author"
    other_start: str | None = None
    layers: Path = manifest.LAYERS
    vectors: Path = VECTORS
    states: tuple[str, ...] = ()
    in_float32: bool = False
    is_fixed: bool = True

    @functools.cached_property
    def manifest(self) -> Manifest:
        """What it is."""
        return manifest.read(self.layer, self.layers)

    @functools.cached_property
    def driver(self) -> Driver:
        """How it is built."""
        return driver_of(self.manifest)

    @property
    def recorded_file(self) -> Path:
        """Where its recorded traces are."""
        return self.vectors / f"{self.layer}.safetensors"

    @functools.cached_property
    def is_live(self) -> bool:
        """Whether it runs here: there is a checkout, and what it requires is installed, unless there is no recorded trace to replay."""
        return is_there(self.manifest) and not (self.manifest.unmet() and self.recorded_file.is_file())

    @functools.cached_property
    def version(self) -> str:
        """Repository, commit and place, and whether it ran now or once."""
        how = ("live" if self.is_live else "recorded") if self.missing() is None else "not run"
        return f"{self.manifest.folder} {self.manifest.commit[:7]}, {self.manifest.where}, {how}"

    @property
    def equation(self) -> str:
        """What it computes."""
        return self.manifest.equation

    def missing(self) -> str | None:
        """Why there are no traces, or None: no checkout and no file, or one of them is not what it should be."""
        return self._found[1]

    def refuses(self, case: Case) -> str | None:
        """What the layer cannot do, or what was not recorded."""
        if reason := self.driver.refuses(case):
            return reason
        if case not in self._index:
            return f"no trace of this case is recorded of {self.layer}"
        here, there = problem(case, self.formula), self._index[case]
        if traces.exactly(there, case, traces.digest(here)):
            return None
        computed = (
            self.formula.copied or self.formula.takes_data(case) or case.weight.startswith("minilm:")
        )  # by a decomposition, from data, by a network
        if computed or traces.nearly(there, case, traces.fingerprint(here)):
            return ELSEWHERE
        return None  # the recording is stale, which `build` says aloud

    def build(self, case: Case, problem: Problem) -> Subject:
        """The layer as its trace tells; LookupError for numbers that it was not run on."""
        run = traces.exactly(self._index.get(case, ()), case, traces.digest(problem))
        if run is None:
            raise LookupError(f"{self.layer} was not run on these numbers: {case!r}")
        return replayed(run, problem)

    def asked(self) -> Iterator[Asked]:
        """The runs that are recorded, with their numbers."""
        for case, numbers in self._wanted():
            given = problem(numbers, self.formula)
            yield case, given, self.formula.shapes(case, given.weight)

    def _wanted(self) -> Iterator[tuple[Case, Case]]:
        """Cases, and whose numbers: every case in float64 and float32, at init and perturbed, in eval mode, with dropout; and in
        float64 on the numbers of float32; the first cases on other data. Of pretrained layers only one, which says as much as many.
        """
        real = [case for case in self.cases if case.weight.startswith("minilm:")][:1]
        wanted = [(case, case) for case in ([] if minilm.missing() else real)]
        for case, kind in itertools.product((case for case in self.cases[:2] if self.formula.takes_data(case)), KINDS):
            if kind != case.data:
                other = case.but(state="init", data=kind)
                wanted.append((other, other))
        small = [case for case in self.cases if not case.weight.startswith("minilm:")]
        for case in small:
            for state in ("init", "perturbed", *self.states):
                exact, low = case.but(state=state), case.but(state=state, dtype="float32")
                wanted += [(exact, exact), (low, low), (low.but(dtype="float64"), low)]
            idle = case.but(mode="eval")
            wanted.append((idle, idle))
        dropped = [case.but(options={"dropout": 0.3}) for case in small[:1]]
        return (
            (case, numbers) for case, numbers in (*wanted, *zip(dropped, dropped, strict=True)) if not self.driver.refuses(case)
        )

    @functools.cached_property
    def _found(self) -> tuple[Traces | None, str | None]:
        """The traces, or why there are none."""
        try:
            recorded = traces.read(self.recorded_file) if self.recorded_file.is_file() else None
            if recorded and recorded.provenance.get("manifest") != self.manifest.digest:
                return None, f"{self.layer}.toml is not the manifest that its traces were recorded with; run: nox -s record"
            if self.is_live:
                return self._live(), None
        except (ValueError, CheckoutError, recording.RecordingError) as error:
            return None, str(error)
        if recorded is None:
            absent = f"without {', '.join(self.manifest.unmet())}" if is_there(self.manifest) else "with no checkout"
            return (
                None,
                f"{self.layer}: {root() / self.manifest.folder} {absent}, and no recorded traces; get them with: nox -s refs",
            )
        if lacking := {case for case, _ in self._wanted()} - {run.case for run in recorded.runs}:
            return (
                None,
                f"the recorded traces of {self.layer} lack {len(lacking)} cases, {min(case.id for case in lacking)} among them",
            )
        return recorded, None

    def _live(self) -> Traces:
        """Recorded now; kept beside the checkouts for the next process with the same code, numbers and versions."""
        recording.ready(self.manifest)
        asked = list(self.asked())
        key = hashlib.sha256(self.manifest.digest.encode() + self.manifest.driver.read_bytes())
        for case, numbers, _ in asked:
            key.update(f"{case!r} {traces.digest(numbers)} ".encode())
        key.update(" ".join(metadata.version(package) for package in ("torch", *self.manifest.packages)).encode())
        kept = root() / ".traces" / f"{self.layer}-{key.hexdigest()[:16]}.safetensors"
        with contextlib.suppress(OSError, ValueError):  # not there, or damaged
            return traces.read(kept)
        made = recording.record(self.manifest, asked)
        with contextlib.suppress(OSError):  # a folder of checkouts may be read-only
            traces.write(kept, made)
        return made

    @functools.cached_property
    def _index(self) -> dict[Case, list[Run]]:
        """The runs by their case."""
        found: dict[Case, list[Run]] = {}
        for run in self._found[0].runs if self._found[0] else ():
            found.setdefault(run.case, []).append(run)
        return found


class Replay(nn.Module):
    """A layer that answers as the recorded one did, on the numbers that it was recorded on, and on no others."""

    def __init__(self, run: Run, problem: Problem) -> None:
        super().__init__()
        self.run, self.problem = run, problem
        self.names = [name.removeprefix("start.") for name in run.tensors if name.startswith("start.")]
        for name in self.names:
            start = run.tensors[f"start.{name}"].clone()
            if name in run.trained:
                self.register_parameter(name, nn.Parameter(start))
            elif name == RESIDUAL:  # stands in a base layer's weight's place
                self.register_parameter(name, nn.Parameter(start, requires_grad=False))
            else:
                self.register_buffer(name, start)
        for extra in set(run.trained) - set(self.names):  # what the author's layer trains besides
            self.register_parameter(extra.replace(".", "_"), nn.Parameter(torch.zeros(1)))

    def forward(self, x: Tensor) -> Tensor:
        """x (…, d_in) → the recorded output."""
        prefix = self._which()
        tensors = self.run.tensors
        if not torch.equal(x, self.problem.x.to(x.dtype)) or self.training != (self.run.case.mode == "train"):
            raise LookupError(f"the author's layer was not recorded with this input and mode, in {self.run.case}")
        live = {"x": x} | {name: getattr(self, name) for name in self.names}
        gradients = {name: tensors[f"{prefix}grad.{name}"] for name in live if f"{prefix}grad.{name}" in tensors}
        cotangent = self.problem.cotangent.to(tensors[f"{prefix}output"].dtype)
        output: Tensor = _Replayed.apply(  # type: ignore[no-untyped-call]
            tensors[f"{prefix}output"], cotangent, gradients, *(live[name] for name in gradients)
        )
        return output

    def _which(self) -> str:
        """The prefix of what was recorded with the values there are now."""
        given = self.problem.parameters | self.problem.frozen
        if all(self._holds(name, given[name]) for name in self.names if name in given):
            return ""
        if "own.output" in self.run.tensors and all(self._holds(name, self.run.tensors[f"start.{name}"]) for name in self.names):
            return "own."
        raise LookupError(f"the author's layer was not recorded with these values, in {self.run.case}")

    def _holds(self, name: str, value: Tensor) -> bool:
        live: Tensor = getattr(self, name)
        return torch.equal(live, value.to(live.dtype))


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, cotangent: Tensor, gradients: dict[str, Tensor], *live: Tensor) -> Tensor:
        ctx.cotangent, ctx.gradients = cotangent, list(gradients.values())
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.equal(gradient, ctx.cotangent):
            raise LookupError("the author's layer was not recorded with this cotangent")
        return (None, None, None, *(value.clone() for value in ctx.gradients))


def replayed(run: Run, problem: Problem) -> Subject:
    """A run as a subject, under canonical names."""
    layer = Replay(run, problem)
    tensors = dict(layer.named_parameters()) | dict(layer.named_buffers())
    shapes = {name: tuple(run.tensors[f"start.{name}"].shape) for name in layer.names}
    return Subject(layer, layer, {name: Entry(name) for name in layer.names}, tensors, shapes)
