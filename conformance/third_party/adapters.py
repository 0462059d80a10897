"""adapters, of AdapterHub: LoRA, DoRA and IA3.

Its DoRA has two bugs and two choices, all in the same cells: without a bias, and with the norms of W + alpha/r BA held constant, only dropout
differs, which acts on the low-rank path. Its IA3 takes (sequences, tokens, d_in) only, silently makes something else of (tokens, d_in), and
scales outputs, those of the feed-forward module, too; there is no scale of an input (our ia3_ff). Its VeRA, DVoRA, MTL-LoRA, LoReFT,
bottleneck adapters, Compacter, prefix and prompt tuning have no variant here.
"""

from typing import Any

from torch import Tensor, nn

from conformance.third_party import Layer, Library
from refs.case import Case

NAME = "adapter"


def wrapped(config: str, base: nn.Module, case: Case, **more: Any) -> Any:
    """The base inside `adapters.methods.lora.LoRALinear`, with one active adapter of that config, as in the attention of its models."""
    if case.layer != "linear" or case.adapter_dtype or {name for name, _ in case.options} - {"dropout"}:
        raise NotImplementedError("adapters' LoRALinear is tried on nn.Linear in one dtype, with dropout and no other option")
    import adapters
    from adapters.composition import Stack
    from adapters.configuration import ModelAdaptersConfig
    from adapters.methods.lora import LoRALinear

    adapter = getattr(adapters, config)(attn_matrices=["q"], dropout=case.option("dropout", 0.0), **more)
    configs = ModelAdaptersConfig()
    configs.add(NAME, config=adapter)
    configs.active_setup = Stack(NAME)
    layer = LoRALinear.wrap(base, "selfattn", None, configs, attn_key="q")
    layer.add_adapter(NAME, 0)
    return layer


def lora(base: nn.Module, case: Case) -> nn.Module:
    """Its LoRA."""
    layer: nn.Module = wrapped("LoRAConfig", base, case, r=case.rank, alpha=case.alpha, dtype=case.dtype)
    return layer


def dora(base: nn.Module, case: Case) -> nn.Module:
    """Its DoRA."""
    layer: nn.Module = wrapped("DoRAConfig", base, case, r=case.rank, alpha=case.alpha, dtype=case.dtype)
    return layer


class OfTokens(nn.Module):
    """A layer that takes (sequences, tokens, d_in) only, and makes something else of two dimensions."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input_states: Tensor) -> Tensor:
        """x (…, d_in) → (…, d_out)."""
        output: Tensor = self.layer(input_states.reshape(1, -1, input_states.shape[-1]))
        return output.reshape(*input_states.shape[:-1], -1)


def ia3(base: nn.Module, case: Case) -> nn.Module:
    """Its IA3."""
    return OfTokens(wrapped("IA3Config", base, case).to(case.torch_dtype))


def reset(layer: Any, case: Case) -> None:
    """A new adapter in the old one's place: it is initialised when it is added."""
    layer.delete_adapter(NAME)
    layer.add_adapter(NAME, 0)


FACTORS = {"lora_A": f"loras.{NAME}.lora_A", "lora_B": f"loras.{NAME}.lora_B"}

LIBRARY = Library(
    name="adapters",
    requirements=("adapters==1.3.0", "transformers==4.57.6"),
    licence="Apache-2.0",
    link="https://github.com/adapter-hub/adapters",
    about=__doc__,
    layers=(
        Layer(
            page="adapters-lora",
            variant="lora",
            what="adapters.LoRAConfig",
            factory=lora,
            map=FACTORS,
            reset=reset,
            input_name="input_states",
        ),
        Layer(
            page="adapters-dora",
            variant="dora",
            what="adapters.DoRAConfig",
            factory=dora,
            map=FACTORS | {"lora_m": {"name": f"loras.{NAME}.m.weight", "shape": (-1, 1)}},
            reset=reset,
            input_name="input_states",
        ),
        Layer(
            page="adapters-ia3",
            variant="ia3",
            what="adapters.IA3Config, given (batch, tokens, d_in): of (tokens, d_in) it makes something else",
            factory=ia3,
            map={"lora_g": {"name": f"layer.loras.{NAME}.lora_B", "shape": (-1, 1)}},
            input_name="input_states",
        ),
    ),
)
