"""Another release of peft: how it is got, put first, and refused."""

import os
import subprocess
import sys
import zipfile

import pytest

from conformance import release


def wheel(folder, version, source):
    """A wheel that pip installs without any network."""
    path = folder / f"peft-{version}-py3-none-any.whl"
    info = f"peft-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("peft/__init__.py", source)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: peft\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "peft-conformance" / "peft"


def test_a_release_comes_before_the_installed_one(tmp_path):
    folder = release.prepare(wheel(tmp_path, "99.1", "here = True"))
    say = "import peft; from importlib import metadata; print(peft.here, metadata.version('peft'))"
    child = subprocess.run([sys.executable, "-c", say], env=release.environment(folder), capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["True", "99.1"]
    assert release.environment(folder)["PYTHONPATH"].split(os.pathsep)[0] == str(folder)


def test_what_is_no_version_is_built_anew_each_time(tmp_path):
    wanted = wheel(tmp_path, "99.1", "value = 1")
    release.prepare(wanted)
    wheel(tmp_path, "99.1", "value = 2")
    folder = release.prepare(wanted)
    assert (folder / "peft" / "__init__.py").read_text() == "value = 2"


def test_a_version_that_is_there_is_used_as_it_is(cache):
    (cache / "99.2" / "peft").mkdir(parents=True)
    (cache / "99.2" / "peft" / "__init__.py").touch()
    assert release.prepare("99.2") == cache / "99.2"


def test_one_that_does_not_import_is_told_with_its_reason(tmp_path):
    with pytest.raises(ValueError, match=r"does not import here: ImportError: no HybridCache$"):
        release.prepare(wheel(tmp_path, "99.3", "raise ImportError('no HybridCache')"))


@pytest.mark.parametrize("wanted", ["nosuch", "./nosuch", "0.x"])
def test_what_is_nothing_of_the_kind_is_refused(wanted):
    with pytest.raises(ValueError, match=f"version, a folder, a wheel or a URL, got '{wanted}'"):
        release.prepare(wanted)


def test_what_pip_cannot_get_leaves_nothing(tmp_path, cache):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"pip cannot get .*empty: ERROR: "):
        release.prepare(str(tmp_path / "empty"))
    assert list(cache.iterdir()) == []


def test_a_wheel_of_another_package_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
        archive.writestr("other-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        archive.writestr("other-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("other-1.0.dist-info/RECORD", "")
    with pytest.raises(ValueError, match=r"there is no peft in .*other-1\.0"):
        release.prepare(str(tmp_path / "other-1.0-py3-none-any.whl"))


def test_xdist_workers_have_it_and_do_not_get_it_again(tmp_path):
    (tmp_path / "pytest.ini").touch()
    say = "import os, peft, pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n): assert peft.here and os.environ['PYTEST_XDIST_WORKER']\n"
    (tmp_path / "test_it.py").write_text(say)
    wanted = wheel(tmp_path, "99.1", "here = True")
    command = [sys.executable, "-m", "pytest", "--peft", wanted, "-n", "2", "-p", "no:cacheprovider", "-q"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=kept, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_too_late_once_peft_is_imported(tmp_path):
    import peft  # noqa: F401

    with pytest.raises(RuntimeError, match="imported already"):
        release.use(tmp_path)


def test_pytest_says_why_a_release_cannot_be_had(tmp_path):
    command = [sys.executable, "-m", "pytest", "--pyargs", "conformance.suites", "--peft", "nosuch"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=kept, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--peft should be a version" in done.stderr
