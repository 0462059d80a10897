"""What there is to compare, before anything is compared."""

from torch import nn

from conformance import runs
from conformance.check import check
from conformance.trial import Trial
from refs.case import Case
from refs.formula import RESIDUAL
from refs.problem import problem
from refs.subject import Subject


@check(needs_reference=True, among_references=True)
def mapping(trial: Trial) -> None:
    """Parameters and buffers map one to one by name and shape; the same tensors are trained; buffers are no parameters."""
    for case in trial.cases(guarded=False):
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        shapes = trial.formula.shapes(case, problem(case, trial.formula).weight)
        trained = list(problem(case, trial.formula).parameters)
        _trained_tensors(trial, case, mine, trained)
        for name in shapes:
            if name in trained or name in mine.map:
                _tensor(trial, case, name, mine, theirs, trainable=name in trained)


def _trained_tensors(trial: Trial, case: Case, mine: Subject, names: list[str]) -> None:
    """What would be trained is what the reference trains: no more (a leak into the base), no less (a frozen adapter)."""
    should = {mine.map[name].name for name in names if name in mine.map}
    unmapped = [name for name in names if name not in mine.map]
    got = f"trains {_listed(mine.trainable)}" + (f"; the map lacks {_listed(set(unmapped))}" if unmapped else "")
    trial.expect(mine.trainable == should and not unmapped, "trained", case, got, f"trains {_listed(should | set(unmapped))}")


def _tensor(trial: Trial, case: Case, name: str, mine: Subject, theirs: Subject, *, trainable: bool) -> None:
    try:
        live, value = mine[name], mine.read(name)
    except (KeyError, ValueError) as error:
        trial.expect(False, name, case, str(error).strip("'\""), "there, in the mapped shape")
        return
    kind = "parameter" if isinstance(live, nn.Parameter) else "buffer"
    expected = "parameter" if trainable or name == RESIDUAL else "buffer"
    got = f"{kind} {tuple(value.shape)}"
    should = f"{expected} {tuple(theirs.read(name).shape)}"
    trial.expect(got == should, name, case, got, should)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
