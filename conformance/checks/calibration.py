"""What a method takes from data."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from conformance import policy, runs
from conformance.check import check
from conformance.checks.decomposition import decomposition
from conformance.checks.lifecycle import NO_RUNTIME, refused
from conformance.hosts import Stacked, changes, stacked_batches, stacked_case
from conformance.policy import Judgement
from conformance.suite import Lifecycle
from conformance.trial import Trial
from conformance.verdict import Verdict, rounded_up
from refs.calibration import KINDS
from refs.case import Case
from refs.closed_form import aligned
from refs.formula import RESIDUAL, Beginning
from refs.numbers import normal
from refs.problem import problem
from refs.subject import Subject, seed
from refs.threads import one_thread

Inputs = dict[str, list[Tensor]]
Options = tuple[tuple[str, Any], ...]


@check(needs_reference=True)
def calibration(trial: Trial) -> None:
    """Data runs through the undamaged model, masked tokens count for nothing, every layer starts with what the method takes from its own input, and too little data is refused before anything is touched."""
    options = [given for given in dict.fromkeys(case.options for case in trial.suite.cases) if _takes_data(trial, given)]
    if not options:
        trial.not_applicable("the method starts from no data")
        return
    small = [case.but(options=options[0]) for case in trial.suite.cases[:2] if not case.weight.startswith("minilm:")]
    for case in trial.cases((c.but(state="init", data=kind) for c in small for kind in KINDS), guarded=False):
        mine, theirs = (runs.build(side, case, trial.formula) for side in (trial.candidate, trial.truth))
        decomposition(trial, case, mine, theirs)
        _angle(trial, case, mine, theirs)
    if trial.truth.name != "closed form" or trial.only is not None:
        return
    if trial.subject.lifecycle is None:
        trial.not_applicable(NO_RUNTIME)
        return
    for given in options:
        _in_a_model(trial, trial.subject.lifecycle, _stacked(trial, given))
    few = _stacked(trial, options[0])
    _in_a_model(trial, trial.subject.lifecycle, trial.suite.fit(few.but(rank=1)))  # a budget that does not reach every layer
    _masked_tokens(trial, trial.subject.lifecycle, few)
    _too_little(trial, trial.subject.lifecycle, few)


def _takes_data(trial: Trial, options: Options) -> bool:
    return trial.formula.takes_data(stacked_case(options))


def _stacked(trial: Trial, options: Options) -> Case:
    """What is asked of the layers of a `Stacked`: of what it asks for, the method's own."""
    case = stacked_case(options)
    return trial.suite.fit(case if trial.suite.cases[0].alpha is not None else case.but(alpha=None))


def _angle(trial: Trial, case: Case, mine: Subject, theirs: Subject) -> None:
    """Between the spaces that the rows of the factor on the input's side span: whatever the signs, and the rotations in a cluster."""
    name = trial.formula.right
    one, other = (torch.linalg.qr(side.read(name).double().T).Q for side in (mine, theirs))
    error = 1.0 if one.shape != other.shape else float(torch.linalg.matrix_norm(one - other @ (other.T @ one), 2))
    kappa = runs.start_kappa(case, trial.formula)[name] * trial.formula.condition(case, problem(case, trial.formula).weight)
    bound = policy.FUNCTION * case.d_in**0.5 * kappa * policy.U32  # a reference may compute it in float32
    if bound >= 1:  # no sine is larger
        trial.not_applicable("the space is not determined by the data", case, evidence=False)
        return
    verdict = Verdict.EQUIVALENT if error <= bound else Verdict.FAILS
    judgement = Judgement(verdict, error, bound, "sin of the angle", f"sin {rounded_up(error)}", f"at most {bound:.2g}")
    trial.judge(f"angle of {name}", case, judgement)


def _request(case: Case) -> dict[str, Any]:
    return {"r": case.rank, **({} if case.alpha is None else {"alpha": case.alpha}), **dict(case.options)}


def _in_a_model(trial: Trial, lifecycle: Lifecycle, case: Case) -> None:
    """Layers that share their input, and others behind them: what they saw, where they start, and with which scale they act."""
    model, batches = Stacked(), stacked_batches()
    with one_thread():
        plain = _seen(copy.deepcopy(model), lambda twin: [twin.eval()(**_without_labels(batch)) for batch in batches])
        seen = _seen(model, lambda it: lifecycle.attach(it, _request(case), data=batches))
    for name, inputs in plain.items():
        same = len(inputs) == len(seen[name]) and all(a.equal(b) for a, b in zip(inputs, seen[name], strict=True))
        trial.expect(
            same, f"what {name} receives{_words(case)}", None, "other inputs than in the plain model", "those of the plain model"
        )
    weights, tokens = Stacked(), _tokens(plain, batches, labels=trial.formula.label_mask)
    for name, layer in weights.layers():
        _layer(trial, case, name, layer, model.get_submodule(name), tokens)


def _layer(trial: Trial, case: Case, name: str, plain: nn.Linear, live: nn.Module, tokens: Inputs) -> None:
    """One layer's start and function beside the formula's."""
    data = {"layer" if other == name else other: calls for other, calls in tokens.items()}
    own = case.but(d_in=plain.in_features, d_out=plain.out_features)
    begin = trial.formula.begin(own, plain.weight.detach(), data)
    state = {key: value.detach() for key, value in live.state_dict().items()} | {RESIDUAL: live.weight.detach()}  # type: ignore[operator]
    right = trial.formula.right
    if begin.decomposed[right].shape[0] == 0:
        trial.expect(right not in state, f"{name}{_words(case)}", None, "an adapter", "none: it has no share of the budget")
        return
    should = aligned(trial.formula, begin.decomposed, begin.decomposed)
    n, kappa = max(own.d_in, own.d_out), policy.ILL_CONDITIONED
    if right not in state or state[right].shape != should[right].shape:
        got = f"{right} {tuple(state[right].shape)}" if right in state else "no adapter"
        trial.expect(False, f"start of {name}{_words(case)}", None, got, f"{right} {tuple(should[right].shape)}")
        return
    started = aligned(trial.formula, {key: state[key] for key in begin.decomposed}, begin.decomposed)
    for key, value in started.items():
        trial.judge(f"{key} of {name}{_words(case)}", None, policy.same_function(value, should[key], n=n, kappa=kappa))
    _function(trial, own, name, plain, live, state, begin)


def _function(
    trial: Trial, case: Case, name: str, plain: nn.Linear, live: nn.Module, state: dict[str, Tensor], begin: Beginning
) -> None:
    """Trainables moved, so that the scale shows."""
    x, tensors = normal(name, "x", shape=(4, case.d_in)), {key: state[key] for key in begin.inits.keys() | begin.frozen.keys()}
    noise = {key: normal(name, key, shape=tuple(state[key].shape)) for key in begin.inits}
    for key, value in trial.formula.moved(case, {key: state[key].clone() for key in begin.inits}, noise, 1.0).items():
        tensors[key].copy_(value)
    with torch.no_grad(), one_thread():
        should = linear(x, *trial.formula.adapted(case, plain.weight.detach(), plain.bias.detach(), tensors))
        got = live(x)
    n, kappa = max(case.d_in, case.d_out), policy.ILL_CONDITIONED
    trial.judge(f"output of {name}{_words(case)}", None, policy.same_function(got, should, n=n, kappa=kappa))


def _masked_tokens(trial: Trial, lifecycle: Lifecycle, case: Case) -> None:
    """Whatever stands in masked positions, the start is bit for bit the same."""
    states = []
    for garbage in (0.0, 1e3):
        model = Stacked()
        seed(case)
        lifecycle.attach(model, _request(case), data=stacked_batches(garbage, labels=trial.formula.label_mask))
        states.append({key: value.clone() for key, value in model.state_dict().items()})
    changed = changes(*states)
    trial.expect(not changed, "garbage in masked tokens", None, f"moves {', '.join(changed[:6])}", "moves nothing")


def _too_little(trial: Trial, lifecycle: Lifecycle, case: Case) -> None:
    batches = stacked_batches()
    nothing = [batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])} for batch in batches]
    few = trial.formula.least_tokens(case) - 1
    spoiled = [batch | {"x": batch["x"] * float("nan")} for batch in batches]
    cases: list[tuple[str, Any, tuple[str, ...]]] = [
        ("an empty iterable", [], ("empty",)),
        ("data whose every token is masked", nothing, ("q", "mask")),
        ("data that is not finite", spoiled, ("q", "finite")),
        ("a batch of another kind", ["text"], ("batch 1", "str")),
    ]
    if few:
        cases.append((f"{few} tokens", [{"x": batches[0]["x"][:1, :few]}], ("q", str(few), "token")))
    for what, data, words in cases:
        with refused(trial, what, model := Stacked(), *words):
            lifecycle.attach(model, _request(case), data=data)


def _seen(model: Stacked, run: Any) -> Inputs:
    """What its layers receive while something runs it."""
    seen: Inputs = {name: [] for name, _ in model.layers()}
    with _recording(model, seen):
        run(model)
    return seen


@contextmanager
def _recording(model: Stacked, seen: Inputs) -> Iterator[None]:
    def record(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["input"]
        seen[name].append(x.detach().clone())

    with ExitStack() as stack:
        for name, layer in model.layers():
            stack.callback(layer.register_forward_pre_hook(partial(record, name), with_kwargs=True).remove)
        yield


def _tokens(seen: Inputs, batches: list[dict[str, Tensor]], *, labels: bool) -> Inputs:
    masks = [(batch["attention_mask"] * (batch["label_mask"] if labels else 1)).bool() for batch in batches]
    return {name: [x[mask] for x, mask in zip(inputs, masks, strict=True)] for name, inputs in seen.items()}


def _without_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in batch.items() if key != "label_mask"}


def _words(case: Case) -> str:
    asked = case.options if case.rank == stacked_case().rank else (("r", case.rank), *case.options)
    return "".join(f", {name}={value}" for name, value in asked)
