"""The model at work: what each layer receives and what the output wants of it, and the same run with other layers in their place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lite.layers import Layer
from refs.numbers import normal

Outputs = dict[str, Tensor]
Change = Callable[[Layer, Tensor, Tensor], Tensor]  # layer, x (…, d_in), y (…, d_out) → what stands for y


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a layer: x (…, d_in), and the gradient (…, d_out) that came back, None where the output does not depend on it."""

    x: Tensor
    cotangent: Tensor | None


def outputs(model: nn.Module, batch: Mapping[str, Any]) -> Outputs:
    """The floating-point tensors that the model returns, by name: logits, last hidden state, pooled output."""
    returned = model(**batch)
    named = returned.items() if isinstance(returned, Mapping) else [("output", returned)]
    return {name: value for name, value in named if isinstance(value, Tensor) and value.is_floating_point()}


def observed(model: nn.Module, batch: Mapping[str, Any], layers: Sequence[Layer]) -> tuple[Outputs, dict[str, list[Call]]]:
    """One pass forward and one backward, from a random direction of the output; by name, each layer's calls. The model stays as it is.

    What is kept is of the size of the activations of these few tokens.
    """
    seen: list[tuple[Layer, Tensor, Tensor]] = []

    def keep(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        begins = not y.requires_grad  # parameters are frozen meanwhile
        seen.append((layer, x.detach(), y.requires_grad_()))
        return y.clone() if begins else y  # the model may write into what it gets, not into the begin of a graph

    with _frozen(model), _changed(layers, keep), torch.enable_grad():
        given = outputs(model, batch)
        reached = {name: value for name, value in given.items() if value.requires_grad}
        random = [normal("cotangent", name, shape=tuple(value.shape)).to(value.dtype) for name, value in reached.items()]
        wanted: Sequence[Tensor | None] = [None] * len(seen)
        if reached:
            wanted = torch.autograd.grad(list(reached.values()), [y for *_, y in seen], random, allow_unused=True)
    calls: dict[str, list[Call]] = {}
    for (layer, x, _), cotangent in zip(seen, wanted, strict=True):
        calls.setdefault(layer.name, []).append(Call(x, cotangent))
    return {name: value.detach() for name, value in given.items()}, calls


@torch.no_grad()
def replaced(model: nn.Module, batch: Mapping[str, Any], layers: Sequence[Layer], change: Change) -> Outputs:
    """The outputs with each layer's y changed, one layer after the other, as the model reaches them."""
    with _changed(layers, change):
        return outputs(model, batch)


@contextmanager
def _changed(layers: Sequence[Layer], change: Change) -> Iterator[None]:
    """`change` behind every layer; not where it calls that layer itself."""
    inside = False

    def hook(layer: Layer, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor | None:
        nonlocal inside
        if inside:
            return None
        inside = True
        try:
            return change(layer, args[0] if args else kwargs[layer.input_name], y)
        finally:
            inside = False

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(partial(hook, layer), with_kwargs=True).remove)
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No gradients of parameters, which would take another model's memory."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
