"""Authors' layers, with an author of our own: a small repository, cloned over file://. Whatever is wrong is named, and nothing is left behind."""

import dataclasses
import hashlib
import os
import shutil
import subprocess

import pytest
import torch

from refs import lora
from refs.authors import checkout, manifest, recording, traces
from refs.authors.checkout import CheckoutError
from refs.authors.layer import AuthorLayer
from refs.authors.manifest import LAYERS
from refs.authors.recording import RecordingError
from refs.case import Case
from refs.problem import problem
from refs.subject import run

CASE = Case(d_in=6, d_out=5, rank=2, alpha=3.0, batch=(4,))
TOY = """
import torch
from torch import nn
from .scale import scale

class Toy(nn.Module):
    def __init__(self, base, r, alpha):
        super().__init__()
        self.base, self.s = base, scale(alpha, r)
        self.down = nn.Parameter(torch.randn(r, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x):
        return self.base(x) + self.s * x @ self.down.T @ self.up.T
"""
SCALE = "def scale(alpha, r):\n    return alpha / r\n"
DRIVER = """
import torch
from refs.authors.built import Built
from refs.bases import base_layer
from refs.subject import seed

def refuses(case):
    return "the toy has no options" if case.options else None

def build(code, case, numbers):
    toy = code.package("src/toy", "toy")
    {trick}
    base = base_layer(case, numbers.weight, numbers.bias).requires_grad_(False)
    seed(case)
    layer = toy.layer.Toy(base, case.rank, case.alpha).to(case.torch_dtype)
    return Built(layer, dict(layer.named_parameters()))
"""
FILES = {"src/toy/__init__.py": "from . import layer\n", "src/toy/layer.py": TOY, "src/toy/scale.py": SCALE}


def git(folder, *arguments):
    who = ["-c", "user.name=toy", "-c", "user.email=toy@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The author's repository: what the manifest pins, and a commit after it."""
    folder = tmp_path_factory.mktemp("origin") / "toymaker" / "toy"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "toy")
    pinned = git(folder, "rev-parse", "HEAD")
    (folder / "src/toy/scale.py").write_text("def scale(alpha, r):\n    return alpha\n")
    git(folder, "commit", "--quiet", "-am", "another scale")
    return folder, pinned


@pytest.fixture(scope="module")
def layers(origin, tmp_path_factory):
    """A manifest and a driver."""
    folder = tmp_path_factory.mktemp("layers")
    place, pinned = origin
    write_manifest(folder, f"file://{place}", pinned)
    (folder / "toy.py").write_text(DRIVER.format(trick="pass"))
    return folder


def write_manifest(folder, repository, commit, **files):
    lines = [f'"{name}" = "{hashlib.sha256(text.encode()).hexdigest()}"' for name, text in (FILES | files).items()]
    (folder / "toy.toml").write_text(
        f'repository = "{repository}"\ncommit = "{commit}"\nlicence = "none stated"\nequation = "y"\nwhere = "layer.py Toy"\n'
        "[files]\n" + "\n".join(lines) + '\n[map]\nlora_A = "down"\nlora_B = "up"\n'
    )


@pytest.fixture(scope="module")
def cloned(layers, tmp_path_factory):
    """A folder of checkouts, with the toy's."""
    root = tmp_path_factory.mktemp("checkouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(checkout.VARIABLE, str(root))
        checkout.clone(manifest.read("toy", layers))
    return root


@pytest.fixture
def here(cloned, tmp_path, monkeypatch):
    """A copy of it that may be spoiled."""
    shutil.copytree(cloned, tmp_path / "checkouts")
    monkeypatch.setenv(checkout.VARIABLE, str(tmp_path / "checkouts"))
    return tmp_path / "checkouts" / "toymaker" / "toy"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv(checkout.VARIABLE, str(tmp_path / "none"))
    return tmp_path / "none"


def toy(layers, vectors, **more):
    return AuthorLayer("toy", lora.FORMULA, (CASE,), layers=layers, vectors=vectors, **more)


def asked(case=CASE):
    numbers = problem(case, lora.FORMULA)
    return [(case, numbers, lora.FORMULA.shapes(case, numbers.weight))]


class TestCheckout:
    def test_a_clone_is_the_pinned_commit_and_is_verified(self, here, layers):
        checkout.verify(manifest.read("toy", layers))
        assert (here / "src/toy/scale.py").read_text() == SCALE
        before = sorted(here.parent.rglob("*"))
        checkout.clone(manifest.read("toy", layers), "file:///nowhere")  # what is there is used as it is
        assert sorted(here.parent.rglob("*")) == before

    @pytest.mark.parametrize("file", FILES)
    def test_one_byte_flipped_is_named_with_both_hashes(self, here, layers, file):
        data = bytearray((here / file).read_bytes())
        data[len(data) // 2] ^= 1
        (here / file).write_bytes(data)
        about = manifest.read("toy", layers)
        with pytest.raises(CheckoutError) as error:
            checkout.verify(about)
        for word in (file, hashlib.sha256(data).hexdigest(), about.files[file], "changed"):
            assert word in str(error.value)

    def test_another_commit_is_named(self, here, origin, layers):
        git(here, "fetch", "--quiet", f"file://{origin[0]}", "HEAD")
        git(here, "checkout", "--quiet", "FETCH_HEAD")
        with pytest.raises(CheckoutError, match=rf"scale\.py .* not at {origin[1]}"):
            checkout.verify(manifest.read("toy", layers))

    def test_a_missing_file_is_named(self, here, layers):
        (here / "src/toy/scale.py").unlink()
        with pytest.raises(CheckoutError, match=r"scale\.py is not in the checkout .*cut short"):
            checkout.verify(manifest.read("toy", layers))

    def test_a_link_out_of_the_checkout_is_refused(self, here, layers, tmp_path):
        (tmp_path / "scale.py").write_text(SCALE)
        (here / "src/toy/scale.py").unlink()
        (here / "src/toy/scale.py").symlink_to(tmp_path / "scale.py")
        with pytest.raises(CheckoutError, match="leads out of the checkout"):
            checkout.verify(manifest.read("toy", layers))

    @pytest.mark.parametrize(("source", "commit"), [("file:///nowhere", None), (None, "0" * 40)])
    def test_what_cannot_be_cloned_is_told_in_gits_words_and_leaves_nothing(self, nowhere, layers, source, commit):
        about = manifest.read("toy", layers)
        about = dataclasses.replace(about, commit=commit or about.commit)
        with pytest.raises(CheckoutError, match="cannot be had: "):
            checkout.clone(about, source)
        assert [path for path in nowhere.rglob("*") if path.is_file()] == []
        assert not checkout.is_there(about)

    def test_without_git_that_is_said(self, nowhere, layers, monkeypatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(CheckoutError, match="git is not installed"):
            checkout.clone(manifest.read("toy", layers))


class TestManifest:
    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ('licence = "none stated"\n', "", "should say .*licence"),
            ('commit = "', 'commit = "x', "40 hexadecimal digits"),
            ('"src/toy/scale.py" = "', '"src/toy/scale.py" = "zz', "scale.py should have a SHA-256"),
            ('"src/toy/scale.py"', '"../scale.py"', "leads out of the checkout"),
            ('"src/toy/scale.py"', '"/etc/passwd"', "leads out of the checkout"),
            ('lora_A = "down"', "lora_A = 3", "map entry lora_A"),
            ("[files]", "[files", "cannot be read"),
        ],
    )
    def test_what_is_wrong_is_named(self, layers, tmp_path, old, new, words):
        text = (layers / "toy.toml").read_text()
        assert old in text
        (tmp_path / "toy.toml").write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=words):
            manifest.read("toy", tmp_path)

    def test_an_unknown_layer_lists_the_known_ones(self):
        with pytest.raises(ValueError, match=r"unknown author's layer 'nonsense'; known: .*loralib"):
            manifest.read("nonsense")

    @pytest.mark.parametrize("name", manifest.names())
    def test_every_manifest_reads_and_has_its_driver_and_vectors(self, name):
        about = manifest.read(name)
        assert about.files
        assert (LAYERS / f"{name}.py").is_file()
        recorded = traces.read(LAYERS.parents[1] / "vectors" / f"{name}.safetensors")
        assert recorded.provenance == about.provenance | {"files": dict(about.files)}
        assert len(recorded.runs) >= 12


class TestProcess:
    def test_live_is_recorded_now_and_the_recording_says_the_same(self, here, layers, tmp_path, monkeypatch):
        live = toy(layers, tmp_path / "vectors")
        assert live.missing() is None
        assert live.version.endswith("live")
        traces.write(live.recorded_file, live._found[0])
        monkeypatch.setenv(checkout.VARIABLE, str(tmp_path / "none"))
        recorded = toy(layers, tmp_path / "vectors")
        assert recorded.missing() is None
        assert recorded.version.endswith("recorded")
        numbers = problem(CASE, lora.FORMULA)
        one, other = (run(side.build(CASE, numbers), CASE, numbers, numbers.parameters) for side in (live, recorded))
        assert one.keys() == other.keys() == {"output", "grad.x", "grad.lora_A", "grad.lora_B"}
        assert all(one[name].equal(other[name]) for name in one)
        s = 1.5
        expected = numbers.x @ (numbers.weight + s * numbers.parameters["lora_B"] @ numbers.parameters["lora_A"]).T + numbers.bias
        torch.testing.assert_close(one["output"], expected)
        assert [path for path in here.parents[1].rglob("*.safetensors") if path.name.startswith(str(os.getpid()))] == []

        with pytest.raises(LookupError, match="not run on these numbers"):
            recorded.build(CASE, problem(CASE.but(seed=1), lora.FORMULA))
        subject = recorded.build(CASE, numbers)
        subject.write({"lora_A": numbers.parameters["lora_A"] * 2})
        with pytest.raises(LookupError, match="not recorded with these values"):
            subject.call(numbers.x)
        subject.write(numbers.parameters)
        x = numbers.x.clone().requires_grad_()
        with pytest.raises(LookupError, match="not recorded with this cotangent"):
            subject.call(x).sum().backward()
        assert "the toy has no options" in recorded.refuses(CASE.but(options={"rslora": True}))
        assert "no trace of this case" in recorded.refuses(CASE.but(d_in=7))

        flipped = (layers / "toy.toml").read_text().replace('where = "layer.py', 'where = "layer_py')
        (tmp_path / "toy.toml").write_text(flipped)
        shutil.copy(layers / "toy.py", tmp_path)
        assert "not the manifest that its traces were recorded with" in toy(tmp_path, tmp_path / "vectors").missing()

    def test_one_byte_flipped_in_a_recording_is_seen_wherever_it_is(self, tmp_path):
        tensors = {"output": torch.arange(3.0), "start.lora_A": torch.ones(2)}
        one = traces.Run(CASE, "digest", (1.0, 0.5), ("lora_A",), tensors)
        traces.write(tmp_path / "toy.safetensors", traces.Traces({"commit": "c"}, {"torch": "2"}, [one]))
        good = (tmp_path / "toy.safetensors").read_bytes()
        for place in range(len(good)):
            bad = bytearray(good)
            bad[place] ^= 1
            (tmp_path / "toy.safetensors").write_bytes(bad)
            with pytest.raises(ValueError, match=r"toy\.safetensors holds no traces"):
                traces.read(tmp_path / "toy.safetensors")

    def test_what_is_not_installed_is_named_and_a_recording_takes_its_place(self, here, layers, tmp_path, monkeypatch):
        needy = (layers / "toy.toml").read_text().replace("[files]", 'requires = ["no-such-package"]\n[files]')
        (tmp_path / "toy.toml").write_text(needy)
        shutil.copy(layers / "toy.py", tmp_path)
        with monkeypatch.context() as installed:
            installed.setattr(manifest, "_is_met", lambda requirement, there: True)
            installed.setattr(manifest.Manifest, "packages", property(lambda about: []))
            recorded = toy(tmp_path, tmp_path / "vectors")
            made = [
                traces.run_of(case, numbers, ("lora_A", "lora_B"), {"start.lora_A": torch.zeros(shapes["lora_A"])})
                for case, numbers, shapes in recorded.asked()
            ]
            traces.write(recorded.recorded_file, traces.Traces(recorded.manifest.provenance, {}, made))
        again = toy(tmp_path, tmp_path / "vectors")
        assert again.missing() is None
        assert again.version.endswith("recorded")
        assert again.refuses(CASE) is None
        assert "toy needs no-such-package, not installed here: pip install" in toy(tmp_path, tmp_path / "none").missing()
        with pytest.raises(RecordingError, match="toy needs no-such-package, not installed here"):
            recording.record(manifest.read("toy", tmp_path), asked())

    def test_numbers_are_the_same_but_for_their_last_bits(self):
        numbers = problem(CASE, lora.FORMULA)
        run = traces.run_of(CASE, numbers, (), {})
        for size, found in ((2.0**-50, True), (2.0**-30, False)):
            for change in (
                {"x": numbers.x * (1 + size)},
                {"parameters": numbers.parameters | {"lora_B": numbers.parameters["lora_B"] * (1 + size)}},
            ):
                other = traces.fingerprint(dataclasses.replace(numbers, **change))
                assert (traces.nearly([run], CASE, other) is run) == found
        swapped = dataclasses.replace(numbers, x=numbers.x.flip(0))  # of the same norm
        assert traces.nearly([run], CASE, traces.fingerprint(swapped)) is None

    def test_neither_checkout_nor_recording_is_a_reason(self, nowhere, layers, tmp_path):
        assert "with no checkout, and no recorded traces" in toy(layers, tmp_path).missing()
        assert "nox -s refs" in toy(layers, tmp_path).missing()

    @pytest.mark.parametrize(
        ("trick", "words"),
        [
            ("raise KeyError('toy')", r"KeyError: 'toy'\nin Case\(d_in=6"),
            ("import os; os._exit(3)", "ended with status 3"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by signal 11"),
            ("import os, sys; sys.stdout.flush(); os._exit(0)", "wrote no traces"),
            ("while True: pass", "did not end within"),
            ("import os, subprocess; subprocess.Popen(['sleep', '99']); os._exit(0)", "did not end within"),
            ("torch.empty(2**35)", "ended with status 1"),
            ("import socket; socket.create_connection(('127.0.0.1', 9))", "may not use the network"),
            ("code.package('src/toy', 'other').nonsense; import other.nonsense", r"toy\.toml lists none of src/toy/nonsense"),
        ],
    )
    def test_what_goes_wrong_in_the_process_is_told(self, here, layers, tmp_path, trick, words):
        shutil.copy(layers / "toy.toml", tmp_path)
        (tmp_path / "toy.py").write_text(
            DRIVER.format(trick=trick.replace("code.package('src/toy', 'other').nonsense; ", "code.package('src/toy', 'other'); "))
        )
        with pytest.raises(RecordingError, match=words):
            recording.record(manifest.read("toy", tmp_path), asked(), seconds=8 if "did not end" in words else 300)

    def test_a_changed_file_is_never_run(self, here, layers, tmp_path):
        proof = tmp_path / "it ran"
        (here / "src/toy/scale.py").write_text(f"open({str(proof)!r}, 'w').close()\n{SCALE}")
        with pytest.raises(CheckoutError, match=r"scale\.py"):
            recording.record(manifest.read("toy", layers), asked())
        assert not proof.exists()
        assert r"scale.py" in toy(layers, tmp_path).missing()
