"""One torch thread: the layers are tiny, and parallel test processes would only get into each other's way."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """For the whole run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
