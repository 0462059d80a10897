"""HRA: the input is turned by a product of reflections before it meets the frozen weight.

y = x (W H_1 … H_r)ᵀ + b,  H_i = I − 2 u_i u_iᵀ/‖u_i‖²;  u_i rows of U
Identity at init: rows come in equal pairs, and two equal reflections cancel, up to rounding; so r has to be even.
Departures: the product is never formed. H_1 … H_r = I − Vᵀ T V with V = U, or rows of U times any numbers, where T (r, r) is the inverse of
the upper triangular S with S_ii = ‖v_i‖²/2 and S_ij = v_i·v_j above (compact WY); S, T and x Vᵀ Tᵀ are in float64, because nearly
parallel rows lose float32's digits. V is U by powers of two, lest squares leave the dtype. An odd r, whose last reflection nothing cancels, is refused; peft warns and does not start as the identity.
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
    U = t["lora_U"]
    with torch.no_grad():  # a power of two rounds nothing
        size = U.abs().amax(dim=1, keepdim=True)
        scale = (torch.frexp(size).mantissa / size).clamp(max=torch.finfo(size.dtype).max)
    V = (U * scale).to(x.dtype)  # (r, d_in)
    wide = V.double()
    half = wide @ wide.detach().T  # (r, r)
    gram = half + half.T - half.detach()  # the gradient in one product, since the second is the first's transpose
    S = gram.triu(1) + gram.diag().diag() / 2
    T = torch.linalg.solve_triangular(S, -S.new_ones(config.r).diag(), upper=True)  # −S⁻¹
    z = F.linear(F.linear(x, V).double(), T)  # (…, r), −x Vᵀ Tᵀ
    return x + torch.matmul(z.to(x.dtype), V)


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
