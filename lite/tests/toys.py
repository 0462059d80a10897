"""The methods, small models, and what can be seen of their state."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lite
from lite.layers import linear_layers
from lite.variant import variant_of


@dataclasses.dataclass(frozen=True)
class Make:
    """Makes configs of one method that fit the layers here: of some options it takes the ones that the method has."""

    config: type[lite.Config]
    fitting: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, **options: Any) -> lite.Config:
        """A config; an r for which there is none becomes the next larger one, and blocks make up r, where there are any."""
        assert options.keys() <= {name for make in CONFIGS.values() for name in make.options}, options
        own = self.fitting | {name: value for name, value in options.items() if name in self.options}
        if self.config is lite.HRAConfig and "r" in own:
            own["r"] += own["r"] % 2
        if "r" in own:  # what has to find room in it
            own["r"] = max(own["r"], own.get("lora_rank", 1), own.get("block", 0) + 1)
        if self.config is lite.AntiPaSTORotConfig and "r" in own:
            sizes = [size for size in range(2, own["r"] + 1) if own["r"] % size == 0]
            own = ({"block_size": sizes[0]} if sizes else {"rotate_basis": "none"}) | own
        return self.config(**own)

    @property
    def options(self) -> list[str]:
        """What can be set."""
        return [field.name for field in dataclasses.fields(self.config)]

    @property
    def variant(self) -> lite.Variant:
        """The method."""
        return variant_of(self())


CONFIGS = {
    "lora": Make(lite.LoRAConfig),
    "dora": Make(lite.DoRAConfig),
    "delora": Make(lite.DeLoRAConfig),
    "pissa": Make(lite.PiSSAConfig),
    "olora": Make(lite.OLoRAConfig),
    "lora_xs": Make(lite.LoRAXSConfig),
    "eva": Make(lite.EVAConfig),
    "corda": Make(lite.CorDAConfig),
    "asvd": Make(lite.ASVDConfig),
    "ia3": Make(lite.IA3Config),
    "ia3_ff": Make(lite.IA3FFConfig),
    "hra": Make(lite.HRAConfig),
    "road": Make(lite.RoadConfig, {"group_size": 4}),
    "antipasto": Make(lite.AntiPaSTOConfig),
    "antipasto_dplr": Make(lite.AntiPaSTODPLRConfig, {"lora_rank": 2}),
    "antipasto_arrow": Make(lite.AntiPaSTOArrowConfig, {"block": 1}),
    "antipasto_corda": Make(lite.AntiPaSTOCorDAConfig),
    "antipasto_asvd": Make(lite.AntiPaSTOASVDConfig),
    "antipasto_ablate": Make(lite.AntiPaSTOAblateConfig, {"init_alpha": 0.0}),
    "antipasto_rot": Make(lite.AntiPaSTORotConfig),
}
TRAINED = dict.fromkeys(CONFIGS, ("lora_A", "lora_B")) | {
    "dora": ("lora_A", "lora_B", "lora_m"),
    "delora": ("lora_A", "lora_B", "lora_lambda"),
    "lora_xs": ("lora_R",),
    "ia3": ("lora_g",),
    "ia3_ff": ("lora_g",),
    "hra": ("lora_U",),
    "road": ("lora_theta", "lora_alpha"),
    "antipasto": ("lora_g",),
    "antipasto_dplr": ("lora_g", "lora_A", "lora_B"),
    "antipasto_arrow": ("lora_M", "lora_g"),
    "antipasto_corda": ("lora_g",),
    "antipasto_asvd": ("lora_g",),
    "antipasto_ablate": ("lora_c", "lora_alpha"),
    "antipasto_rot": ("lora_delta_s", "lora_rot_T"),
}
DRAWN = ("lora", "dora", "delora")  # A is drawn, B is zero
SELECTING = (
    "antipasto",
    "antipasto_rot",
    "antipasto_dplr",
    "antipasto_arrow",
)  # in a weight's singular basis, of which data may choose a part
ORIENTED = ("antipasto_corda", "antipasto_asvd")  # in a basis that data always orient
BY_OPTION_FROM_DATA = ("antipasto_ablate",)
IN_A_BASIS = (*SELECTING, *ORIENTED, *BY_OPTION_FROM_DATA)
SMALL = {"lora_xs": 1e-4, "antipasto_rot": 1e-2}  # how far, relative to the output, a start may be from the model
EXACT = (
    *DRAWN,
    "eva",
    "ia3",
    "ia3_ff",
    "road",
    *(name for name in IN_A_BASIS if name not in SMALL),
)  # start as the model bit for bit
RESIDUAL = ("pissa", "olora", "corda", "asvd")  # replace the weight
FROM_DATA = ("eva", "corda", "asvd", *ORIENTED)
MAYBE_FROM_DATA = SELECTING  # where there are some
STEERED = IN_A_BASIS
IN_FRONT = ("ia3_ff", "hra")  # change what the layer gets
SCALED = ("lora", "dora", "pissa", "olora", "eva", "corda", "asvd")  # by alpha/r or alpha/√r
DROPPING = tuple(name for name, make in CONFIGS.items() if "dropout" in make.options)


def each(*names: str) -> pytest.MarkDecorator:
    """A test for some methods; it gets what makes their configs as `make`."""
    return pytest.mark.parametrize("make", [CONFIGS[name] for name in names], ids=names)


each_variant = pytest.mark.parametrize("variant", CONFIGS)
each_config = each(*CONFIGS)


class Net(nn.Module):
    """Two linear layers around a norm, (…, 6) → (…, 4), with mixed requires_grad, mixed modes and a hook of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 4)
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
    """The model, after every trainable number has moved; strengths have come between 0 and 1, where they act."""
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(inputs(*parameter.shape, 1, seed=100 * seed + number, dtype=parameter.dtype)[..., 0] / 2)
        for module in model.modules():
            if hasattr(module, "lora_c"):
                module.lora_alpha.sigmoid_()
    return model


def calibration(model: nn.Module) -> list[Tensor]:
    """Two batches for a model that takes what its first linear layer takes; their spectrum decays."""
    layer = next(linear_layers(model))
    decay = 0.6 ** torch.arange(layer.d_in, dtype=torch.float64)
    dtype = layer.weight.dtype if layer.is_dense else torch.float32
    return [(inputs(10, 2, layer.d_in, seed=seed) * decay).to(dtype) for seed in (11, 12)]


def attach(model: nn.Module, configs: lite.Config | list[lite.Config], data: Any = None) -> nn.Module:
    """`lite.attach`, with data for the methods that start from it, and only then."""
    each = configs if isinstance(configs, list) else [configs]
    if any(variant_of(config).takes_data(config) for config in each):
        return lite.attach(model, configs, calibration_data=calibration(model) if data is None else data)
    return lite.attach(model, configs)


def reached(model: nn.Module, config: lite.Config, data: Any = None) -> set[str]:
    """The layers that own tensors of an adapter after `attach`."""
    attach(model, config, data)
    return {name.rpartition(".")[0] for name in model.state_dict() if name.rpartition(".")[2].startswith("lora_")}


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
