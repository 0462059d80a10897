"""How AntiPaSTO's two authors' layers differ from lite: what is dropped, what is rounded, and where they start."""

from collections.abc import Callable, Iterator

from conformance.suite import Divergence
from refs.case import Case

TORCH, JAX = "author", "author JAX"
LINKS = {
    TORCH: "https://github.com/wassname/AntiPaSTO/blob/85c09b77fea9b5e01f185718d776528a8d402d27/antipasto/peft_utils/antipasto_adapter.py",
    JAX: "https://github.com/wassname/lora-lite/blob/19888fbb828782411bb866e4bb6b45a051412f99/docs/refs/antipasto3_svd_adapter.py",
}
REASONS = {
    "antipasto-rot-bias": "the base layer's bias is dropped, in torch unless the coefficient is 0",
    "antipasto-rot-residual": "antipasto3 keeps what is left of the weight in bfloat16, whatever the dtype",
    "antipasto-rot-start": "the authors draw the rotations, too: parameters of some 2e-2 in torch, of 1e-4 in JAX, whose generator is another",
    "antipasto-rot-angle": "the author's default is π/3 rad; lora-lite's and lite's 0.5",
}


def relative(low: float, high: float) -> tuple[float, float]:
    """Of a tensor's norm, in u64."""
    return low * 2.0**53, high * 2.0**53


def anywhere(case: Case) -> bool:
    """All cases."""
    return True


def biased(case: Case) -> bool:
    """A base layer with a bias."""
    return case.bias


def turned(case: Case) -> bool:
    """Where an angle matters."""
    return case.state != "init"


def unbiased(case: Case) -> bool:
    """One without."""
    return not case.bias


# Of which layer, beside which others ("" is lite), in which check and tensor, where, and how much.
Row = tuple[str, str, tuple[str, ...], str, str, Callable[[Case], bool], tuple[float, float]]
ALL, LITE, FORMULA, OTHER = ("", "closed form"), ("",), ("closed form",), (TORCH,)
TURNS = r"lora_rot_T(_u)?"
ROWS: tuple[Row, ...] = (
    ("antipasto-rot-bias", TORCH, ALL, "forward", "output", biased, relative(0.05, 2.0)),
    ("antipasto-rot-bias", TORCH, LITE, "accuracy", "output", biased, (5e5, 3e7)),
    ("antipasto-rot-bias", JAX, ALL, "forward", "output", biased, relative(0.05, 2.0)),
    ("antipasto-rot-residual", JAX, ALL, "forward", "output", unbiased, relative(1e-4, 5e-3)),
    ("antipasto-rot-residual", JAX, OTHER, "forward", "output", anywhere, relative(1e-4, 5e-3)),
    ("antipasto-rot-residual", JAX, ALL + OTHER, "gradients", r"grad\.x", anywhere, relative(1e-4, 5e-3)),
    ("antipasto-rot-residual", JAX, LITE, "steering", r"output|grad\.x", anywhere, relative(1e-4, 5e-3)),
    ("antipasto-rot-start", TORCH, LITE, "init", TURNS, anywhere, relative(0.5, 2.0)),
    ("antipasto-rot-start", TORCH, FORMULA, "init", TURNS, anywhere, (1e-3, 0.1)),  # the largest of them
    ("antipasto-rot-start", TORCH, LITE, "seed parity", TURNS, anywhere, (2.0**23, 2.0**25)),
    ("antipasto-rot-start", TORCH, LITE, "defaults", "start of lora_rot_T", anywhere, (2.0**23, 2.0**25)),
    ("antipasto-rot-start", JAX, LITE + OTHER, "init", TURNS, anywhere, relative(0.5, 2.0)),
    ("antipasto-rot-start", JAX, FORMULA, "init", TURNS, anywhere, (2e-5, 4e-4)),
    ("antipasto-rot-start", JAX, LITE, "seed parity", rf"lora_delta_s|{TURNS}", anywhere, (2.0**22, 2.0**27)),
    ("antipasto-rot-angle", TORCH, LITE, "defaults", "output", turned, relative(1e-3, 5e-2)),
)  # fmt: skip


def documented() -> Iterator[Divergence]:
    """All of them, each in its columns."""
    for id_, layer, others, check, what, where, size in ROWS:
        for other in others:
            yield Divergence(
                id=id_, check=check, reference=f"{layer} – {other}" if other else layer, what=what, where=where, size=size,
                reason=REASONS[id_], link=LINKS[layer],
            )  # fmt: skip
