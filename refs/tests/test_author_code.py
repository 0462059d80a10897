"""An author's package is run from its manifest's files, or not at all."""

import hashlib
import sys
from types import ModuleType

import pytest

from refs.authors import checkout, manifest
from refs.authors.code import Code

NAME = "authors_own_package"


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A checkout with one package."""
    source = "A = 1\n"
    file = tmp_path / "checkouts" / "owner" / "repository" / "src" / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(source)
    (tmp_path / "one.toml").write_text(
        f'repository = "https://example.org/owner/repository"\ncommit = "{"0" * 40}"\nlicence = "MIT"\nequation = ""\nwhere = ""\n'
        f'[files]\n"src/__init__.py" = "{hashlib.sha256(source.encode()).hexdigest()}"\n[map]\n'
    )
    monkeypatch.setenv(checkout.VARIABLE, str(tmp_path / "checkouts"))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield Code(manifest.read("one", tmp_path))
    sys.modules.pop(NAME, None)


def test_a_package_is_loaded_once(code):
    first, finders = code.package("src", NAME), len(sys.meta_path)
    assert first.A == 1
    assert code.package("src", NAME) is first
    assert len(sys.meta_path) == finders


def test_an_installed_package_is_not_taken_for_the_author_s(code, monkeypatch):
    installed = ModuleType(NAME)
    installed.__file__ = "site-packages/it.py"
    monkeypatch.setitem(sys.modules, NAME, installed)
    with pytest.raises(ImportError, match=r"src should be imported as authors_own_package, .* already site-packages/it\.py"):
        code.package("src", NAME)
