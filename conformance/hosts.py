"""Small models for the checks of a runtime, and their state, to be compared before and after."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from refs.bases import OtherLinear, base_layer
from refs.case import Case
from refs.numbers import normal

WIDTH, INNER = 12, 8


class Host(nn.Module):
    """Two linear layers with a norm between them; requires_grad and modes are mixed, to see whether they are restored."""

    def __init__(self, *, seed: int = 0, second: nn.Module | None = None) -> None:
        super().__init__()
        self.first = _linear(seed, "first", WIDTH, INNER)
        self.norm = nn.LayerNorm(INNER)
        self.second = second or _linear(seed, "second", INNER, WIDTH)
        self.norm.weight.requires_grad_(False)
        self.norm.bias.grad = torch.ones(INNER)  # one that is there before
        self.first.eval()

    def forward(self, x: Tensor) -> Tensor:
        """x (…, 12) → (…, 12)."""
        output: Tensor = self.second(self.norm(self.first(x)))
        return output


def _linear(seed: int, name: str, d_in: int, d_out: int) -> nn.Module:
    case = Case(d_in=d_in, d_out=d_out, dtype="float32")
    return base_layer(
        case, normal(seed, name, "weight", shape=(d_out, d_in)) / d_in**0.5, normal(seed, name, "bias", shape=(d_out,))
    )


def name_in_name() -> nn.Module:
    """Two layers of one shape; one's name is contained in the other's."""
    return nn.Sequential(OrderedDict(proj=_linear(0, "proj", WIDTH, WIDTH), up_proj=_linear(0, "up_proj", WIDTH, WIDTH)))


def host_input() -> Tensor:
    """x (2, 3, 12), float32."""
    return normal("host", "x", shape=(2, 3, WIDTH)).float()


class Stacked(nn.Module):
    """Two layers that share their input, one that gets what they make of it, and one as wide as the first with an input of its
    own, called by keyword; float64, token by token in eval mode. In train mode, which it is in, dropout spoils what the layers receive.
    """

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = _linear(0, "q", WIDTH, INNER), _linear(0, "k", WIDTH, INNER)
        self.dropout = nn.Dropout(0.5)
        self.o, self.p = _linear(0, "o", INNER, WIDTH), _linear(0, "p", WIDTH, WIDTH)
        self.double()
        self.o.eval()

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """x (sequences, tokens, 12) → the same shape."""
        output: Tensor = self.p(input=self.o(self.dropout(torch.tanh(self.q(x) - self.k(x)))))
        return output

    def layers(self) -> list[tuple[str, nn.Linear]]:
        """By name, in the model's order."""
        return [(name, layer) for name, layer in self.named_children() if isinstance(layer, nn.Linear)]


def stacked_case(options: tuple[tuple[str, Any], ...] = ()) -> Case:
    """What is asked of the layers of `Stacked`; `d_in` and `d_out` are a layer's."""
    return Case(d_in=WIDTH, d_out=INNER, rank=2, alpha=3.0, options=options)


def stacked_batches(garbage: float = 7.0, *, labels: bool = False) -> list[dict[str, Tensor]]:
    """Three batches of three padded sequences with a mean, stronger directions and weaker ones. garbage: what stands in padded tokens,
    and with `labels` in those that a label mask leaves out, too.
    """
    strengths = torch.where(torch.arange(WIDTH) < 4, 3.0, 2.1).double()  # ranks go 1, 1, 3, 3 by share, otherwise by any other rule
    batches = []
    for n in range(3):
        x = normal("stacked", n, shape=(3, 9, WIDTH)) * strengths + 1
        attention = torch.arange(9) < torch.tensor([9, 7 - 2 * n, 4 - n])[:, None]  # calls of different sizes
        label = (torch.arange(9) >= 1 + n).expand(3, 9)
        keep = attention & label if labels else attention
        x = torch.where(keep[..., None], x, garbage * normal("garbage", n, shape=(3, 9, WIDTH)))
        batches.append({"x": x, "attention_mask": attention.long(), "label_mask": label.long()})
    return batches


class Quantised(nn.Module):
    """Linear-like with a packed integer weight, as quantisation libraries keep it."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = INNER, WIDTH
        packed = (normal("packed", shape=(INNER * WIDTH // 2, 1)) * 20).to(torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, 8) → (…, 12)."""
        return linear(x, self.weight.reshape(WIDTH, -1).repeat(1, 2).to(x.dtype))


class Brittle(OtherLinear):
    """Linear-like that refuses to be changed: one of the ways in which attaching can fail midway."""

    def __init__(self, refuses: str) -> None:
        super().__init__(INNER, WIDTH, bias=False)
        nn.init.ones_(self.weight)
        self.refuses: str | None = refuses

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Raises if `refuses` names it."""
        self._maybe("parameter")
        super().register_parameter(name, param)

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Raises if `refuses` names it."""
        self._maybe("hook")
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """Raises if `refuses` names it."""
        self._maybe("hook")
        return super().register_forward_pre_hook(*args, **kwargs)

    def _maybe(self, action: str) -> None:
        if getattr(self, "refuses", None) == action:
            raise OSError(f"planted failure: no {action} can be registered")


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that attaching may touch: bits, parameters as objects, requires_grad, modes, attributes, hooks."""
    state: dict[str, Any] = {f"value of {name}": tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state[f"object {name}"] = id(parameter)  # optimizers and tied modules hold the object
        state[f"requires_grad of {name}"] = parameter.requires_grad
        state[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, module in model.named_modules():
        state[f"mode of {name or 'model'}"] = module.training
        state[f"attributes of {name or 'model'}"] = sorted(vars(module))
        state[f"hooks of {name or 'model'}"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    return state


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two states, in words."""
    return [name for name in sorted(before.keys() | after.keys()) if not _same(before.get(name), after.get(name))]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.equal(other)
    return type(one) is type(other) and bool(one == other)
