"""How many bytes of tensors live at once, counted: the same number on every machine."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counted(TorchDispatchMode, AbstractContextManager):
    """Counts the storages that operations bring into being while it is active. What one operation takes for itself and gives back is not seen.

    peak: bytes alive at once, at most. live(): now.
    """

    def __init__(self, *known: nn.Module) -> None:
        super().__init__()
        self.peak = 0
        self.there = {storage_of(t) for model in known for t in (*model.parameters(), *model.buffers())}
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it and look at what comes out."""
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (key := storage_of(leaf)) not in self.there:
                storage = leaf.untyped_storage()
                self.storages[key] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, self.live())
        return result

    def live(self) -> int:
        """Bytes that are still there."""
        self.storages = {key: held for key, held in self.storages.items() if not held[0].expired()}
        return sum(size for _, size in self.storages.values())


def storage_of(tensor: Tensor) -> int:
    """What identifies the memory behind a tensor while it lives."""
    return tensor.untyped_storage()._cdata


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
