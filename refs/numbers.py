"""Numbers that are the same on every release of every library: raw Philox bits, mapped to floats here."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def uniform(*key: object, shape: tuple[int, ...]) -> Tensor:
    """float64 in [0, 1), a pure function of `key` and `shape`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(int(np.prod(shape, dtype=int)))
    return torch.from_numpy((np.asarray(bits) >> 11) * 2.0**-53).reshape(shape)


def normal(*key: object, shape: tuple[int, ...]) -> Tensor:
    """float64, mean 0, variance 1: the sum of four uniforms, which needs no library function and has no outliers."""
    return (uniform(*key, shape=(4, *shape)).sum(dim=0) - 2) * 3**0.5


def signs(*key: object, shape: tuple[int, ...]) -> Tensor:
    """float64, ±1 with equal chance."""
    return torch.where(uniform(*key, shape=shape) < 0.5, -1.0, 1.0).to(torch.float64)


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
