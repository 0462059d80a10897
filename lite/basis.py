"""Methods that act in a weight's singular basis W = U S Vᵀ: r of its components, frozen beside the weight, which stays whole."""

import torch
from torch import Tensor

from lite.config import Config, finite, one_of, option, options, positive_int
from lite.decomposition import leading
from lite.layers import Layer
from lite.variant import Shapes


@options
class BasisConfig(Config):
    """What these methods share.

    r: components of the weight that are acted on, at most min(d_out, d_in).
    coeff: what `lite.steer` replaces; 0 switches the adapter off.
    """

    r: int = option(16, positive_int)
    coeff: float = option(1.0, finite)


@options
class SelectedConfig(BasisConfig):
    """Where data may choose the components.

    act_pool: with calibration_data, how the size of a component of the input is pooled over tokens: "rms" or "mean_abs".
    """

    act_pool: str = option("rms", one_of("rms", "mean_abs"))


class Excited:
    """How strongly data excite each component of W: Σ (v_i·x)² ("rms") or Σ |v_i·x| ("mean_abs") over tokens, in float64."""

    uses_label_mask = False
    of_input_alone = False

    def __init__(self, config: SelectedConfig, layer: Layer) -> None:
        self.pool = config.act_pool
        self.basis = leading(layer.weight, min(layer.d_out, layer.d_in))
        self.sum, self.tokens = torch.zeros_like(self.basis[1], dtype=torch.float64), 0

    def update(self, x: Tensor) -> None:
        """Add x (tokens, d_in); ValueError if its size overflows."""
        h = (x.to(self.basis[2]) @ self.basis[2].T).double()
        self.sum += (h.square() if self.pool == "rms" else h.abs()).sum(dim=0)
        self.tokens += len(x)
        if not self.sum.isfinite().all():
            raise ValueError(f"values up to {float(x.abs().max()):g} overflow when their sizes are added up")

    def strongest(self, r: int) -> tuple[Tensor, Tensor, Tensor]:
        """The r components with the largest S_i times pooled size, in the order of S."""
        if not self.sum.any():
            raise ValueError("every input of the calibration data is zero, so that no component matters more than another")
        U, S, Vh = self.basis
        pooled = self.sum / self.tokens
        score = S * (pooled.sqrt() if self.pool == "rms" else pooled)
        kept = score.argsort(descending=True, stable=True)[:r].sort().values
        return U[:, kept], S[kept], Vh[kept]


def buffers(config: BasisConfig, layer: Layer) -> Shapes:
    """The frozen basis."""
    return {"lora_U": (layer.d_out, config.r), "lora_S": (config.r,), "lora_Vh": (config.r, layer.d_in)}


def basis(config: BasisConfig, layer: Layer, seen: Excited | None = None) -> dict[str, Tensor]:
    """The r largest components, or those that the data excite most."""
    U, S, Vh = seen.strongest(config.r) if seen else leading(layer.weight, config.r)
    return {"lora_U": U, "lora_S": S, "lora_Vh": Vh}
