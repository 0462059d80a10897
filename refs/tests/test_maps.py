"""Maps carry values in and out, gradients by the transposed map, and say what does not fit."""

import itertools

import pytest
import torch

from refs.maps import Entry, parse
from refs.numbers import normal

SHAPE = (2, 3)
VALUE = normal("maps", shape=SHAPE)

# Every combination of the notation: foreign shapes of the same size, exact and inexact factors.
SPECS = [
    {"name": "w"}
    | ({"transpose": True} if transpose else {})
    | ({"shape": shape} if shape else {})
    | ({"sign": sign} if sign else {})
    | ({"scale": scale} if scale else {})
    for transpose, shape, sign, scale in itertools.product(
        [False, True], [None, (6,), [1, 3, 2], (-1, 2)], [None, -1], [None, 0.25, 3.0]
    )
]


def by_hand(spec, canonical):
    """foreign = scale · sign · reshape(transpose(canonical)), element by element."""
    rows = canonical.tolist()
    if spec.get("transpose"):
        rows = [list(column) for column in zip(*rows, strict=True)]
    flat = [spec.get("scale", 1) * spec.get("sign", 1) * value for row in rows for value in row]
    shape = tuple(3 if size == -1 else size for size in spec.get("shape") or (len(rows), len(rows[0])))
    return torch.tensor(flat, dtype=torch.float64).reshape(shape)


def entry_of(spec):
    return parse({"lora_A": spec})["lora_A"]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_values_go_in_by_the_notation_and_come_out_again(spec):
    entry = entry_of(spec)
    foreign = entry.carry_in(VALUE)
    assert foreign.equal(by_hand(spec, VALUE))
    back = entry.carry_out(foreign, SHAPE)
    assert back.shape == SHAPE
    if spec.get("scale") == 3.0:
        torch.testing.assert_close(back, VALUE, rtol=2**-52, atol=0)
    else:
        assert back.equal(VALUE)


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_the_gradient_out_is_the_chain_rule_of_the_map(spec):
    entry = entry_of(spec)
    weights = normal("weights", shape=tuple(by_hand(spec, VALUE).shape))
    canonical = VALUE.clone().requires_grad_()
    (entry.carry_in(canonical).sin() * weights).sum().backward()
    foreign = entry.carry_in(VALUE).requires_grad_()
    (foreign.sin() * weights).sum().backward()
    torch.testing.assert_close(entry.gradient_out(foreign.grad, SHAPE), canonical.grad, rtol=1e-15, atol=0)


def test_the_gradient_is_multiplied_where_the_value_is_divided():
    entry = entry_of({"name": "w", "sign": -1, "scale": 4})
    ones = torch.ones(SHAPE)
    assert entry.gradient_out(ones, SHAPE).equal(-4 * ones)
    assert entry.carry_out(ones, SHAPE).equal(-ones / 4)


@pytest.mark.parametrize("carry", [Entry.carry_out, Entry.gradient_out])
@pytest.mark.parametrize(
    ("entry", "foreign", "expected"),
    [
        (Entry("w"), (3, 2), (2, 3)),
        (Entry("w", transpose=True), (2, 3), (3, 2)),
        (Entry("w", shape=(6,)), (2, 3), (6,)),
        (Entry("w", transpose=True, shape=(1, 6)), (6,), (1, 6)),
        (Entry("w", shape=(-1, 1)), (1, 6), (6, 1)),
        (Entry("w", shape=(3, -1)), (2, 3), (3, 2)),
    ],
)
def test_a_foreign_shape_that_does_not_fit_is_refused_with_both_sides(carry, entry, foreign, expected):
    with pytest.raises(ValueError, match="should be") as refused:
        carry(entry, torch.ones(foreign), SHAPE)
    assert str(refused.value) == f"w has shape {foreign}, should be {expected} for canonical {SHAPE}"


@pytest.mark.parametrize("carry", [Entry.carry_out, Entry.gradient_out])
def test_a_declared_shape_of_another_size_is_refused_with_both_sides(carry):
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        carry(Entry("w", shape=(2, 2)), torch.ones(2, 2), SHAPE)


def test_scalars_are_carried():
    entry = entry_of({"name": "delora_lambda", "shape": (1,)})
    assert entry.carry_in(torch.tensor(7.0)).equal(torch.tensor([7.0]))
    assert entry.carry_out(torch.tensor([7.0]), ()).equal(torch.tensor(7.0))


@pytest.mark.parametrize(("shape", "foreign"), [((-1, 1), (5, 1)), ((1, -1), (1, 5)), ((-1,), (5,))])
def test_a_size_that_is_left_open_follows_from_the_canonical_shape(shape, foreign):
    entry, value = entry_of({"name": "w", "shape": shape}), normal("open", shape=(5,))
    assert entry.carry_in(value).shape == foreign
    assert entry.carry_out(entry.carry_in(value), (5,)).equal(value)
    with pytest.raises(ValueError, match=r"w has shape .*, should be"):
        entry.carry_out(torch.ones(5, 2), (5,))


@pytest.mark.parametrize(("plus", "added"), [("identity", torch.eye(3)), (-1, -torch.ones(3, 3)), (0.5, torch.full((3, 3), 0.5))])
def test_something_can_be_added_to_the_foreign_value_and_is_no_part_of_the_gradient(plus, added):
    entry = entry_of({"name": "w", "transpose": True, "scale": 4, "plus": plus})
    value = normal("plus", shape=(3, 3))
    assert entry.carry_in(value).equal(4 * value.T + added)
    torch.testing.assert_close(entry.carry_out(entry.carry_in(value), (3, 3)), value, rtol=1e-15, atol=1e-15)
    assert entry.gradient_out(value, (3, 3)).equal(4 * value.T)


@pytest.mark.parametrize("plus", [None, True, "ones", float("nan")])
def test_parse_refuses_what_cannot_be_added(plus):
    with pytest.raises(ValueError, match="map entry lora_A: plus should be a number, or 'identity'"):
        entry_of({"name": "w", "plus": plus})


def test_the_identity_needs_a_matrix_that_keeps_its_shape():
    with pytest.raises(ValueError, match="map entry lora_A: plus should be"):
        entry_of({"name": "w", "plus": "identity", "shape": (9,)})


def test_two_open_sizes_are_refused():
    with pytest.raises(ValueError, match=r"map entry lora_A: at most one size .*\(-1, -1\)"):
        parse({"lora_A": {"name": "w", "shape": (-1, -1)}})


def test_parse_reads_names_and_mappings():
    entries = parse({"lora_A": "a.weight", "lora_B": {"name": "b", "transpose": True, "shape": [3, 2], "sign": -1, "scale": 0.5}})
    assert entries == {"lora_A": Entry("a.weight"), "lora_B": Entry("b", transpose=True, shape=(3, 2), factor=-0.5)}


@pytest.mark.parametrize(
    "spec",
    [None, 3, ["w"], ("w", True), {}, {"transpose": True}, {"name": 3}, {"name": "w", "axis": 0}, {"name": "w", "Transpose": True}],
    ids=repr,
)
def test_parse_refuses_what_is_no_entry_and_shows_it_with_the_notation(spec):
    with pytest.raises(ValueError, match=r"map entry lora_A: .* any of transpose, shape, sign, scale") as refused:
        parse({"lora_B": "b", "lora_A": spec})
    assert repr(spec) in str(refused.value)


@pytest.mark.parametrize("spec", [{"name": "w", "scale": 0}, {"name": "w", "sign": 0, "scale": 2}], ids=repr)
def test_parse_refuses_a_factor_of_zero(spec):
    with pytest.raises(ValueError, match=r"map entry lora_A: .* multiplies by zero"):
        parse({"lora_A": spec})


@pytest.mark.parametrize(
    "field",
    [
        {"scale": "two"},
        {"scale": None},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"sign": 2},
        {"sign": "-"},
        {"shape": 5},
        {"shape": "ab"},
        {"transpose": "no"},
    ],
    ids=repr,
)
def test_parse_refuses_bad_values_and_shows_the_entry(field):
    with pytest.raises(ValueError, match="map entry lora_A: "):
        parse({"lora_A": {"name": "w"} | field})
