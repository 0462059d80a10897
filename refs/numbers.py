"""Numbers that are the same on every release of every library: raw Philox bits, mapped to floats here."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def uniform(*key: object, shape: tuple[int, ...]) -> Tensor:
    """float64 in [0, 1), a pure function of `key` and `shape`."""
    return torch.from_numpy((_bits(key, _count(shape)) >> 11) * 2.0**-53).reshape(shape)


def signs(*key: object, shape: tuple[int, ...]) -> Tensor:
    """float64, ±1 with equal chance: one bit each."""
    count = _count(shape)
    bits = np.unpackbits(_bits(key, -(-count // 64)).astype("<u8").view(np.uint8))[:count]
    return torch.from_numpy(1.0 - 2.0 * bits).reshape(shape)


def _bits(key: tuple[object, ...], count: int) -> NDArray[np.uint64]:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.asarray(np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count))


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=int))


def normal(*key: object, shape: tuple[int, ...]) -> Tensor:
    """float64, mean 0, variance 1: the sum of four uniforms, which needs no library function and has no outliers."""
    return (uniform(*key, shape=(4, *shape)).sum(dim=0) - 2) * 3**0.5


def spread(tensor: Tensor) -> Tensor:
    """Standard deviation; of a single number, its size."""
    return tensor.std() if tensor.numel() > 1 else tensor.abs().max()


def spectrum(*key: object, d_out: int, d_in: int, values: Tensor) -> Tensor:
    """A (d_out, d_in) matrix with these singular values, in bases made of random reflections."""
    k = len(values)
    core = torch.zeros(d_out, d_in, dtype=torch.float64)
    core[range(k), range(k)] = values
    for side in ("rows", "columns"):
        for i in range(k):
            v = normal(*key, side, i, shape=(core.shape[0],))
            core = core - torch.outer(v, v @ core) * (2 / (v @ v))
        core = core.T.contiguous()
    return core
