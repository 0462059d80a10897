"""A layer whose code cannot be had any more, as a reference: what was recorded of it, replayed."""

from dataclasses import dataclass

from refs import recorded
from refs.authors import traces
from refs.authors.layer import replayed
from refs.case import Case
from refs.problem import Problem
from refs.recorded import Recording
from refs.subject import Subject


@dataclass(frozen=True, eq=False)
class RecordedLayer:
    """The recordings of one folder, each of one case.

    folder: in `refs/vectors`. equation: what the layer computes. name: of the column. other_start: why its start is not compared.
    in_float32: whether it computes in float32 whatever the dtype, so that it is right to float32 only.
    """

    folder: str
    equation: str
    name: str
    other_start: str | None = "its function was recorded, not how it starts"
    is_fixed: bool = True
    in_float32: bool = False

    @property
    def version(self) -> str:
        """Repository, commit and file, as the recordings say."""
        about = recorded.read(recorded.names(self.folder)[0]).about
        return f"{about['repo']} {about['commit'][:7]}, {about['file']}, recorded"

    def missing(self) -> str | None:
        """Always here: a recording that is damaged is an error."""
        return None

    def refuses(self, case: Case) -> str | None:
        """Everything but the runs that were recorded."""
        recording = recorded.of(case)
        if recording is None or not case.weight.startswith(f"{recorded.KIND}{self.folder}/"):
            return "was recorded on its own numbers only"
        if (case.dtype, case.state) != (recording.dtype, recording.state):
            return f"was recorded here in {recording.dtype}, in the state {recording.state}"
        if case.mode != "train" or case.adapter_dtype or case.option("dropout", 0.0):
            return "was recorded in train mode, in one dtype, without dropout"
        return None

    def build(self, case: Case, problem: Problem) -> Subject:
        """The layer as its recording tells; LookupError for other numbers."""
        recording = recorded.of(case)
        if recording is None or not _is_of(problem, recording):
            raise LookupError(f"{self.name} was not run on these numbers: {case!r}")
        trained = recording.under("param")
        frozen = {name: value for name, value in recording.frozen.items() if name in problem.frozen}
        start = {f"start.{name}": value for name, value in (trained | frozen).items()}
        gradients = {f"grad.{name}": value for name, value in recording.under("grad").items()}
        tensors = start | gradients | {"output": recording.tensors["y"]}
        return replayed(traces.run_of(case, problem, tuple(trained), tensors), problem)


def _is_of(problem: Problem, recording: Recording) -> bool:
    """Whether these are the numbers that it was recorded on."""
    wanted = {"weight": problem.weight, "x": problem.x, "g": problem.cotangent} | (
        {} if problem.bias is None else {"bias": problem.bias}
    )
    pairs = [(value, recording.tensors[name]) for name, value in wanted.items()]
    pairs += [(value, recording.under("param")[name]) for name, value in problem.parameters.items()]
    pairs += [(value, recording.frozen[name]) for name, value in problem.frozen.items()]
    return all(value.equal(told.double()) for value, told in pairs)
