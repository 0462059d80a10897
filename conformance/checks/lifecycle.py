"""How adapters come, go and are stored."""

import json
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from conformance import policy, runs
from conformance.check import check
from conformance.hosts import Brittle, Host, Quantised, changes, host_input, name_in_name, state_of
from conformance.suite import Lifecycle
from conformance.trial import Trial, path_in, scratch
from refs.case import Case
from refs.numbers import normal
from refs.problem import problem
from refs.subject import run, run_at

CLEAR = (ValueError, TypeError, RuntimeError, OSError)  # an error that was meant for a reader
NO_RUNTIME = "a bare layer has no runtime"


@check(needs_reference=False)
def round_trip(trial: Trial) -> None:
    """What was saved comes back bit for bit in parameters, outputs and gradients; load, save, load changes nothing. A layer that has computed before computes with the numbers that it has now."""
    for case in trial.cases(_stored(trial)):
        numbers = problem(case, trial.formula)
        subject = runs.build(trial.candidate, case, trial.formula)
        before = run(subject, case, numbers, numbers.parameters)
        with scratch() as folder:
            first, second = path_in(folder, "first.safetensors"), path_in(folder, "second.safetensors")
            trial.subject.save(subject, first)
            restored = trial.subject.restore(case.but(seed=case.seed + 1), numbers, first)
            trial.subject.save(restored, second)
            (tensors, metadata), (again, metadata_again) = read_file(first), read_file(second)
        for name in subject.map:
            trial.judge(name, case, policy.same_bits(restored.read(name), subject.read(name)))
        for name, value in run(restored, case, numbers).items():
            trial.judge(name, case, policy.same_bits(value, before[name]))
        same = metadata == metadata_again and tensors.keys() == again.keys() and all(again[k].equal(v) for k, v in tensors.items())
        trial.expect(same, "file after load and save", case, "another file", "the same file")
        if trial.subject.lifecycle:
            declared = set(subject.shapes.values())
            dense = [k for k, v in tensors.items() if v.numel() >= case.d_in * case.d_out and tuple(v.shape) not in declared]
            should = f"no tensor of {case.d_out} × {case.d_in}"
            trial.expect(not dense, "size of the file", case, f"holds {', '.join(dense)}", should)
    _again(trial)
    if trial.subject.lifecycle and trial.only is None:
        _two_layers(trial, trial.subject.lifecycle)
        _name_in_name(trial, trial.subject.lifecycle)


def _stored(trial: Trial) -> Iterator[Case]:
    """The grid in two dtypes; dropout and an adapter dtype of its own, which a file has to remember."""
    for case in trial.suite.cases:
        yield from (case.but(dtype=dtype) for dtype in ("float32", "bfloat16"))
    plain = trial.suite.cases[0]
    yield plain.but(dtype="bfloat16", adapter_dtype="float32")
    if trial.suite.dropout:
        yield plain.but(dtype="float32", options={"dropout": 0.6})


def _again(trial: Trial) -> None:
    """What a layer keeps of one call must not be used in the next, after training has changed its numbers."""
    for case in trial.cases(trial.suite.cases[0].but(mode=mode) for mode in ("train", "eval")):
        numbers = problem(case, trial.formula)
        subject = runs.build(trial.candidate, case, trial.formula)
        run(subject, case, numbers)
        subject.module.train()  # some have merged themselves in eval mode, and must not be written to
        now, fresh = run_at(subject, case, numbers, trial.formula), runs.at_values(trial.candidate, case, trial.formula)
        for name, value in now.items():
            n, kappa = max(case.d_in, case.d_out), runs.kappa(case, trial.formula)[name]
            trial.judge(f"{name} of a second call", case, policy.same_function(value, fresh[name], n=n, kappa=kappa))


@torch.no_grad()
def _two_layers(trial: Trial, lifecycle: Lifecycle) -> None:
    """Two configs on two layers: each acts once, as it does alone, and both come back from one file."""
    requests: dict[str, dict[str, Any]] = {
        "first": {"target_names": ["first"], "dtype": torch.float64},
        "second": {"target_names": ["second"]},
    }
    model, x = Host(), host_input()
    lifecycle.attach(model, *requests.values(), data=_data(trial, x))
    _move(model)
    for name, request in requests.items():
        alone = nn.Sequential(OrderedDict(layer=getattr(Host(), name)))  # under another name, in another place
        seen = x[..., : getattr(model, name).in_features]
        lifecycle.attach(alone, request | {"target_names": ["layer"]}, data=_data(trial, seen))
        alone[0].load_state_dict(getattr(model, name).state_dict())
        trial.judge(f"{name} of two layers", None, policy.same_bits(getattr(model, name)(seen), alone(seen)))
    with scratch() as folder:
        lifecycle.save(model, path_in(folder))
        lifecycle.load(restored := Host(), path_in(folder))
        nearby = x + normal("nearby", shape=tuple(x.shape)).to(x.dtype) / 1024  # another start, the same shares of a budget
        lifecycle.attach(replaced := Host(), *requests.values(), data=_data(trial, nearby))
        lifecycle.load(replaced, path_in(folder))
        stored, _ = read_file(path_in(folder))
    for what, other in (("two layers from one file", restored), ("a file over another start", replaced)):
        changed = changes(model.state_dict(), other.state_dict())
        trial.expect(not changed, what, None, f"differ: {', '.join(changed[:6])}", "bit for bit as saved")
    added = sorted(model.state_dict().keys() - Host().state_dict().keys())
    foreign = [name for name in stored if not any(name == known or name.startswith(f"{known}.") for known in added)]
    named = not foreign and set(added) <= stored.keys()
    trial.expect(named, "names in the file", None, ", ".join(sorted(stored)), f"{', '.join(added)}, and what belongs to them")
    trial.judge("output from one file", None, policy.same_bits(restored(x), model(x)))


@torch.no_grad()
def _name_in_name(trial: Trial, lifecycle: Lifecycle) -> None:
    """Each layer gets its own tensors back where its name contains another's; they have one shape, so that a mix-up is no error."""
    lifecycle.attach(model := name_in_name(), {}, data=_data(trial))
    _move(model)
    with scratch() as folder:
        lifecycle.save(model, path_in(folder))
        lifecycle.load(restored := name_in_name(), path_in(folder))
    changed = changes(model.state_dict(), restored.state_dict())
    trial.expect(not changed, "names that contain one another", None, f"differ: {', '.join(changed[:6])}", "bit for bit as saved")


def _move(model: nn.Module) -> None:
    """Every trainable, each in a way of its own."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.add_(normal("moved", name, shape=tuple(parameter.shape)).to(parameter.dtype) / 8)


@check(needs_reference=False)
def detach(trial: Trial) -> None:
    """After attach, training steps and detach the model is bit for bit what it was: values, keys, requires_grad, modes, hooks."""
    lifecycle = trial.subject.lifecycle
    if lifecycle is None:
        trial.not_applicable(NO_RUNTIME)
        return
    model, x = Host(), host_input()
    before, output = state_of(model), model(x).detach()
    lifecycle.attach(model, {}, data=_data(trial, x))
    frozen = sorted(name for name, p in model.named_parameters() if p.requires_grad and f"value of {name}" in before)
    trial.expect(not frozen, "base while attached", None, f"trains {', '.join(frozen)}", "frozen")
    _train(model, x)
    moved = not model(x).equal(output)
    trial.expect(moved, "output after two steps", None, "the adapter changed nothing", "a changed output")
    lifecycle.detach(model)
    _unchanged(trial, "model after detach", model, before)
    trial.judge("output after detach", None, policy.same_bits(model(x).detach(), output))


def _data(trial: Trial, x: Tensor | None = None) -> list[Tensor] | None:
    """Inputs of a host, for methods that need data to start."""
    if not trial.suite.bare.data:
        return None
    return [host_input() if x is None else x]


def _train(model: nn.Module, x: Tensor) -> None:
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


@check(needs_reference=False)
def failed_attach(trial: Trial) -> None:
    """An attach that fails at its second layer, wherever it fails, leaves the model bit for bit as it was, ready for another try."""
    lifecycle = trial.subject.lifecycle
    if lifecycle is None:
        trial.not_applicable(NO_RUNTIME)
        return
    for refuses in ("parameter", "hook"):
        model = Host(second=(brittle := Brittle(refuses)))
        with refused(trial, f"no {refuses} can be registered on the second layer", model, "planted"):
            lifecycle.attach(model, {}, data=_data(trial))
        brittle.refuses = None
        lifecycle.attach(model, {}, data=_data(trial))
        lifecycle.detach(model)
    if trial.formula.takes_data(trial.suite.bare):
        with refused(trial, "data whose second batch the model cannot take", model := Host()):
            lifecycle.attach(model, {}, data=[host_input(), torch.ones(2, 3)])


@check(needs_reference=False)
def bad_input(trial: Trial) -> None:
    """Every bad option, target, weight and file is refused with an error that shows both sides, and the model stays as it was."""
    lifecycle = trial.subject.lifecycle
    if lifecycle is None:
        trial.not_applicable(NO_RUNTIME)
        return
    _bad_requests(trial, lifecycle)
    _bad_states(trial, lifecycle)
    _bad_files(trial, lifecycle)


def _bad_requests(trial: Trial, lifecycle: Lifecycle) -> None:
    bad: list[tuple[str, list[Mapping[str, Any]], tuple[str, ...]]] = [
        ("an unknown option", [{"rnak": 4}], ("rnak", "target_names")),
        ("no target matched", [{"target_names": ["nowhere"]}], ("nowhere", "first", "second")),
        ("overlapping targets", [{"target_names": ["first"]}, {"target_names": ["first", "second"]}], ("first", "target")),
        ("a broken pattern", [{"target_names": ["("]}], ("target_names", "(")),
        ("an unknown role", [{"target_roles": ["raeder"]}], ("raeder", "reader")),
        ("an integer dtype", [{"dtype": torch.int8}], ("dtype", "int8")),
    ]
    if trial.suite.cases[0].rank is not None:
        bad += [(f"rank {rank!r}", [{"r": rank}], ("r ", repr(rank))) for rank in (0, -1, 2.5, True)]
    if trial.suite.dropout:
        bad += [(f"dropout {p!r}", [{"dropout": p}], ("dropout", repr(p))) for p in (1.0, -0.1, float("nan"), "0.1")]
    bad += [(what, [request], words) for what, request, words in trial.suite.refused]
    for what, requests, words in bad:
        model = Host()
        with refused(trial, what, model, *words):
            lifecycle.attach(model, *requests, data=_data(trial))
    model = Host(second=Quantised())
    if lifecycle.reads_weight:
        with refused(trial, "a quantised weight", model, "int8", "second"):
            lifecycle.attach(model, {}, data=_data(trial))
    else:
        lifecycle.attach(model, {}, data=_data(trial))
    if trial.suite.bare.data:
        with refused(trial, "no data for a method that starts from data", model := Host(), "data"):
            lifecycle.attach(model, {})
    elif not trial.formula.takes_data(trial.suite.bare):
        with refused(trial, "data for a method that uses none", model := Host(), "data"):
            lifecycle.attach(model, {}, data=[host_input()])


def _bad_states(trial: Trial, lifecycle: Lifecycle) -> None:
    with scratch() as folder:
        model = Host()
        with refused(trial, "save without attach", model, "attach"):
            lifecycle.save(model, path_in(folder))
        trial.expect(not any(Path(folder).iterdir()), "file of a refused save", None, "a file was written", "no file")
        with refused(trial, "detach without attach", model, "attach"):
            lifecycle.detach(model)
        lifecycle.attach(model, {}, data=_data(trial))
        with refused(trial, "attach twice", model, "attached already", "detach"):
            lifecycle.attach(model, {}, data=_data(trial))
        lifecycle.stranger().attach(other := Host(), {})
        lifecycle.save(model, path_in(folder))
        with refused(trial, "another variant's file", other, "attached", "holds"):
            lifecycle.load(other, path_in(folder))


def _bad_files(trial: Trial, lifecycle: Lifecycle) -> None:
    with scratch() as folder:
        lifecycle.attach(model := Host(), {}, data=_data(trial))
        good = path_in(folder, "good.safetensors")
        lifecycle.save(model, good)
        for what, write, words in _damages(good):
            write(bad := path_in(folder, f"{what.replace(' ', '-')}.safetensors"))
            plain = Host()
            with refused(trial, what, plain, *words):
                lifecycle.load(plain, bad)
        for what, other in _other_bases():
            with refused(trial, f"a file for another {what}", other, "another base", "first"):
                lifecycle.load(other, good)
        with refused(trial, "another model's file", smaller := nn.ModuleDict({"first": Host().first}), "another model", "second"):
            lifecycle.load(smaller, good)


def _other_bases() -> Iterator[tuple[str, Host]]:
    """Bases that differ in everything, in one number of a weight, in one of a bias."""
    yield "base", Host(seed=1)
    for name in ("weight", "bias"):
        other = Host()
        with torch.no_grad():
            getattr(other.first, name).flatten()[-1].mul_(1 + 2.0**-20)
        yield name, other


def _damages(good: Path) -> Iterator[tuple[str, Callable[[Path], Any], tuple[str, ...]]]:
    """Ways to spoil a file: what, how to write it, words that the error has to contain."""
    data = good.read_bytes()
    tensors, metadata = read_file(good)
    name, *others = sorted(tensors)
    rest = {key: value for key, value in tensors.items() if key != name}
    yield "a missing file", lambda _: None, ("a-missing-file",)
    yield "a truncated file", lambda path: path.write_bytes(data[: len(data) // 2]), ("safetensors",)
    yield "an empty file", lambda path: path.write_bytes(b""), ("safetensors",)
    yield "no safetensors", lambda path: path.write_bytes(b"PK\x03\x04 something else" * 9), ("safetensors",)
    yield "a foreign safetensors", lambda path: save_file(tensors, path), ("format",)
    yield "a missing tensor", lambda path: save_file(rest, path, metadata), ("missing", name)
    for other in others:
        fewer = {key: value for key, value in tensors.items() if key != other}
        yield f"a missing tensor {other}", partial(save_file, fewer, metadata=metadata), ("missing", other)
    yield (
        "an extra tensor",
        lambda path: save_file(tensors | {"first.extra": torch.ones(2)}, path, metadata),
        ("extra", "first.extra"),
    )
    misshaped = {**rest, name: torch.zeros(3, 2, 1)}
    yield (
        "a misshaped tensor",
        lambda path: save_file(misshaped, path, metadata),
        (name, "(3, 2, 1)", str(tuple(tensors[name].shape))),
    )
    integers = {**rest, name: tensors[name].to(torch.int32)}
    yield "an integer tensor", lambda path: save_file(integers, path, metadata), (name, "int32")
    yield (
        "an unknown version",
        lambda path: save_file(tensors, path, metadata | {"version": "999"}),
        ("999", repr(metadata["version"])),
    )
    unknown = json.loads(json.dumps(metadata).replace('variant\\": \\"', 'variant\\": \\"un'))
    yield "an unknown variant", lambda path: save_file(tensors, path, unknown), ("unknown", "known:")
    yield "an unreadable header", lambda path: save_file(tensors, path, metadata | {"adapters": "[{}]"}), ("adapters",)


@contextmanager
def refused(trial: Trial, what: str, model: nn.Module, *words: str) -> Iterator[None]:
    """The block has to raise a clear error with these words and leave the model alone."""
    before = state_of(model)
    should = f"an error that says {', '.join(map(repr, words))}"
    try:
        yield
    except CLEAR as error:
        missing = [word for word in words if word not in str(error)]
        trial.expect(not missing, what, None, f"{type(error).__name__}: {error}", should)
    except Exception as error:  # whatever it is, it was not meant for a reader
        trial.expect(
            False, what, None, f"{type(error).__name__} from inside: {traceback.format_exception_only(error)[-1].strip()}", should
        )
    else:
        trial.expect(False, what, None, "no error", should)
    _unchanged(trial, f"model after {what}", model, before)


def _unchanged(trial: Trial, what: str, model: nn.Module, before: dict[str, Any]) -> None:
    changed = changes(before, state_of(model))
    trial.expect(not changed, what, None, f"changed: {', '.join(changed[:6])}", "bit for bit as before")


def read_file(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(file, framework="pt") as handle:
        return {key: handle.get_tensor(key).clone() for key in handle.keys()}, handle.metadata() or {}
