"""EVA: principal directions of the inputs, against a PCA of its own, and ranks shared out by explained variance."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import lite
from lite.layers import Layer
from lite.tests.files import content, read
from lite.tests.toys import all_bits, inputs, snapshot, trainable, trained
from lite.variants.eva import Spread

SHIFT = 3.0  # far from zero: without centring the mean would lead


class Two(nn.Module):
    """Two layers side by side; `wide` receives more directions than `narrow`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.narrow = nn.Linear(12, 5, dtype=torch.float64), nn.Linear(4, 3, dtype=torch.float64)

    def forward(self, x):
        """x (…, 16) → (…, 8)."""
        return torch.cat([self.wide(x[..., :12]), self.narrow(x[..., 12:])], -1)


def data(decay=0.7, batches=3, tokens=100):
    scale = torch.cat([decay ** torch.arange(12.0), torch.ones(4)]).double()
    return [inputs(2, tokens // 2, 16, seed=50 + n, dtype=torch.float64) * scale + SHIFT for n in range(batches)]


def pca(batches):
    """Singular values and directions of each layer's centred inputs."""
    X = np.concatenate([batch.reshape(-1, 16).numpy() for batch in batches])
    out = {}
    for name, part in (("wide", X[:, :12]), ("narrow", X[:, 12:])):
        _, S, Vt = np.linalg.svd(part - part.mean(0), full_matrices=False)
        out[name] = S, Vt * np.sign(Vt[np.arange(len(Vt)), np.abs(Vt).argmax(1)])[:, None]
    return out


def ranks(batches, r, rho):
    """How many of the components with the largest share of their layer's variance each layer has."""
    shares = [(s**2 / (S**2).sum(), name) for name, (S, _) in pca(batches).items() for s in S[: round(rho * r)]]
    taken = [name for _, name in sorted(shares, reverse=True)[: 2 * r]]
    return {name: taken.count(name) for name in ("wide", "narrow")}


def close(one, other):
    torch.testing.assert_close(one.detach(), torch.from_numpy(np.ascontiguousarray(other)), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("whiten", [False, True], ids=["plain", "whitened"])
def test_with_rho_1_every_layer_starts_with_its_r_principal_directions(whiten):
    model = lite.attach(Two(), lite.EVAConfig(r=3, rho=1, whiten=whiten), data())
    for name, (S, Vt) in pca(data()).items():
        layer = model.get_submodule(name)
        close(layer.lora_A, Vt[:3] / (np.sqrt(S[:3, None]) if whiten else 1))
        assert not layer.lora_B.any()


@pytest.mark.parametrize("rho", [1, 1.5, 2, 4])
@pytest.mark.parametrize("decay", [0.3, 0.7, 1.0])
def test_ranks_are_shared_out_and_the_budget_is_kept(decay, rho):
    model = lite.attach(Two(), lite.EVAConfig(r=2, rho=rho), data(decay))
    there = {name: len(getattr(model.get_submodule(name), "lora_A", [])) for name in ("wide", "narrow")}
    assert there == ranks(data(decay), 2, rho)
    assert sum(there.values()) == 4
    assert max(there.values()) <= round(2 * rho)
    for name, (_, Vt) in pca(data(decay)).items():
        if there[name]:
            close(model.get_submodule(name).lora_A, Vt[: there[name]])


def test_these_ranks_are_not_all_alike():
    assert len({tuple(ranks(data(decay), 2, rho).values()) for decay in (0.3, 0.7, 1.0) for rho in (1, 1.5, 2, 4)}) >= 3


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, lambda r: 5 / 2),
        ({"adjust_scaling_factors": False}, lambda r: 5 / r),
        ({"rslora": True}, lambda r: 5 * r / 2 / r**0.5),
        ({"rslora": True, "adjust_scaling_factors": False}, lambda r: 5 / r**0.5),
    ],
    ids=["adjusted", "not", "rslora", "rslora, not"],
)
def test_the_scale_of_a_layer_with_another_rank(options, scale, tmp_path):
    model = trained(lite.attach(Two(), lite.EVAConfig(r=2, alpha=5, **options), data(0.3)))
    assert ranks(data(0.3), 2, 2) == {"wide": 1, "narrow": 3}
    lite.save(model, tmp_path / "file")
    x = inputs(7, 16, seed=60, dtype=torch.float64)
    for adapted in (model, lite.load(Two(), tmp_path / "file")):
        for layer, part, r in ((adapted.wide, x[:, :12], 1), (adapted.narrow, x[:, 12:], 3)):
            update = scale(r) * part @ (layer.lora_B @ layer.lora_A).T
            torch.testing.assert_close(layer(part), nn.functional.linear(part, layer.weight, layer.bias) + update)


def test_a_layer_without_a_share_stays_as_it_is_in_the_model_and_in_the_file(tmp_path):
    config, model, x = lite.EVAConfig(r=2), Two(), inputs(7, 16, dtype=torch.float64)
    before, y = snapshot(model), model(x)
    assert ranks(data(1.0), 2, 2) == {"wide": 0, "narrow": 4}
    trained(lite.attach(model, config, data(1.0)))
    assert list(trainable(model)) == ["narrow.lora_A", "narrow.lora_B"]
    assert not model.wide.weight.requires_grad
    assert torch.equal(model(x)[:, :5], y[:, :5])
    assert not torch.equal(model(x)[:, 5:], y[:, 5:])
    lite.save(model, tmp_path / "file")
    (group,) = json.loads(read(tmp_path / "file")[0]["adapters"])
    assert group["layers"]["wide"]["options"] is None
    assert group["layers"]["narrow"]["options"] == {"r": 4, "alpha": 16.0}
    other = lite.load(Two(), tmp_path / "file")
    lite.save(lite.load(other, tmp_path / "file"), tmp_path / "again")
    assert all_bits(other) == all_bits(model)
    assert content(tmp_path / "again") == content(tmp_path / "file")
    nn.init.zeros_(other.wide.weight)
    with pytest.raises(ValueError, match="another base: wide"):
        lite.load(other, tmp_path / "file")
    assert snapshot(lite.detach(model)) == before


def test_a_file_with_other_ranks_does_not_go_onto_an_adapted_model(tmp_path):
    lite.save(lite.attach(Two(), lite.EVAConfig(r=2), data(1.0)), tmp_path / "file")
    model = lite.attach(Two(), lite.EVAConfig(r=2), data(0.3))
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=r"shares out its ranks in another way than what is attached; call lite\.detach first"):
        lite.load(model, tmp_path / "file")
    assert snapshot(model) == before


FEW = {
    "too few tokens": (
        [data()[0][:1, :6]],
        r"wide: 6 tokens in 5 directions are too few for up to 6 components \(r = 3, rho = 2\.0\)",
    ),
    "too few directions": (
        [data()[0] * (torch.arange(16) < 2)],
        r"wide: 100 tokens in 2 directions are too few for up to 6 components",
    ),
    "nothing but zeros": ([0 * data()[0]], r"wide: 100 tokens in 0 directions are too few"),
    "one token many times": ([data()[0][:1, :1].expand(4, 9, 16)], r"wide: 36 tokens in 0 directions are too few"),
}


@pytest.mark.parametrize(("batches", "message"), FEW.values(), ids=FEW)
def test_too_little_data_is_refused_with_numbers(batches, message):
    model = Two()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        lite.attach(model, lite.EVAConfig(r=3), batches)
    assert snapshot(model) == before


def test_just_enough_tokens_are_enough():
    batch = data()[0][:1, :7]
    model = lite.attach(Two(), lite.EVAConfig(r=3), [batch])
    close(model.narrow.lora_A, pca([batch])["narrow"][1][: len(model.narrow.lora_A)])


def test_a_rank_above_the_input_is_refused():
    with pytest.raises(ValueError, match="eva on narrow: r = 5, but an input of size 4 has only 4 principal directions"):
        lite.attach(Two(), lite.EVAConfig(r=5), data())


def test_an_input_that_overflows_is_refused():
    model = Two()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"batch 1: wide: values up to .*e\+200 overflow when squared"):
        lite.attach(model, lite.EVAConfig(r=2), [1e200 * batch for batch in data()])
    assert snapshot(model) == before


def test_roundings_are_no_directions_in_a_wide_layer():
    torch.manual_seed(0)
    layer = nn.Linear(256, 3, dtype=torch.float64)
    plane = inputs(400, 2, seed=61, dtype=torch.float64) @ inputs(2, 256, seed=62, dtype=torch.float64)
    with pytest.raises(ValueError, match="400 tokens in 2 directions are too few"):
        lite.attach(layer, lite.EVAConfig(r=3), [plane])


def test_small_differences_around_a_large_mean_are_directions():
    batches = [1e3 + 1e-4 * batch for batch in data()]
    model = lite.attach(Two(), lite.EVAConfig(r=3, rho=1), batches)
    torch.testing.assert_close(
        model.wide.lora_A.abs().detach(), torch.from_numpy(abs(pca(batches)["wide"][1][:3])), rtol=1e-4, atol=1e-4
    )


def test_inputs_are_added_up_in_float64_whatever_the_model_computes_in():
    layer, x = nn.Linear(12, 5), inputs(30, 12, seed=63).bfloat16()
    spread = Spread(lite.EVAConfig(r=2), Layer("", layer, 12, 5, transposed=False))
    spread.update(x)
    assert spread.mean.equal(x.double().mean(dim=0))
