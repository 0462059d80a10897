"""Which tokens count: the masks of a batch, whatever stands in the positions that they leave out."""

import pytest
import torch
from torch import nn

import lite
from lite.tests.test_calibration import each_from_data, same, statistics
from lite.tests.toys import all_bits, inputs, net, snapshot

X = inputs(4, 10, 6, seed=31)
LENGTHS = torch.tensor([10, 7, 9, 3])
MASK = (torch.arange(10) < LENGTHS[:, None]).long()
LABELS = MASK * (torch.arange(10) > 1)


def garbage(x, mask, value):
    """x with something else in the positions that the mask leaves out."""
    return torch.where(mask.bool()[..., None], x, torch.full_like(x, value))


@each_from_data
@pytest.mark.parametrize("value", [0.0, 1e6, float("nan")], ids=str)
@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32], ids=str)
def test_what_stands_in_padded_positions_moves_nothing(make, value, kind):
    expected = lite.attach(net(), make(r=2), [{"x": X, "attention_mask": MASK}])
    model = lite.attach(net(), make(r=2), [{"x": garbage(X, MASK, value), "attention_mask": MASK.to(kind)}])
    assert all_bits(model) == all_bits(expected)
    assert all_bits(model) != all_bits(lite.attach(net(), make(r=2), [X]))


@each_from_data
def test_a_mask_keeps_exactly_its_tokens(make):
    masked = statistics(net(), make(r=2, target_names=["first"]), [{"x": X, "attention_mask": MASK}])
    picked = statistics(net(), make(r=2, target_names=["first"]), [X[MASK.bool()]])
    assert same(masked, picked)


def test_a_label_mask_selects_for_eva_alone():
    batch = {"x": X, "attention_mask": MASK, "label_mask": LABELS}
    first = {"r": 2, "target_names": ["first"]}
    eva, corda = lite.EVAConfig(**first), lite.CorDAConfig(**first)
    assert statistics(net(), eva, [batch])["first"].count == int((MASK * LABELS).sum()) == 21
    assert same(statistics(net(), eva, [batch]), statistics(net(), eva, [X[LABELS.bool()]]))
    assert same(statistics(net(), corda, [batch]), statistics(net(), corda, [{"x": X, "attention_mask": MASK}]))
    only_labels = {"x": X, "label_mask": torch.ones(4, 10) - MASK + LABELS}
    assert statistics(net(), eva, [only_labels])["first"].count == 40 - 8
    assert same(statistics(net(), corda, [only_labels]), statistics(net(), corda, [X]))


def test_a_label_mask_does_not_bring_padding_back():
    batch = {"x": X, "attention_mask": MASK, "label_mask": torch.ones(4, 10)}
    assert statistics(net(), lite.EVAConfig(r=2), [batch])["first"].count == int(MASK.sum())


@each_from_data
def test_masks_are_those_of_their_batch(make):
    config = make(r=2, target_names=["first"])
    data = [{"x": X, "attention_mask": MASK}, inputs(3, 7, 6, seed=33), {"x": X[:2], "attention_mask": MASK[:2]}]
    assert same(statistics(net(), config, data), statistics(net(), config, [X[MASK.bool()], data[1], X[:2][MASK[:2].bool()]]))


class Reshaping(nn.Module):
    """Tokens flattened for one layer, pooled for another."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.flat, self.pooled = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x, attention_mask=None):
        """x (batch, tokens, 6) → (batch, 3); the model uses the mask, too."""
        x = self.flat(self.token(x).reshape(-1, 5)).view(*x.shape[:2], 5)
        if attention_mask is not None:
            x = x.masked_fill(attention_mask[..., None] == 0, 0)
        return self.pooled(x.mean(dim=1))


@each_from_data
def test_flattened_tokens_are_masked_and_pooled_ones_kept(make):
    torch.manual_seed(0)
    model, calls = Reshaping(), {}
    for name, layer in model.named_children():
        layer.register_forward_pre_hook(lambda m, args, name=name: calls.__setitem__(name, args[0].detach()))
    kept = statistics(model, make(r=2), [{"x": garbage(X, MASK, 1e6), "attention_mask": MASK}])
    twins = nn.ModuleDict({name: nn.Linear(5, 1) for name in ("flat", "pooled")})
    twins.forward = lambda flat, pooled: (twins.flat(flat), twins.pooled(pooled))
    expected = statistics(
        twins, make(r=2) if make.config is lite.EVAConfig else make(r=1), [(calls["flat"][MASK.flatten().bool()], calls["pooled"])]
    )
    assert same({name: kept[name] for name in expected}, expected)
    assert calls["pooled"].shape == (4, 5)


class Narrowing(nn.Module):
    """A layer that sees every other token only."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(6, 5)

    def forward(self, x):
        """x (batch, tokens, 6) → (batch, tokens/2, 5)."""
        return self.narrow(x[:, ::2])


MISFITS = {
    "another length": (
        net,
        MASK[:, :9],
        r"batch 1: attention_mask \(4, 9\) does not fit what first receives, \(4, 10, 6\); exclude",
    ),
    "transposed": (net, MASK.T, r"attention_mask \(10, 4\) does not fit what first receives"),
    "one axis": (net, MASK[0], r"batch 1: attention_mask should be a tensor \(batch, tokens\), got \(10,\)"),
    "four axes": (net, MASK[:, None, None], r"should be a tensor \(batch, tokens\), got \(4, 1, 1, 10\)"),
    "a list": (net, MASK.tolist(), r"should be a tensor \(batch, tokens\), got list"),
    "fewer tokens in the layer": (Narrowing, MASK, r"\(4, 10\) does not fit what narrow receives, \(4, 5, 6\)"),
    "everything": (net, MASK * 0, "received no token in 1 batches: every one is masked"),
}


@each_from_data
@pytest.mark.parametrize(("build", "mask", "message"), MISFITS.values(), ids=MISFITS)
def test_a_mask_that_does_not_fit_is_refused(make, build, mask, message):
    model = build()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        lite.attach(model, make(r=2), [{"x": X, "attention_mask": mask}])
    assert snapshot(model) == before


def test_a_label_mask_that_does_not_fit_is_refused_where_it_is_used():
    batch = {"x": X, "label_mask": LABELS[:, :9]}
    with pytest.raises(ValueError, match=r"label_mask \(4, 9\) does not fit"):
        lite.attach(net(), lite.EVAConfig(r=2), [batch])
    lite.attach(net(), lite.CorDAConfig(r=2), [batch])


@each_from_data
def test_a_batch_that_is_masked_out_whole_adds_nothing(make):
    config = make(r=2)
    batch, empty = {"x": X, "attention_mask": MASK}, {"x": X, "attention_mask": MASK * 0}
    assert same(statistics(net(), config, [empty, batch, empty]), statistics(net(), config, [batch]))


class Greedy(nn.Module):
    """Takes whatever is passed by name, and keeps the names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x, **others):
        """x (…, 6) → (…, 5)."""
        self.names = sorted(others)
        return self.layer(x)


@each_from_data
def test_the_model_gets_the_attention_mask_if_it_takes_one_and_the_label_mask_only_by_name(make):
    model = Greedy()
    statistics(model, make(r=2), [{"x": X, "attention_mask": MASK, "label_mask": LABELS, "other": 1}])
    assert model.names == ["attention_mask", "other"]
