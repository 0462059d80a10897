"""`certify` on layers that are not lite's: a good one passes, each broken twin fails where it should."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout, linear

from conformance import certify
from conformance.third_party.loralib import linear as loralib_layer
from conformance.third_party.loralib import reset as loralib_reset
from conformance.variants import known
from conformance.verdict import Verdict

MAP = {"lora_A": "lora_A", "lora_B": "lora_B"}


class Mine(nn.Module):
    """A LoRA of five lines with its own names and orientation: down is Aᵀ, up is Bᵀ."""

    def __init__(self, base, case):
        super().__init__()
        if case.option("lora_bias", False) or case.option("init", "kaiming") == "orthogonal":
            raise NotImplementedError("no bias of B, and no orthogonal start")
        self.base, self.case = base, case
        dtype = getattr(torch, case.adapter_dtype or case.dtype)
        down = nn.init.kaiming_uniform_(torch.empty(case.rank, case.d_in), a=math.sqrt(5)).T
        if case.option("init", "kaiming") == "gaussian":
            down = torch.empty(case.rank, case.d_in).normal_(std=1 / case.rank).T
        self.down = nn.Parameter(down.contiguous().to(dtype))
        self.up = nn.Parameter(torch.zeros(case.rank, case.d_out, dtype=dtype))
        self.scale = case.alpha / (case.rank**0.5 if case.option("rslora", False) else case.rank)

    def forward(self, x):
        y = self.base(x)
        dropped = dropout(x, self.case.option("dropout", 0.0), self.training)
        return (y + self.delta(dropped)).to(y.dtype)

    def delta(self, x):
        return x.to(self.down.dtype) @ self.down @ self.up * self.scale


MINE = {"lora_A": {"name": "down", "transpose": True}, "lora_B": {"name": "up", "transpose": True}}


def reset_mine(layer, case):
    with torch.no_grad():
        down = torch.empty(case.rank, case.d_in)
        down.normal_(std=1 / case.rank) if case.option("init", "kaiming") == "gaussian" else nn.init.kaiming_uniform_(
            down, a=math.sqrt(5)
        )
        layer.down.copy_(down.T)


def red_of(factory, map_=MINE, **more):
    return certify(factory, "lora", map_, **more)


def test_loralib_is_lora():
    certificate = certify(loralib_layer, "lora", MAP, reset=loralib_reset)
    assert certificate.red == set()
    assert certificate.verdict == "faithful"
    assert certificate.cells["seed parity", "peft"] is Verdict.IDENTICAL


def test_loralib_with_its_scaling_changed_by_1e_6_is_not():
    def changed(base, case):
        layer = loralib_layer(base, case)
        layer.scaling *= 1 + 1e-6
        return layer

    wrong = ["forward", "gradients", "dropout", "shape sweep"]
    certificate = certify(changed, "lora", MAP, reset=loralib_reset, checks=["mapping", "seed parity", *wrong])
    assert certificate.verdict == "buggy"
    assert certificate.red == set(wrong)


def test_a_factor_1e_13_is_seen_in_float64():
    class Off(Mine):
        def delta(self, x):
            return super().delta(x) * (1 + 1e-13)

    assert red_of(Off, checks=["forward", "gradients"]).red == {"forward", "gradients"}


def test_a_transposed_map_carries_values_in_and_gradients_out():
    certificate = red_of(Mine, reset=reset_mine)
    assert certificate.red == set(), str(certificate)
    assert certificate.verdict == "faithful"


def test_without_reset_a_constructor_that_draws_other_numbers_leaves_seed_parity_untested():
    certificate = certify(loralib_layer, "lora", MAP, checks=["mapping", "seed parity", "init"])
    assert certificate.cells["seed parity", "peft"] is Verdict.UNTESTED
    assert certificate.cells["init", "peft"] is Verdict.EQUIVALENT
    assert certificate.verdict == "partial: a narrowed run"


def test_keyword_calls_are_tried_where_the_input_has_a_name():
    certificate = red_of(Mine, reset=reset_mine, input_name="x", checks=["forward"])
    assert certificate.red == set()
    assert any("keyword" in m.case_id for m in certificate if m.verdict is Verdict.EQUIVALENT)


class HardCast(Mine):
    def delta(self, x):
        return (x.float() @ self.down.float() @ self.up.float() * self.scale).to(x.dtype)


def test_a_hard_cast_to_float32_is_capped_and_partial():
    certificate = red_of(HardCast, reset=reset_mine, checks=["forward"])
    assert certificate.cells["forward", "closed form"] is Verdict.CAPPED


class HardCastAndWrong(HardCast):
    def delta(self, x):
        return super().delta(x) * (1 + 1e-5)


class SmallErrorNoCast(Mine):
    def delta(self, x):
        return super().delta(x) * (1 + 3e-8)


@pytest.mark.parametrize("factory", [HardCastAndWrong, SmallErrorNoCast])
def test_a_hard_cast_excuses_no_other_error_and_an_error_of_its_size_is_no_hard_cast(factory):
    assert red_of(factory, checks=["forward"]).red == {"forward"}


class DetachedDown(Mine):
    def delta(self, x):
        return x.to(self.down.dtype) @ self.down.detach() @ self.up * self.scale


class NoGradient(Mine):
    def delta(self, x):
        with torch.no_grad():
            return super().delta(x)


class NotFinite(Mine):
    def delta(self, x):
        return super().delta(x) / 0


class WrongShape(Mine):
    def forward(self, x):
        return super().forward(x)[..., :-1]


class TrainsBase(Mine):
    def __init__(self, base, case):
        super().__init__(base.requires_grad_(), case)


class HalfInput(Mine):
    def delta(self, x):
        return super().delta(x.detach())


class DropoutOnOutput(Mine):
    def forward(self, x):
        y = self.base(x)
        return (y + dropout(self.delta(x), self.case.option("dropout", 0.0), self.training)).to(y.dtype)


@pytest.mark.parametrize(
    ("factory", "red", "message"),
    [
        (DetachedDown, {"gradients", "dead parameters", "shape sweep"}, "grad.lora_A"),
        (NoGradient, {"gradients", "dead parameters"}, "without gradient: lora_A, lora_B"),
        (NotFinite, {"forward", "gradients", "identity", "shape sweep"}, "not finite"),
        (WrongShape, {"forward", "gradients", "identity", "shape sweep"}, "(2, 5, 15)"),
        (TrainsBase, {"mapping"}, "trains base.bias, base.weight, down, up"),
        (HalfInput, {"gradients"}, "grad.x"),
    ],
)
def test_broken_twins_fail_where_they_should(factory, red, message):
    certificate = red_of(factory, checks=sorted({"forward", *red}))
    assert certificate.red == red
    assert certificate.verdict == "buggy"
    assert message in " ".join(f"{m.what} {m.got} {m.should}" for m in certificate if m.verdict.is_red)


def test_only_dropout_is_red_for_dropout_in_the_wrong_place():
    certificate = red_of(DropoutOnOutput, checks=["forward", "gradients", "dropout", "identity", "shape sweep"])
    assert certificate.red == {"dropout"}


def test_a_factory_that_raises_is_an_error_that_names_it():
    def broken(base, case):
        raise AttributeError("my layer has no such thing")

    certificate = red_of(broken, checks=["mapping"])
    assert certificate.cells["mapping", "closed form"] is Verdict.ERROR
    assert "AttributeError: my layer has no such thing" in str(certificate)


def test_a_factory_that_offers_nothing_is_untested_not_faithful():
    def nothing(base, case):
        raise NotImplementedError("nothing at all")

    certificate = red_of(nothing)
    assert certificate.verdict == "partial"
    assert certificate.cells["forward", "peft"] is Verdict.UNTESTED
    assert certificate.cells["shape sweep", "peft"] is Verdict.UNTESTED


def test_a_layer_that_ignores_its_seed_is_red():
    class Seedless(Mine):
        def __init__(self, base, case):
            super().__init__(base, case)
            with torch.no_grad():
                self.down.uniform_(-(case.d_in**-0.5), case.d_in**-0.5, generator=torch.Generator().manual_seed(3))

    assert red_of(Seedless, checks=["seed parity", "forward"]).red == {"seed parity"}


def test_a_layer_with_two_seeds_for_one_is_red():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)

    class Restless(Mine):
        def __init__(self, base, case):
            super().__init__(base, case)
            with torch.no_grad():
                self.down.uniform_(-(case.d_in**-0.5), case.d_in**-0.5, generator=generator)

    certificate = red_of(Restless, checks=["seed parity"])
    assert "two builds with one seed differ" in str(certificate)


def test_only_one_case_can_be_asked_for():
    id_ = next(m.case_id for m in red_of(HalfInput, checks=["gradients"]) if m.verdict.is_red)
    certificate = red_of(HalfInput, checks=["gradients"], case=id_)
    assert {m.case_id for m in certificate} == {id_}
    assert certificate.verdict == "buggy"
    assert red_of(Mine, checks=["gradients"], case=id_).verdict == "partial: a narrowed run"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((Mine, "lroa", MINE), ValueError, ["lroa", ", ".join(known())]),
        ((Mine, "lora", None), ValueError, ["lora_A, lora_B"]),
        ((Mine, "lora", {"A": "down"}), ValueError, ["lora_A, lora_B", "it has A"]),
        ((Mine, "lora", {"lora_A": 3, "lora_B": "up"}), ValueError, ["lora_A", "3", "transpose"]),
        ((Mine, "lora", {"lora_A": {"name": "down", "transposed": True}, "lora_B": "up"}), ValueError, ["transposed"]),
        (("Mine", "lora", MINE), TypeError, ["Mine", "nn.Module"]),
    ],
)
def test_unusable_arguments_are_refused_with_both_sides(arguments, error, words):
    with pytest.raises(error) as caught:
        certify(*arguments)
    assert all(word in str(caught.value) for word in words)


def test_an_unknown_check_is_refused():
    with pytest.raises(ValueError, match="unknown check foward; known: mapping, seed parity"):
        certify(Mine, "lora", MINE, checks=["foward"])


@pytest.mark.parametrize(
    ("map_", "message"),
    [
        ({"lora_A": "down", "lora_B": "up"}, "down has shape"),
        ({"lora_A": {"name": "dwon", "transpose": True}, "lora_B": MINE["lora_B"]}, "lora_A is mapped to dwon, which is not there"),
        ({"lora_A": MINE["lora_A"]}, "the map lacks lora_B"),
    ],
)
def test_a_map_that_does_not_fit_fails_mapping_and_leaves_the_rest_untested(map_, message):
    certificate = certify(Mine, "lora", map_)
    assert certificate.red == {"mapping"}
    assert certificate.cells["forward", "peft"] is Verdict.UNTESTED
    assert message in str(certificate)


def test_a_factory_that_returns_no_module():
    certificate = red_of(lambda base, case: 3, checks=["forward"])
    assert "the factory should return an nn.Module, got int" in str(certificate)


def test_a_functional_layer_can_be_wrapped():
    class Functional(nn.Module):
        def __init__(self, base, case):
            super().__init__()
            self.base, self.scale, self.p = base, case.alpha / case.rank, case.option("dropout", 0.0)
            self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(case.rank, case.d_in), a=math.sqrt(5)).to(base.weight.dtype))
            self.B = nn.Parameter(torch.zeros(case.d_out, case.rank, dtype=base.weight.dtype))
            if case.options not in ((), (("dropout", self.p),)) or case.layer == "conv1d" or case.adapter_dtype:
                raise NotImplementedError("plain LoRA only")

        def forward(self, x):
            low = linear(dropout(x, self.p, self.training), self.A)
            return self.base(x) + self.scale * linear(low, self.B)

    checks = ["mapping", "init", "forward", "gradients", "dead parameters", "dropout", "identity"]
    certificate = certify(Functional, "lora", {"lora_A": "A", "lora_B": "B"}, checks=checks)
    assert certificate.red == set()
    assert certificate.cells["gradients", "peft"] in (Verdict.IDENTICAL, Verdict.EQUIVALENT)


class DenseDoRA(nn.Module):
    """DoRA as a dense weight, bias added last: the same method with another order of sums."""

    def __init__(self, base, case):
        super().__init__()
        if case.layer == "conv1d" or case.adapter_dtype or case.options:
            raise NotImplementedError("plain DoRA only")
        self.base, self.scale = base, case.alpha / case.rank
        down = nn.init.kaiming_uniform_(torch.empty(case.rank, case.d_in), a=math.sqrt(5))
        self.A = nn.Parameter(down.to(base.weight.dtype))
        self.B = nn.Parameter(torch.zeros(case.d_out, case.rank, dtype=base.weight.dtype))
        self.m = nn.Parameter(torch.linalg.norm(base.weight, dim=1))

    def forward(self, x):
        V = self.base.weight + self.scale * self.B @ self.A
        y = linear(x, (self.m / torch.linalg.norm(V.detach(), dim=1))[:, None] * V)
        return y if self.base.bias is None else y + self.base.bias


def test_another_order_of_sums_is_equivalent_not_a_broken_identity():
    certificate = certify(DenseDoRA, "dora", {"lora_A": "A", "lora_B": "B", "lora_m": "m"}, checks=["identity", "forward"])
    assert certificate.red == set()
    assert certificate.cells["identity", "itself"] is Verdict.EQUIVALENT

    class Off(DenseDoRA):
        def forward(self, x):
            return super().forward(x) * (1 + 1e-12)

    map_ = {"lora_A": "A", "lora_B": "B", "lora_m": "m"}
    assert "identity" in certify(Off, "dora", map_, checks=["identity"]).red


def test_peft_s_own_delora_is_delora():
    import peft

    def factory(base, case):
        if case.layer != "linear" or case.adapter_dtype:
            raise NotImplementedError("peft's DeLoRA adapts nn.Linear only")
        host = nn.ModuleDict({"layer": base})
        more = {"delora_lambda": case.option("lambda0", 15.0), "module_dropout": case.option("dropout", 0.0)}
        more["init_weights"] = case.option("init", "zero") == "zero"
        peft.inject_adapter_in_model(peft.DeloraConfig(r=case.rank, target_modules=["layer"], **more), host)
        return host["layer"]

    def reset(layer, case):
        layer.reset_delora_parameters("default", case.option("init", "zero") == "zero", case.option("lambda0", 15.0))

    names = {"A": "delora_A", "B": "delora_B", "wnorm": "delora_w_norm"}
    map_ = {f"lora_{ours}": f"{theirs}.default" for ours, theirs in names.items()}
    map_["lora_lambda"] = {"name": "delora_lambda.default", "shape": (1,)}
    certificate = certify(factory, "delora", map_, reset=reset, input_name="x")
    assert certificate.red == set(), str(certificate)
    assert certificate.verdict == "faithful with documented divergence"
    assert certificate.cells["gradients", "peft"] is Verdict.IDENTICAL


def test_a_layer_that_refuses_other_sizes_is_partial():
    class OneSize(Mine):
        def __init__(self, base, case):
            if case.rank != 4:
                raise NotImplementedError("rank 4 only")
            super().__init__(base, case)

    certificate = red_of(OneSize, reset=reset_mine, checks=["mapping", "forward"])
    assert certificate.red == set()
    assert certificate.cells["forward", "closed form"] is Verdict.UNTESTED
    assert any("refuses a plain case" in m.reason for m in certificate)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_start_of_another_spread_is_seen_without_reset(factor):
    class Spread(Mine):
        def __init__(self, base, case):
            super().__init__(base, case)
            with torch.no_grad():
                self.down.mul_(factor)

    assert red_of(Spread, checks=["init"]).red == {"init"}


@pytest.mark.parametrize("wrong", [{"case": "nonsense"}, {"checks": []}])
def test_asking_for_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"nonsense|empty"):
        certify(Mine, "lora", MINE, **wrong)


class Stale(Mine):
    """Keeps the product of its first call, in eval mode."""

    def delta(self, x):
        if self.training:
            return super().delta(x)
        if not hasattr(self, "kept"):
            self.kept = (self.down @ self.up * self.scale).detach()
        return x.to(self.down.dtype) @ self.kept


def test_a_layer_that_keeps_what_it_computed_before_it_was_trained_is_not():
    assert red_of(Stale, reset=reset_mine, checks=["mapping", "forward", "round trip"]).red == {"round trip"}


def test_a_factory_that_returns_what_it_returned_before_is_told():
    made = {}
    certificate = red_of(lambda base, case: made.setdefault(repr(case), Mine(base, case)), checks=["mapping", "forward"])
    assert certificate.red == {"mapping"}
    assert any("a module that it had returned before" in m.got for m in certificate)


def test_a_map_or_reset_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="map should be a mapping"):
        red_of(Mine, ["lora_A"])
    with pytest.raises(TypeError, match="reset should be a function"):
        red_of(Mine, reset=3)
