"""What `nox -s package` proves of the wheel: python -m conformance.tests.wheel FOLDER CONSTRAINTS.

FOLDER/dist holds the wheel. It is installed in a clean environment, with the pins of CONSTRAINTS for reproducibility only.
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path


def check_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))))
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    requirements = metadata.get_all("Requires-Dist")
    assert metadata["Requires-Python"] == ">=3.11", metadata["Requires-Python"]
    assert metadata["License-Expression"] == "MIT"
    assert requirements
    assert not [r for r in requirements if "==" in r], f"exact pins: {requirements}"
    assert all(re.search(r">=\d", r) for r in requirements), f"no lower bound: {requirements}"
    assert "conformance = conformance.plugin" in entry_points
    assert not [name for name in names if "/tests/" in name], "tests in the wheel"
    assert {name.partition("/")[0] for name in names} == {
        "lite",
        "refs",
        "conformance",
        wheel.name.rpartition("-py3")[0] + ".dist-info",
    }


def main(folder: Path, constraints: Path) -> None:
    (wheel,) = (folder / "dist").glob("*.whl")
    check_metadata(wheel)
    environment = folder / "clean"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    python = str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    torch = next(line for line in constraints.read_text().splitlines() if line.startswith("torch=="))
    subprocess.run([python, "-m", "pip", "install", "--quiet", torch], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", str(constraints), str(wheel)], check=True)
    with tempfile.TemporaryDirectory() as elsewhere:  # not below the checkout: nothing of it may help
        use(python, elsewhere)


def use(python: str, elsewhere: str) -> None:
    no_torch = "import sys, conformance.plugin; assert not {'torch', 'peft'} & set(sys.modules)"
    subprocess.run([python, "-c", no_torch], check=True, cwd=elsewhere)
    # Without the test group there are no real weights: those cases are untested, and said to be.
    suites = [python, "-m", "pytest", "--pyargs", "conformance.suites", "-k", "delora", "-rs"]
    subprocess.run(suites, check=True, cwd=elsewhere)
    subprocess.run([python, "-m", "conformance", "explain", "delora", "forward"], check=True, cwd=elsewhere)
    # A stranger's own file, with his page beside it: pytest's root is here, not in the checkout that nox's folder is in.
    (Path(elsewhere) / "pytest.ini").touch()
    copy = "import shutil; from conformance.examples import test_module; shutil.copy(test_module.__file__, '.')"
    subprocess.run([python, "-c", copy], check=True, cwd=elsewhere)
    subprocess.run([python, "-m", "pytest", "test_module.py"], check=True, cwd=elsewhere)
    assert (Path(elsewhere) / "reports" / "my-lora.md").is_file()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
