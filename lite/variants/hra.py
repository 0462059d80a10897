"""HRA: the input is turned by a product of reflections before it meets the frozen weight.

y = x (W H_1 … H_r)ᵀ + b,  H_i = I − 2 u_i u_iᵀ/‖u_i‖²;  u_i rows of U
Identity at init: rows come in equal pairs, and two equal reflections cancel, up to rounding; so r has to be even.
Departures: the product is never formed. With unit rows V, H_1 … H_r = I − Vᵀ T V, where T (r, r) is the inverse of the upper
triangular S with S_ii = ½ and S_ij = v_i·v_j above (compact WY); S and the solution of z Sᵀ = x Vᵀ are in float64, because nearly
parallel rows lose float32's digits, and so do the rows' gradients unless their part along the row itself is taken out there. An
odd r, whose last reflection nothing cancels, is refused; peft warns and does not start as the identity.
hra-base-dtype: an adapter wider than its base layer hands on an input in the base's dtype, so that its gradient is as precise
as the base's; peft casts the whole weight instead (and cannot take a quantised one).
apply_gs is refused: Gram–Schmidt divides the second row of every equal pair by a remainder of rounding noise, so that the
start is random (peft accepts it: off by 0.7 … 2.1, now and then not finite).
hra-llama-eps, hra-llama-gs: the authors' two layers for LLaMA reflect the output instead, (x Wᵀ) H_1 … H_r, and divide by √(‖u_i‖² + eps),
or by what Gram–Schmidt leaves of u_i; this follows the paper, peft and the authors' layer for language understanding.
Sources: Yuan et al. 2024 (arXiv:2405.17484) §3; Schreiber & Van Loan 1989 for compact WY; peft `tuners/hra/layer.py`
(`HRALinear.get_delta_weight`, `reset_hra_parameters`); DaShenZi721/HRA `nlu/adapterlib/layers.py` (`HRALinear`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lite.config import Config, even, flag, option, options
from lite.layers import Layer
from lite.peft_form import PeftForm
from lite.variant import Shapes, Tensors, Variant, register


def switched_off(value: Any) -> str | None:
    """Gram–Schmidt."""
    problem = "cannot be True: the rows start as equal pairs, whose Gram–Schmidt is undefined (0/0)"
    return flag(value) or (problem if value else None)


@options
class HRAConfig(Config):
    """HRA (arXiv:2405.17484).

    r: number of reflections, even.
    apply_gs: Gram–Schmidt of the rows; not sound with their paired start, so only False is accepted.
    """

    r: int = option(8, even)
    apply_gs: bool = option(False, switched_off)


def parameters(config: HRAConfig, layer: Layer) -> Shapes:
    return {"lora_U": (config.r, layer.d_in)}


def init(config: HRAConfig, layer: Layer) -> dict[str, Tensor]:
    half = torch.empty(layer.d_in, config.r // 2, dtype=torch.float32, device="cpu")
    nn.init.kaiming_uniform_(half, a=math.sqrt(5))  # its fan is r/2, so ±1/√(r/2)
    return {"lora_U": half.T.repeat_interleave(2, dim=0)}


def adapt_input(config: HRAConfig, layer: Layer, t: Tensors, x: Tensor) -> Tensor:
    U = t["lora_U"].double()
    V = (U / U.norm(dim=1, keepdim=True)).to(x.dtype)  # (r, d_in)
    wide = V.double()
    half = wide @ wide.detach().T  # (r, r)
    gram = half + (half - half.detach()).T  # adds zero, and the other half of the gradient without a product of its own
    if x.dtype == torch.float64:  # below, it has digits to spare
        gram = gram + (rounded_once(wide) - gram).detach()
    S = gram.triu(1) + gram.diag().diag() / 2
    # From the right: S⁻¹ itself would lose digits of nearly parallel rows, whose parts cancel.
    z = torch.linalg.solve_triangular(S.T, -F.linear(x, V).reshape(-1, config.r).double(), upper=False, left=False)  # −x Vᵀ S⁻ᵀ
    return x + torch.matmul(z.to(x.dtype), V).reshape(x.shape)


@torch.no_grad()
def rounded_once(V: Tensor) -> Tensor:
    """V Vᵀ (r, r) of unit rows: the first 20 bits of V multiply and add up without rounding, what is left is small.

    Where rows are nearly parallel S⁻¹ multiplies the roundings of S.
    """
    high = (V * 2**20).round() / 2**20
    low = V - high
    cross = high @ low.T
    return high @ high.T + (cross + cross.T + low @ low.T)


HRA = register(
    Variant(
        name="hra",
        config=HRAConfig,
        parameters=parameters,
        init=init,
        adapt_input=adapt_input,
        reads_weight=False,
        peft={"lora_U": {"name": "hra_u", "transpose": True}},
        peft_form=PeftForm(type="HRA", options={"r": "r", "apply_gs": "apply_GS"}),
    )
)
