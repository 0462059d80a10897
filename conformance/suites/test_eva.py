"""EVA against peft, the authors' code and the paper."""

from collections.abc import Callable
from typing import Any

from conformance.parametrize import parametrized
from conformance.suite import BARE, Divergence, Suite, grid
from conformance.suites.lite_layers import LiteLayer
from lite.variants.eva import EVA
from refs import eva
from refs.authors.layer import AuthorLayer
from refs.case import Case

PEFT = "peft tuners/lora/eva.py, utils/incremental_pca.py"
CODE = "https://github.com/ml-jku/EVA/blob/a5ac24bc04da5e6f50ee9de4e7ad5ee5ff4f438d/src"
OPTIONS: list[dict[str, Any]] = [
    {"rslora": True},
    {"lora_bias": True},
    {"rho": 1.0},
    {"rho": 1.4},
    {"adjust_scaling_factors": False},
    {"whiten": True},
]
CASES = grid(alpha=True, data="one", options=OPTIONS, wide=False)
TOGETHER = (
    CASES[0].but(options={"rslora": True, "rho": 1.4, "adjust_scaling_factors": False}),  # peft has no bias and whitens otherwise
    CASES[0].but(options={"rslora": True, "lora_bias": True, "rho": 1.4, "adjust_scaling_factors": False, "whiten": True}),
)

PASSES = (
    "the data count once per pass over them until two passes look alike, so that singular values, which whitening divides by, "
    "grow with the number of passes"
)
RANDOMISED = "peft's decomposition is randomised and loses digits where a spectrum falls slowly"
STREAMING = "the streaming decomposition is truncated and stops once two steps look alike, so that on several batches it sees other directions"
GENERATOR = "the author's randomised decomposition draws from the global generator, peft's from one of its own"
SCALING = (
    "the author keeps alpha whatever rank a layer gets, so that its scale is alpha/r_layer: as with adjust_scaling_factors=False"
)


def whitens(case: Case) -> bool:
    """Whether singular values count, not only directions."""
    return bool(case.option("whiten", False))


def is_real(case: Case) -> bool:
    """Whether the data are pretrained activations, whose spectrum has no gap."""
    return case.weight.startswith("minilm:")


def rescaled(case: Case) -> bool:
    """Whether the scale of a layer of another rank is put right, and shows."""
    other_rank = case.option("rho", eva.DEFAULT_RHO) > 1
    return other_rank and bool(case.option("adjust_scaling_factors", True))


def moved(where: Callable[[Case], bool]) -> Callable[[Case], bool]:
    """Where B is not zero."""
    return lambda case: where(case) and case.state != "init"


def at_init(where: Callable[[Case], bool]) -> Callable[[Case], bool]:
    """Where B is zero."""
    return lambda case: where(case) and case.state == "init"


def several(case: Case) -> bool:
    """Whether the data are more than one batch, or masked."""
    return case.data in ("several", "padded")


def half_rank(case: Case) -> Case:
    """A layer may get up to twice the rank, out of d_in directions."""
    return case.but(rank=min(case.rank or case.d_in, max(1, case.d_in // 2)))


AUTHOR = ("author", "author – closed form", "author – peft")
LEAVES = r"output|grad\.(x|lora_A|lora_B)"
Row = tuple[str, str, tuple[str, ...], str, Callable[[Case], bool], tuple[float, float], str, str]

# id, check, references, what, where, size, reason, link
DIVERGENCES: tuple[Row, ...] = (
    ("eva-whiten-passes", "init", ("peft", "peft – closed form"), "lora_A", whitens, (2.0**48, 2.0**53), PASSES, PEFT),
    ("eva-whiten-passes", "init", AUTHOR[:2], "lora_A", whitens, (2.0**48, 2.0**53), PASSES, f"{CODE}/svd.py"),
    ("eva-randomised", "init", ("peft", "peft – closed form"), "lora_A", is_real, (2.0**30, 2.0**50), RANDOMISED, PEFT),
    ("eva-generator", "init", AUTHOR[2:], "lora_A", whitens, (2.0**29, 2.0**36), GENERATOR, f"{CODE}/svd.py"),
    ("eva-streaming", "calibration", ("peft",), "lora_A", several, (2.0**40, 2.0**53), STREAMING, PEFT),
    ("eva-streaming", "calibration", ("peft",), "angle of lora_A", several, (2.0**-8, 1.0), STREAMING, PEFT),
    ("eva-streaming", "calibration", AUTHOR[:1], "lora_A", several, (2.0**40, 2.0**53), STREAMING, f"{CODE}/svd.py"),
    ("eva-streaming", "calibration", AUTHOR[:1], "angle of lora_A", several, (2.0**-8, 1.0), STREAMING, f"{CODE}/svd.py"),
    ("eva-scaling", "forward", AUTHOR, "output", moved(rescaled), (2.0**47, 2.0**53), SCALING, f"{CODE}/utils.py"),
    ("eva-scaling", "gradients", AUTHOR, r"grad\.(x|lora_A)", moved(rescaled), (2.0**48, 2.0**55), SCALING, f"{CODE}/utils.py"),
    ("eva-scaling", "gradients", AUTHOR, r"grad\.lora_B", rescaled, (2.0**48, 2.0**55), SCALING, f"{CODE}/utils.py"),
    ("eva-scaling", "dropout", AUTHOR[:1], LEAVES, rescaled, (2.0**48, 2.0**55), SCALING, f"{CODE}/utils.py"),
    ("eva-scaling", "accuracy", AUTHOR[:1], LEAVES, moved(rescaled), (2.0**17, 2.0**26), SCALING, f"{CODE}/utils.py"),
    ("eva-scaling", "accuracy", AUTHOR[:1], r"grad\.lora_B", at_init(rescaled), (2.0**17, 2.0**26), SCALING, f"{CODE}/utils.py"),
)

SUITE = Suite(
    variant="eva",
    formula=eva.FORMULA,
    references=(eva.peft_layer(EVA.peft), AuthorLayer("eva", eva.FORMULA, CASES)),
    candidate=LiteLayer("eva", eva.FORMULA, small={"r": 2}),
    cases=(*CASES, *TOGETHER),
    dropout=True,
    fit=half_rank,
    bare=BARE.but(data="one"),
    refused=(("a rank above the input's", {"r": 9}, ("r = 9", "size 8")),),
    divergences=tuple(
        Divergence(id=id_, check=check, reference=reference, what=what, where=where, size=size, reason=reason, link=link)
        for id_, check, references, what, where, size, reason, link in DIVERGENCES
        for reference in references
    ),
)

test_eva = parametrized(SUITE)
