"""EVA: LoRA whose A starts as the principal directions of what the layer receives, with ranks shared out by explained variance.

y = x Wᵀ + b + s·(drop(x) Aᵀ) Bᵀ,  s = alpha/r;  A₀ = the first r_layer eigenvectors of Σ_t (x_t − x̄)(x_t − x̄)ᵀ, B₀ = 0
Of all layers' components the r·(number of layers) with the largest share of their layer's variance are taken, at most round(rho·r)
for one layer. alpha is multiplied by r_layer/r (adjust_scaling_factors); with rslora s is then alpha·(r_layer/r)/√r_layer, as in peft.
Identity at init: B = 0, so the added term is exactly zero.
Departures: one pass over all tokens, exact. peft's streaming decomposition is truncated, randomised and stops once two steps look
alike: on several batches its directions are others (eva-streaming), and on slowly falling spectra inexact (eva-randomised). So is the
author's, with other random numbers (eva-generator); there alpha stays as it is whatever rank a layer gets (eva-scaling), here as in peft.
Whitening divides by √σ once, also where layers share an input; both divide once per sharer, and by a σ that grows with their
passes over the data (eva-whiten-passes). Too few tokens are an error; there the loop never ends. No more components than d_in are asked for,
where peft raises. A layer with no share stays as it is.
Sources: Paischer et al. 2024 (arXiv:2410.07170) §3, alg. 1; peft `tuners/lora/eva.py` (`get_eva_state_dict`), `utils/incremental_pca.py`;
ml-jku/EVA a5ac24b `src/svd.py` (`compute_svd`), `src/utils.py` (`get_adapter_model`).
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from lite.config import at_least_one, flag, option, options
from lite.layers import Layer
from lite.variant import Variant, register
from lite.variants import lora


@options
class EVAConfig(lora.BiasedConfig):
    """EVA (arXiv:2410.07170). Needs calibration_data; both masks select tokens.

    r: average rank of the update, at most d_in.
    alpha: numerator of its scale.
    dropout: probability of dropping an element of the adapter's input while training.
    rslora: scale by alpha/√r instead of alpha/r.
    lora_bias: train a bias of B, too; it starts at zero and is scaled like the update.
    rho: how far ranks may be shared out between layers: up to round(rho·r) for one; 1 gives every layer r.
    adjust_scaling_factors: multiply alpha by r_layer/r in a layer with another rank, so that alpha/r stays.
    whiten: divide each direction by the square root of its singular value.
    """

    rho: float = option(2.0, at_least_one)
    adjust_scaling_factors: bool = option(True, flag)
    whiten: bool = option(False, flag)


def most(config: EVAConfig, layer: Layer) -> int:
    """How many components a layer can get."""
    return min(round(config.rho * config.r), layer.d_in)


class Spread:
    """Mean and centred scatter of a layer's inputs, in float64: d_in² numbers."""

    uses_label_mask = True
    of_input_alone = True

    def __init__(self, config: EVAConfig, layer: Layer) -> None:
        self.count, self.most = 0, most(config, layer)
        self.mean = torch.zeros(layer.d_in, dtype=torch.float64, device=layer.weight.device)
        self.scatter = torch.zeros(layer.d_in, layer.d_in, dtype=torch.float64, device=layer.weight.device)
        self.components: tuple[Tensor, Tensor] | None = None

    def update(self, x: Tensor) -> None:
        """Add x (tokens, d_in): Chan's update, which never subtracts large sums; ValueError if they overflow."""
        x = x.to(self.scatter)
        count, mean = len(x), x.mean(dim=0)
        shift, total = mean - self.mean, self.count + len(x)
        centred = x - mean
        self.scatter += centred.T @ centred + torch.outer(shift, shift) * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count, self.components = total, None
        if not self.scatter.diagonal().sum().isfinite():
            raise ValueError(f"values up to {float(x.abs().max()):g} overflow when squared")

    def principal(self) -> tuple[Tensor, Tensor]:
        """Singular values of the centred inputs, largest first, and the directions that may be asked for, (most, d_in), the largest entry of each positive."""
        if self.components is None:
            values, vectors = torch.linalg.eigh(self.scatter)
            directions = vectors.T.flip(0)[: self.most]
            largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
            self.components = values.flip(0).clamp(min=0).sqrt(), directions * largest.sign()
        return self.components


def resolve(config: EVAConfig, layers: Sequence[Layer], spreads: Sequence[Spread]) -> list[EVAConfig | None]:
    """Each layer's rank and alpha; None for a layer without a share."""
    shares: list[tuple[float, int]] = []  # share of its layer's variance, layer
    for place, (layer, spread) in enumerate(zip(layers, spreads, strict=True)):
        asked = most(config, layer)
        variance = spread.principal()[0].square()
        eps, mean = torch.finfo(variance.dtype).eps, spread.count * spread.mean.square().sum()
        there = int((variance > (variance[0] * layer.d_in * eps).clamp(min=mean * (spread.count * eps) ** 2)).sum())
        if spread.count <= asked or there < config.r:
            raise ValueError(
                f"{layer.title}: {spread.count} tokens in {there} directions are too few for up to {asked} components "
                f"(r = {config.r}, rho = {config.rho}); more than {asked} tokens that differ are needed"
            )
        shares += [(share, place) for share in (variance / variance.sum())[: min(asked, there)].tolist()]
    # Sharers of one input come in the order of the layers, the first of equals first, as in peft.
    shares.sort(key=lambda share: -share[0])
    taken = [place for _, place in shares[: config.r * len(layers)]]
    return [_ranked(config, taken.count(place)) for place in range(len(layers))]


def _ranked(config: EVAConfig, r: int) -> EVAConfig | None:
    if r == 0:
        return None
    alpha = config.alpha * r / config.r if config.adjust_scaling_factors and r != config.r else config.alpha
    return dataclasses.replace(config, r=r, alpha=alpha)


def init(config: EVAConfig, layer: Layer, spread: Spread) -> dict[str, Tensor]:
    values, directions = spread.principal()
    A = directions[: config.r]  # (r, d_in)
    if config.whiten:
        A = A / values[: config.r, None].sqrt()
    return {"lora_A": A, "lora_B": A.new_zeros(layer.d_out, config.r), "lora_b": A.new_zeros(layer.d_out)}


def fits(config: EVAConfig, layer: Layer) -> str | None:
    there = layer.d_in
    return None if config.r <= there else f"r = {config.r}, but an input of size {there} has only {there} principal directions"


PEFT = dataclasses.replace(
    lora.PEFT,
    start={name: f"eva_config.{name}" for name in ("rho", "whiten", "adjust_scaling_factors")},
    told_by={"init_lora_weights": ("eva",), "use_dora": (False,)},
)

EVA = register(
    Variant(
        name="eva",
        config=EVAConfig,
        parameters=lora.parameters,
        init=init,
        statistics=Spread,
        resolve=resolve,
        forward=lora.forward,
        fits=fits,
        reads_weight=False,
        peft=lora.LORA.peft,
        peft_form=PEFT,
    )
)
