"""No option is ignored: each one, changed alone, changes the start or the function, or is refused."""

import dataclasses

import pytest
import torch

import lite
from lite.tests.test_config import GOOD, values
from lite.tests.toys import CONFIGS, all_bits, attach, bits, inputs, net, trained

# EVA shares out its ranks unevenly here, and the components that are largest by rms and by mean_abs are not the same.
UNEVEN = [inputs(60, 3, 6, seed=89) * torch.tensor([3.0, 1, 1, 1, 1, 1])]
FUNCTION_ONLY = {
    "alpha",
    "dropout",
    "rslora",
    "adjust_scaling_factors",
    "group_size",
    "coeff",
    "suppress_only",
    "max_rotation_angle",
}
OPTIONS = [(make, name) for make in CONFIGS.values() for name in make.options if values(GOOD, make.config, name)]


def result(config):
    """The tensors at the start, then what the moved adapters compute while training."""
    torch.manual_seed(1)
    model = attach(net(), config, UNEVEN)
    start = all_bits(model)
    torch.manual_seed(2)
    return start, bits(trained(model, seed=6)(inputs()))  # moved up and down, in every layer of every method


def own(make, name):
    """A good value that changes something here."""
    return {"r": 4, "rho": 1, "lora_rank": 1, "block": 2, "k": 2, "block_size": 4}.get(name) or values(GOOD, make.config, name)[-1]


@pytest.mark.parametrize(("make", "name"), [pytest.param(m, n, id=f"{m.config.__name__}-{n}") for m, n in OPTIONS])
def test_an_option_changes_something_or_is_refused(make, name):
    value = {"target_names": ("first",), "exclude_names": ("first",)}.get(name, own(make, name))
    plain = make(r={"block": 3, "block_size": 4}.get(name, 2), cov_orient=name == "cov_eps")
    config = dataclasses.replace(plain, **{name: value})
    assert getattr(config, name) != getattr(plain, name)
    if name in ("layers", "target_roles"):
        with pytest.raises(ValueError, match="matches no layer"):
            attach(net(), config, UNEVEN)
        return
    assert result(plain) == result(dataclasses.replace(plain))
    (start, output), (other_start, other_output) = result(plain), result(config)
    assert output != other_output
    if name not in FUNCTION_ONLY:
        assert start != other_start


@pytest.mark.parametrize("role", ["reader", "writer", "inner"])
def test_roles_select(role):
    try:
        tensors = all_bits(attach(net(), lite.LoRAConfig(r=2, target_roles=(role,))))
    except ValueError as error:
        assert "matches no layer" in str(error)  # noqa: PT017
        tensors = {}
    assert {n for n in tensors if "lora_A" in n} == {"reader": {"last.lora_A"}, "writer": {"first.lora_A"}}.get(role, set())


def test_the_uneven_data_is_uneven():
    model = attach(net(), lite.EVAConfig(r=2), UNEVEN)
    assert (len(model.first.lora_A), len(model.last.lora_A)) == (1, 3)
