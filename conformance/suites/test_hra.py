"""HRA against peft, three of the authors' layers and the paper."""

from collections.abc import Iterator
from functools import partial

from conformance.parametrize import parametrized
from conformance.suite import Divergence, Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.hra import HRA
from refs import hra
from refs.authors.layer import AuthorLayer
from refs.case import Case

WIDEST = 1000  # peft forms matrices of d_in × d_in, one reflection after the other


def even(case: Case) -> Case:
    """Ranks are even; at least 4, so that rows of different pairs meet; enough for wide layers, of which r rows turn little. More than one
    input: with one, every reflection is −1, and rounding alone decides what is left of U's gradient.
    """
    return case.but(d_in=max(case.d_in, 2), rank=2 * (max(4, hra.rank(case), case.d_in // 16) // 2))


GRID = tuple(even(case) for case in grid(alpha=False) if case.d_in < WIDEST)
# Layers that reflect the output have the method's vectors on square weights only.
MORE = (
    Case(d_in=12, d_out=12, rank=4, bias=False, batch=(2, 3), weight="gap"),
    Case(d_in=20, d_out=20, rank=6, batch=(7,), weight="decay"),
)
CASES = (*GRID, *MORE)
SQUARE = tuple(case for case in CASES if case.d_in == case.d_out)
EPS, GS = "author llama-eps", "author llama-gs"
FILES = "https://github.com/DaShenZi721/HRA/blob/8e0c6371e4928df6f69a56baae4ff90fb2619ccb/llama/peft/oft"
LLAMA = (
    (
        EPS,
        "hra-llama-eps",
        "it reflects the output, and eps beneath the root leaves its vectors a little short",
        f"{FILES}/layer.py",
    ),
    (GS, "hra-llama-gs", "it reflects the output, along vectors that Gram–Schmidt made orthogonal", f"{FILES}/layer_GS_HRA.py"),
)


def cancels(case: Case) -> bool:
    """Whether the rows are still equal pairs: of these, eps alone is seen, and not by the gradient of U."""
    return case.state == "init"


def another_function(column: str, id_: str, reason: str, link: str) -> Iterator[Divergence]:
    """A layer that differs in everything where its vectors can be the method's at all, from lite and from the references before it."""
    before = ("closed form", "peft", "author nlu", EPS)
    pairs = [f"{column} – {other}" for other in before[: 3 if column == EPS else 4]]
    cells = [("accuracy", column), *((check, name) for name in (column, *pairs) for check in ("forward", "gradients"))]
    for check, reference in cells:
        far, near = ((2.0**20, 2.0**24), (2.0**6, 2.0**9)) if check == "accuracy" else ((2.0**50, 2.0**56), (2.0**36, 2.0**39))
        parts = {"forward": "output", "gradients": r"grad\.x"}.get(check, r"output|grad\.x")
        said = partial(Divergence, id=id_, check=check, reference=reference, reason=reason, link=link)
        yield said(what=parts, where=lambda case: not cancels(case), size=far)
        if column == EPS:
            yield said(what=parts, where=cancels, size=near)
        if check != "forward":
            yield said(what=r"grad\.lora_U", where=lambda case: True, size=far)


SUITE = Suite(
    variant="hra",
    formula=hra.FORMULA,
    references=(
        hra.peft_layer(HRA.peft),
        AuthorLayer("hra_nlu", hra.FORMULA, CASES, name="author nlu"),
        AuthorLayer("hra_llama_eps", hra.FORMULA, SQUARE, name=EPS, other_start="starts near zero, not in equal pairs"),
        AuthorLayer("hra_llama_gs", hra.FORMULA, SQUARE, name=GS, other_start="starts as [I; 0], which negates r outputs"),
    ),
    candidate=LiteLayer("hra", hra.FORMULA),
    cases=CASES,
    dropout=False,
    fit=even,
    divergences=(
        *(divergence for layer in LLAMA for divergence in another_function(*layer)),
        Divergence(
            id="hra-base-dtype",
            releases=">=0.16,<=0.21.2",
            check="accuracy",
            reference="peft",
            what=r"grad\.lora_U",
            where=lambda case: case.adapter_dtype is not None,
            size=(50.0, 50_000.0),
            reason="the turned input goes through the base layer in the base's dtype; peft casts the whole weight to the adapter's",
            link="https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/hra/layer.py",
        ),
    ),
    refused=(
        ("an odd rank", {"r": 3}, ("r ", "even", "3")),
        ("Gram–Schmidt of equal pairs", {"apply_gs": True}, ("apply_gs", "equal pairs", "True")),
    ),
)

test_hra = parametrized(SUITE)
