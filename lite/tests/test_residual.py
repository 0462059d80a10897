"""Methods that replace the weight by what they leave of it: the original stays, and a file explains the residual."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import lite
from lite.tests.files import content
from lite.tests.toys import RESIDUAL, all_bits, attach, bits, each, inputs, net, snapshot, trained


@each(*RESIDUAL)
def test_the_plain_weight_is_the_base_and_the_residual_is_not(make, tmp_path):
    model = trained(attach(net(), make(r=2)))
    lite.save(model, tmp_path / "file")
    cropped = net()
    for name in ("first", "last"):
        cropped.get_submodule(name).weight.data = model.get_submodule(name).weight.detach().clone()
    with pytest.raises(ValueError, match="another base: first"):
        lite.load(cropped, tmp_path / "file")


@each(*RESIDUAL)
@pytest.mark.parametrize("step", ["replace_weight", "without"])
def test_a_load_that_breaks_off_leaves_a_plain_model_plain(make, step, monkeypatch, tmp_path):
    lite.save(trained(attach(net(), make(r=2))), tmp_path / "file")
    model, calls = net(), []
    before = snapshot(model)

    def failing(*args):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("planted")
        return real(*args)

    place = "lite.runtime.replace_weight" if step == "replace_weight" else "lite.variants.pissa.without"
    real = {"replace_weight": lite.runtime.replace_weight, "without": lite.variants.pissa.without}[step]
    monkeypatch.setattr(place, failing)
    with pytest.raises(MemoryError, match="planted"):
        lite.load(model, tmp_path / "file")
    assert snapshot(model) == before


@each(*RESIDUAL)
def test_a_weight_that_is_no_parameter_is_refused_where_it_is_replaced(make):
    layer = nn.Linear(6, 5)
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight
    with pytest.raises(ValueError, match="the method replaces the weight, which is no parameter of the layer here; exclude it"):
        attach(layer, make(r=2), [inputs(30, 6)])
    assert layer.weight is weight


@each(*RESIDUAL)
def test_the_residual_takes_no_gradient_and_the_original_is_kept_as_it_was(make):
    model = net()
    weight = model.first.weight
    original = bits(weight)
    attach(model, make(r=2))
    trained(model)(inputs()).square().sum().backward()
    assert model.first.weight is not weight
    assert not model.first.weight.requires_grad
    assert model.first.weight.grad is None
    assert bits(weight) == original
    assert model.first.weight.is_contiguous()
    torch.testing.assert_close(
        functional.linear(inputs(), model.first.weight), inputs() @ model.first.weight.T.contiguous(), rtol=1e-5, atol=1e-5
    )
    assert lite.detach(model).first.weight is weight


@each(*RESIDUAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_state_dict_of_another_start_is_not_saved_as_if_it_were_of_this_one(make, dtype, tmp_path):
    def started(seed):
        model, config = net().to(dtype), make(r=2, niter=1)
        if make.config is lite.OLoRAConfig:  # neither draws nor data: another base
            nn.init.normal_(model.first.weight, generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(seed)
        return attach(model, config, [inputs(30, 6, seed=seed, dtype=dtype)])

    model, other = trained(started(1)), started(2)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(inputs(dtype=dtype)), model(inputs(dtype=dtype)))
    before = snapshot(other)
    with pytest.raises(RuntimeError, match=r"first: the weight is not what attach left of it.*was a state dict"):
        lite.save(other, tmp_path / "file")
    assert snapshot(other) == before
    assert list(tmp_path.iterdir()) == []
    lite.save(model, tmp_path / "file")
    if make.config is not lite.OLoRAConfig:
        assert all_bits(lite.load(started(3), tmp_path / "file")) == all_bits(model)
        lite.save(lite.load(other, tmp_path / "file"), tmp_path / "again")
        assert content(tmp_path / "again") == content(tmp_path / "file")
