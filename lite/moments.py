"""Second moments of what a layer receives, and the components of its weight that move the output most for such inputs."""

import torch
from torch import Tensor

from lite.basis import BasisConfig
from lite.config import Config, option, options, positive
from lite.decomposition import decomposable
from lite.layers import Layer


@options
class OrientedConfig(BasisConfig):
    """Where data orient the components.

    cov_eps: what is added to every eigenvalue of C, so that directions that the data lack count a little.
    """

    cov_eps: float = option(1e-3, positive)


class Moments:
    """C = E[x xᵀ] over all tokens of all calls (d_in, d_in), uncentred, summed in float64."""

    uses_label_mask = False
    of_input_alone = True

    def __init__(self, config: Config, layer: Layer) -> None:
        self.sum = torch.zeros(self.size(layer.d_in), dtype=torch.float64, device=layer.weight.device)
        self.tokens = 0

    @staticmethod
    def size(d_in: int) -> tuple[int, ...]:
        """Of what is summed."""
        return d_in, d_in

    @staticmethod
    def products(x: Tensor) -> Tensor:
        """What the tokens x (tokens, d_in) add."""
        return x.T @ x

    def update(self, x: Tensor) -> None:
        """Add x (tokens, d_in); ValueError if its products overflow."""
        self.sum += self.products(x.to(self.sum))
        self.tokens += len(x)
        if not self.sum.isfinite().all():
            raise ValueError(f"values up to {float(x.abs().max()):g} overflow when squared")

    def mean(self, r: int) -> Tensor:
        """Of the tokens; ValueError if there are fewer than r, or all are zero."""
        if not self.sum.any():
            raise ValueError("every input of the calibration data is zero, so that no direction matters more than another")
        if self.tokens < r:
            raise ValueError(f"{self.tokens} tokens are too few for r = {r} components; at least {r} are needed")
        return self.sum / self.tokens


class Squares(Moments):
    """The diagonal of C alone, E[x_i²]: d_in numbers."""

    @staticmethod
    def size(d_in: int) -> tuple[int, ...]:
        """Of what is summed."""
        return (d_in,)

    @staticmethod
    def products(x: Tensor) -> Tensor:
        """What the tokens x (tokens, d_in) add."""
        return x.square().sum(dim=0)


def oriented(config: OrientedConfig, layer: Layer, seen: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest components of W C^½ = U S Qᵀ: U (d_out, r), S (r,), P = Q_rᵀ C^−½ (r, d_in), in float64; W ≈ U S P.

    ValueError if there are fewer tokens than r, or W is not finite.
    """
    values, vectors = torch.linalg.eigh(seen.mean(config.r))
    W = decomposable(layer.weight).to(values)
    root = vectors * (values.clamp(min=0) + config.cov_eps).sqrt()  # C = root·rootᵀ, and all such roots give the same U and S
    U, S, _ = torch.linalg.svd(W @ root, full_matrices=False)
    U, S = U[:, : config.r], S[: config.r]
    least = max(torch.finfo(S.dtype).eps * float(S[0]), torch.finfo(S.dtype).tiny)
    # Q_rᵀ C^−½ = S_r⁻¹ U_rᵀ W C^½ C^−½: no inverse, whose rounding would be multiplied by the condition of C^½.
    return U, S, (U / S.clamp(min=least)).T @ W
