"""How many bytes of tensors live at once, counted: the same number on every machine."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations bring into being while it is active, beside those of known models and tensors. What one operation takes for itself and gives back is not seen.

    peak: bytes alive at once, at most. live(): now.
    """

    def __init__(self, *known: nn.Module, tensors: Sequence[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        there = [tensor for model in known for tensor in (*model.parameters(), *model.buffers())]
        self.there = {storage_of(tensor) for tensor in (*there, *tensors)}
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it and look at what comes out."""
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (key := storage_of(leaf)) not in self.there:
                storage = leaf.untyped_storage()
                self.storages[key] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        self.peak = max(self.peak, self.live())
        return result

    def live(self) -> int:
        """Bytes that are still there."""
        self.storages = {key: held for key, held in self.storages.items() if not held[0].expired()}  # type: ignore[no-untyped-call]
        return sum(size for _, size in self.storages.values())


def storage_of(tensor: Tensor) -> int:
    """What identifies the memory behind a tensor while it lives."""
    return int(tensor.untyped_storage()._cdata)
