"""Small models, what can be seen of their state, and the methods' formulas in plain float64."""

import collections
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lite
from lite.layers import linear_layers

CONFIGS = {
    "lora": lite.LoRAConfig,
    "dora": lite.DoRAConfig,
    "delora": lite.DeLoRAConfig,
    "pissa": lite.PiSSAConfig,
    "olora": lite.OLoRAConfig,
    "lora_xs": lite.LoRAXSConfig,
    "eva": lite.EVAConfig,
    "corda": lite.CorDAConfig,
}
TRAINED = dict.fromkeys(CONFIGS, ("lora_A", "lora_B")) | {
    "dora": ("lora_A", "lora_B", "lora_m"),
    "delora": ("lora_A", "lora_B", "lora_lambda"),
    "lora_xs": ("lora_R",),
}
DRAWN = ("lora", "dora", "delora")  # A is drawn, B is zero
EXACT = (*DRAWN, "eva")  # start as the model bit for bit
RESIDUAL = ("pissa", "olora", "corda")  # replace the weight
FROM_DATA = ("eva", "corda")


def each(*names: str) -> pytest.MarkDecorator:
    """A test for some methods; it gets the config's class as `make`."""
    return pytest.mark.parametrize("make", [CONFIGS[name] for name in names], ids=names)


each_variant = pytest.mark.parametrize("variant", CONFIGS)
each_config = each(*CONFIGS)


class Net(nn.Module):
    """Two linear layers around a norm, (…, 6) → (…, 4), with mixed requires_grad, mixed modes and a hook of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)
        self.last = nn.Linear(5, 4)
        self.register_buffer("scale", torch.tensor(1.5))
        self.norm.weight.requires_grad_(False)
        self.last.bias.requires_grad_(False)
        self.norm.eval()
        self.first.register_forward_hook(double)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, 6) → (…, 4)."""
        return self.last(self.norm(self.first(x))) * self.scale


def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The model's own hook, which no detach may remove."""
    return 2 * output


class OtherLinear(nn.Module):
    """Linear-like without being a torch class; its forward calls the input `hidden`."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.in_features, self.out_features = d_in, d_out
        self.weight = nn.Parameter(torch.randn(d_out, d_in))
        self.bias = nn.Parameter(torch.randn(d_out))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (…, d_in) → (…, d_out)."""
        return functional.linear(hidden, self.weight, self.bias)


class Coded(nn.Module):
    """Linear-like whose weight is kept as codes of another dtype, as quantisation libraries do."""

    def __init__(self, d_in: int, d_out: int, codes: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = d_in, d_out
        self.weight = nn.Parameter((3 * torch.randn(d_out, d_in)).round().to(codes), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, d_in) → (…, d_out)."""
        return functional.linear(x, self.weight.to(x.dtype) / 4)


def net() -> Net:
    """The same Net at every call."""
    torch.manual_seed(0)
    return Net()


def inputs(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers; without a shape an input of `Net`."""
    return torch.randn(shape or (3, 2, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def trained(model: nn.Module, seed: int = 2) -> nn.Module:
    """The model, after every trainable number has moved."""
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(inputs(*parameter.shape, 1, seed=100 * seed + number, dtype=parameter.dtype)[..., 0] / 2)
    return model


def calibration(model: nn.Module) -> list[Tensor]:
    """Two batches for a model that takes what its first linear layer takes; their spectrum decays."""
    layer = next(linear_layers(model))
    decay = 0.6 ** torch.arange(layer.d_in)
    dtype = layer.weight.dtype if layer.weight.is_floating_point() else torch.float32
    return [(inputs(10, 2, layer.d_in, seed=seed) * decay).to(dtype) for seed in (11, 12)]


def attach(model: nn.Module, configs: lite.Config | list[lite.Config], data: Any = None) -> nn.Module:
    """`lite.attach`, with data for the methods that start from it, and only then."""
    each = configs if isinstance(configs, list) else [configs]
    if any(lite.variant.variant_of(config).statistics for config in each):
        return lite.attach(model, configs, calibration_data=calibration(model) if data is None else data)
    return lite.attach(model, configs)


def adapted(configs: lite.Config | list[lite.Config]) -> nn.Module:
    """A `Net` with trained adapters."""
    return trained(attach(net(), configs))


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    """Everything about a tensor's value; NaNs and signed zeros compare too."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def all_bits(model: nn.Module) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """The bits of the model's state, under its keys."""
    return {name: bits(tensor) for name, tensor in model.state_dict().items()}


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that can be seen of a model: keys in their order, values, objects, requires_grad, modes, attributes, hooks."""
    state: dict[str, Any] = {"": list(all_bits(model).items())}
    for name, module in model.named_modules():
        kept = {key: value for key, value in vars(module).items() if isinstance(value, dict)}
        state[f"{name}.training"] = module.training
        state[f"{name}.attributes"] = list(vars(module))
        state[f"{name}.hooks"] = {key: list(value.items()) for key, value in kept.items() if "hooks" in key}
        state[f"{name}.objects"] = [(key, id(value)) for kind in ("_parameters", "_buffers") for key, value in kept[kind].items()]
        state[f"{name}.grads"] = [(p.requires_grad, p.grad is None) for p in module.parameters(recurse=False)]
    return state


def alive(model: nn.Module) -> collections.Counter:
    """How many modules, hooks, parameters and buffers the model has."""
    return collections.Counter(kind for module in model.modules() for kind in _parts(module))


def _parts(module: nn.Module) -> Iterator[str]:
    yield "module"
    for key, value in vars(module).items():
        if isinstance(value, dict):
            yield from [key] * len(value)


def formula(config: lite.Config, layer: nn.Linear, x: Tensor) -> Tensor:
    """What the method's paper says that the adapted layer computes, in float64."""
    W, A, B = (t.detach().double() for t in (layer.weight, layer.lora_A, layer.lora_B))
    bias = 0 if layer.bias is None else layer.bias.detach().double()
    if isinstance(config, lite.DeLoRAConfig):
        n = W.pow(2).sum(0).sqrt()
        for a, b in zip(A, B.T, strict=True):
            size = a.pow(2).sum().sqrt().clamp(min=1e-4) * b.pow(2).sum().sqrt().clamp(min=1e-4)
            W = W + layer.lora_lambda.detach().double() / config.r * torch.outer(b, a * n) / size
        return x.double() @ W.T + bias
    if isinstance(config, lite.LoRAXSConfig):
        s = 1 if config.alpha is None else config.alpha / config.r
        return x.double() @ (W + s * B @ layer.lora_R.detach().double() @ A).T + bias
    s = config.alpha / (config.r**0.5 if config.rslora else config.r)
    W = W + s * B @ A
    if isinstance(config, lite.DoRAConfig):
        W = layer.lora_m.detach().double()[:, None] * W / W.pow(2).sum(1, keepdim=True).sqrt()
    elif config.lora_bias:
        bias = bias + s * layer.lora_b.detach().double()
    return x.double() @ W.T + bias
