"""The linear layers of a Llama of any size."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """The linear layers of a Llama's block."""

    def __init__(self, hidden: int, key: int, inner: int) -> None:
        super().__init__()
        self.q_proj, self.o_proj = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(hidden, key, bias=False) for _ in range(2))
        self.gate_proj, self.up_proj = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (tokens, hidden) → the same shape; every layer is called."""
        key = self.k_proj(x).sum() + self.v_proj(x).sum()
        x = x + self.o_proj(self.q_proj(x).tanh()) * key.tanh()
        return x + self.down_proj(self.gate_proj(x).tanh() * self.up_proj(x))


def llama(hidden: int, key: int, inner: int, dtype: torch.dtype = torch.float32, blocks: int = 2) -> nn.Module:
    """The linear layers of `blocks` blocks, with the same weights at every call."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = nn.Sequential(*(Block(hidden, key, inner) for _ in range(blocks))).to(dtype)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model
