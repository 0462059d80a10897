"""One torch thread: the layers are tiny, and parallel test processes would only get into each other's way."""

import pytest
import torch

import lite
from lite.tests.files import TWO
from lite.tests.toys import adapted


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """For the whole run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """The bytes of a file of two adapters."""
    file = tmp_path_factory.mktemp("good") / "file"
    lite.save(adapted(TWO), file)
    return file.read_bytes()
