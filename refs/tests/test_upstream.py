"""What the suites say that peft refuses or fails on: a fix upstream is noticed here."""

import peft
import pytest
import torch
from peft.tuners.lora.config import CordaConfig, EvaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn
from transformers.pytorch_utils import Conv1D

from refs import corda, eva, lora, lora_xs, olora, pissa
from refs.calibration import batches, pair
from refs.case import Case
from refs.problem import problem

NAMES = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "lora_b": "lora_B.bias"}
CASE = Case(d_in=12, d_out=8, rank=2, alpha=3.0, weight="decay")
LAYERS = {"pissa": pissa, "olora": olora, "corda": corda, "eva": eva}


def injected(layer, config):
    return peft.inject_adapter_in_model(config, nn.ModuleDict({"layer": layer}))


def config(**more):
    return peft.LoraConfig(r=2, target_modules=["layer"], **more)


def test_olora_fails_on_a_conv1d_that_is_not_square():
    reference = olora.peft_layer(NAMES)
    assert "Conv1D" in str(reference.refuses(CASE.but(layer="conv1d")))
    for d_out, d_in in ((8, 12), (12, 8)):
        model = injected(Conv1D(d_out, d_in), config(init_lora_weights="olora", fan_in_fan_out=True))
        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):  # factors of the transposed weight
            model["layer"](torch.ones(3, d_in))
    assert reference.refuses(CASE.but(layer="conv1d", d_out=12)) is None
    injected(Conv1D(12, 12), config(init_lora_weights="olora", fan_in_fan_out=True))


def test_pissa_takes_a_conv1d():
    case = CASE.but(layer="conv1d")
    assert pissa.peft_layer(NAMES).refuses(case) is None
    pissa.peft_layer(NAMES).build(case, problem(case, pissa.FORMULA))


@pytest.mark.parametrize("sequences", [1, 2])
def test_corda_fails_on_batches_of_several_sequences(sequences):
    case = CASE.but(data="padded")
    numbers = problem(case, corda.FORMULA)
    model = pair(case.but(dtype="float32"), numbers.weight, numbers.bias)
    cfg = peft.LoraConfig(r=2, target_modules=["layer"], init_lora_weights="corda", corda_config=CordaConfig())
    x, z = (tensor[:sequences].float() for tensor in (batches(case)[0].layer, batches(case)[0].beside))

    def work():
        preprocess_corda(model, cfg, lambda: model(x, z))

    if sequences == 1:
        work()
    else:
        with pytest.raises((RuntimeError, ValueError)):
            work()
    assert "several sequences" in str(corda.peft_layer(NAMES).refuses(case))


def test_psoft_takes_no_conv1d_and_tinylora_does():
    psoft, tinylora = lora_xs.references()
    assert "Conv1D" in str(psoft.refuses(CASE.but(layer="conv1d")))
    with pytest.raises((TypeError, ValueError)):
        injected(Conv1D(8, 12), peft.PsoftConfig(r=2, target_modules=["layer"]))
    assert tinylora.refuses(CASE.but(layer="conv1d")) is None


@pytest.mark.parametrize("start", ["pissa", "olora", "corda", "eva", "gaussian", "orthogonal"])
def test_a_bias_of_b_goes_with_the_default_start_only(start):
    config(lora_bias=True)
    own = {"corda": {"corda_config": CordaConfig()}, "eva": {"eva_config": EvaConfig()}}.get(start, {})
    with pytest.raises(ValueError, match="lora_bias"):
        config(lora_bias=True, init_lora_weights=start, **own)
    case = CASE.but(options={"lora_bias": True})
    assert lora.peft_layer(NAMES).refuses(case) is None
    if start in LAYERS:
        assert "lora_bias" in str(LAYERS[start].peft_layer(NAMES).refuses(case))
    else:
        assert "lora_bias" in str(lora.peft_layer(NAMES).refuses(case.but(options={"init": start})))


@pytest.mark.parametrize("options", [{"rslora": True}, {"dropout": 0.3}], ids=repr)
def test_a_bias_of_b_goes_with_every_option_that_is_no_start(options):
    words = {"rslora": "use_rslora", "dropout": "lora_dropout"}
    config(lora_bias=True, **{words[name]: value for name, value in options.items()})
    assert lora.peft_layer(NAMES).refuses(CASE.but(options={"lora_bias": True, **options})) is None


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_float64_is_refused_so_that_layers_are_made_in_float32(start):
    assert LAYERS[start].peft_layer(NAMES).single
    with pytest.raises(TypeError, match="float"):
        injected(nn.Linear(12, 8, dtype=torch.float64), config(init_lora_weights=start))
    injected(nn.Linear(12, 8), config(init_lora_weights=start))


def test_corda_refuses_float64():
    assert corda.peft_layer(NAMES).single
    case = CASE.but(data="one")
    numbers = problem(case, corda.FORMULA)
    model = pair(case, numbers.weight, numbers.bias)
    cfg = peft.LoraConfig(r=2, target_modules=["layer"], init_lora_weights="corda", corda_config=CordaConfig())

    def work():
        preprocess_corda(model, cfg, lambda: [model(batch.layer, batch.beside) for batch in numbers.data])
        peft.inject_adapter_in_model(cfg, model)

    with pytest.raises((TypeError, RuntimeError)):
        work()


def test_eva_takes_float64():
    assert not eva.peft_layer(NAMES).single
    assert EvaConfig().rho == eva.DEFAULT_RHO


def test_psoft_refuses_float64_and_tinylora_does_not():
    psoft, tinylora = lora_xs.references()
    assert (psoft.single, tinylora.single) == (True, False)
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        injected(nn.Linear(12, 8, dtype=torch.float64), lora_xs.psoft_config(target_modules=["layer"], r=2))
