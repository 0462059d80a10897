"""One coefficient for all adapters that have one."""

import copy
import dataclasses

import pytest
import torch

import lite
from lite.tests.toys import CONFIGS, STEERED, adapted, attach, each, inputs, net, snapshot


def config_of(make, coeff=1.0):
    return dataclasses.replace(make(r=4), coeff=coeff)


def output(model):
    with torch.no_grad():
        return model(inputs())


def steered_by_config(make, coeff):
    """A model whose config says the coefficient, with the values of one that was trained at 1."""
    model, trained = net(), adapted(config_of(make))
    attach(model, config_of(make, coeff))
    model.load_state_dict(trained.state_dict())
    return model


@each(*STEERED)
@pytest.mark.parametrize("coeff", [-1, -0.4, 0.5, 1.0, 2.0])
def test_steering_is_what_a_config_with_that_coefficient_does(make, coeff):
    model = adapted(config_of(make))
    lite.steer(model, coeff)
    assert output(model).equal(output(steered_by_config(make, coeff)))


@each(*STEERED)
def test_zero_is_the_base_model_bit_for_bit(make):
    model = adapted(config_of(make))
    assert not output(model).equal(output(net()))
    lite.steer(model, 0)
    assert output(model).equal(output(net()))


@each(*STEERED)
def test_a_block_ends_with_what_was_there_before_also_after_an_error(make):
    model = adapted(config_of(make))
    trained = output(model)
    lite.steer(model, 0.5)
    half = output(model)
    with lite.steer(model, -1) as same:
        assert same is model
        turned = output(model)
        with pytest.raises(KeyError), lite.steer(model, 2):
            raise KeyError
        assert output(model).equal(turned)
    assert output(model).equal(half)
    lite.steer(model, 1)
    assert output(model).equal(trained)


@each(*STEERED)
def test_a_file_keeps_the_configs_coefficient(make, tmp_path):
    model = adapted(config_of(make, 0.5))
    before = output(model)
    lite.steer(model, -1)
    lite.save(model, tmp_path / "file")
    assert output(lite.load(net(), tmp_path / "file")).equal(before)
    lite.load(model, tmp_path / "file")  # in place: what steers stays
    assert not output(model).equal(before)


@each(*STEERED)
def test_a_copy_is_steered_by_itself(make):
    model = adapted(config_of(make))
    before = output(model)
    twin = copy.deepcopy(model)
    lite.steer(twin, 0)
    assert output(twin).equal(output(net()))
    assert output(model).equal(before)


def test_methods_without_a_coefficient_stay_as_they_are():
    configs = [CONFIGS["lora"](r=2, target_names=["first"]), CONFIGS["antipasto"](r=2, target_names=["last"])]
    model = adapted(configs)
    lite.steer(model, 0)
    alone = adapted(configs[0])
    alone.first.load_state_dict(model.first.state_dict())
    assert output(model).equal(output(alone))


def test_what_was_kept_steers_again():
    model = adapted(config_of(CONFIGS["antipasto"]))
    trained = output(model)
    off = lite.steer(model, 0)
    for _ in range(2):
        with off:
            assert output(model).equal(output(net()))
        assert output(model).equal(trained)
    lite.steer(model, 0.5)
    half = output(model)
    with off:
        assert output(model).equal(output(net()))
    assert output(model).equal(half)


def test_none_goes_back_to_what_each_config_says():
    configs = [
        dataclasses.replace(CONFIGS["antipasto"](r=2, target_names=[name]), coeff=coeff)
        for name, coeff in (("first", 0.5), ("last", 2))
    ]
    model = adapted(configs)
    before = output(model)
    lite.steer(model, 10**20)
    lite.steer(model, None)
    assert output(model).equal(before)


@pytest.mark.parametrize("coeff", [float("nan"), float("inf"), "1", True])
def test_what_is_no_coefficient_is_refused(coeff):
    model = adapted(config_of(CONFIGS["antipasto"]))
    before = output(model)
    with pytest.raises(ValueError, match="coeff must be a finite number, or None, got"):
        lite.steer(model, coeff)
    assert output(model).equal(before)


def test_there_has_to_be_something_to_steer():
    with pytest.raises(RuntimeError, match=r"nothing to steer; call lite\.attach first"):
        lite.steer(net(), 1)
    model = net()
    lite.attach(model, CONFIGS["lora"](r=2))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"coeff = 0\.5 steers nothing: lora has no coefficient"):
        lite.steer(model, 0.5)
    assert snapshot(model) == before
