"""How many threads torch has: one, so that sums are taken in one order whatever `-n` says, unless a case asks for more."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run the block with so many threads; the number there was comes back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Run the block with one thread."""
    return threads(1)
