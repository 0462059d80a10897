"""Several processes or threads save to one path: whoever reads finds one complete version, and nothing else is left."""

import contextlib
import subprocess
import sys
import threading

import pytest

import lite
from lite.tests.files import TWO, content
from lite.tests.toys import adapted, trained

SEEDS, TIMES = (3, 7), 150
PROCESS = f"""
import sys, lite
from lite.tests.files import TWO
from lite.tests.toys import adapted, trained
model = trained(adapted(TWO), seed=int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range({TIMES}):
    lite.save(model, sys.argv[1])
"""


def model(seed):
    return trained(adapted(TWO), seed=seed)


@pytest.fixture
def versions(tmp_path_factory):
    """What the file may hold."""
    folder = tmp_path_factory.mktemp("versions")
    for seed in SEEDS:
        lite.save(model(seed), folder / str(seed))
    return [content(folder / str(seed)) for seed in SEEDS]


def read_while(alive, file, versions):
    """Which versions were found while somebody was writing, and at the end."""
    found = set()
    while alive() or not found:
        if file.exists():
            found.add(versions.index(content(file)))
    return found | {versions.index(content(file))}


def test_processes(versions, tmp_path):
    file = tmp_path / "file"
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process(file, seed)) for seed in SEEDS]
        assert [child.stdout.readline() for child in children] == ["ready\n", "ready\n"]
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        assert read_while(lambda: any(child.poll() is None for child in children), file, versions) == {0, 1}
    assert [child.returncode for child in children] == [0, 0]
    assert list(tmp_path.iterdir()) == [file]


def process(file, seed):
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, file, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_threads(versions, tmp_path):
    file, errors = tmp_path / "file", []

    def work(model):
        try:
            for _ in range(TIMES):
                lite.save(model, file)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(model(seed),)) for seed in SEEDS]
    for thread in threads:
        thread.start()
    found = read_while(lambda: any(thread.is_alive() for thread in threads), file, versions)
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == {0, 1}
    assert list(tmp_path.iterdir()) == [file]


def test_one_model_from_several_threads(versions, tmp_path):
    shared, errors = model(SEEDS[0]), []

    def work():
        try:
            for _ in range(20):
                lite.save(shared, tmp_path / "file")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert content(tmp_path / "file") == versions[0]
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
