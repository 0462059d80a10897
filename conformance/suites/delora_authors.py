"""How DeLoRA's author differs from peft and lite: what is subtracted, what is not clamped, and what is never copied."""

from collections.abc import Callable, Iterator

from conformance.suite import Divergence
from refs.case import Case

LINK = "https://github.com/ExplainableML/DeLoRA/blob/82bfcb01e22e111ac0576def75db8e29a27f1851/peft/src/peft/tuners/delora.py"
PEERS = ("closed form", "peft")
LITE = ("",)
AUTHOR, ALIASED = "author", "author aliased"

REASONS = {
    "delora-frozen-copy": "the author subtracts a frozen copy of what A and B add at init, times the trained λ; peft and lite start at B = 0",
    "delora-unclamped": "the author divides by the bare norms, which peft and lite clamp at 1e-4",
    "delora-aliased": "on the CPU the author's frozen copies share the memory of A and B: nothing is added, and λ has no gradient",
}


def relative(low: float, high: float) -> tuple[float, float]:
    """Of a tensor's norm, in u64."""
    return low * 2.0**53, high * 2.0**53


def anywhere(case: Case) -> bool:
    """All cases."""
    return True


def clamped(case: Case) -> bool:
    """Rows of A and columns of B on both sides of the clamp."""
    return case.state == "clamped"


def at_init(case: Case) -> bool:
    """Both at their own init, where the author's λ has no gradient and a random B gives it one."""
    return case.state == "init"


def away(case: Case) -> bool:
    """Away from it, where nothing may be without gradient."""
    return case.state != "init"


# Of which layer, beside which others ("" is lite), in which check and tensor, where, and how much.
Row = tuple[str, str, tuple[str, ...], str, str, Callable[[Case], bool], tuple[float, float]]
ROWS: tuple[Row, ...] = (
    ("delora-frozen-copy", AUTHOR, LITE + PEERS, "forward", "output", anywhere, relative(0.1, 1.5)),
    ("delora-frozen-copy", AUTHOR, LITE + PEERS, "gradients", r"grad\.x", anywhere, relative(0.05, 1.0)),
    ("delora-frozen-copy", AUTHOR, LITE + PEERS, "gradients", r"grad\.lora_lambda", anywhere, relative(0.001, 0.6)),
    ("delora-frozen-copy", AUTHOR, LITE, "dropout", r"output|grad\.x", anywhere, relative(0.1, 1.0)),
    ("delora-frozen-copy", AUTHOR, LITE, "dropout", r"grad\.lora_lambda", anywhere, relative(0.02, 0.4)),
    ("delora-frozen-copy", AUTHOR, LITE, "accuracy", r"output|grad\.x", anywhere, (5e5, 2e7)),
    ("delora-frozen-copy", AUTHOR, LITE, "accuracy", r"grad\.lora_lambda", anywhere, (4e4, 4e6)),
    ("delora-frozen-copy", AUTHOR, LITE + PEERS, "dead parameters", "dead", at_init, (0.0, 0.0)),
    ("delora-unclamped", AUTHOR, LITE + PEERS, "gradients", r"grad\.lora_[AB]", clamped, relative(0.1, 2.0)),
    ("delora-unclamped", AUTHOR, LITE, "accuracy", r"grad\.lora_[AB]", clamped, (2e5, 2e7)),
    ("delora-unclamped", ALIASED, LITE + PEERS, "gradients", r"grad\.lora_[AB]", clamped, relative(0.1, 2.0)),
    ("delora-unclamped", ALIASED, LITE, "accuracy", r"grad\.lora_[AB]", clamped, (2e5, 2e7)),
    ("delora-aliased", ALIASED, (*LITE, *PEERS, AUTHOR), "forward", "output", anywhere, relative(0.1, 2.5)),
    ("delora-aliased", ALIASED, (*LITE, *PEERS, AUTHOR), "gradients", r"grad\.x", anywhere, relative(0.25, 5.0)),
    # Its gradient of λ is exactly zero: the largest element of lite's beside it, all of it beside the others'.
    ("delora-aliased", ALIASED, LITE, "gradients", r"grad\.lora_lambda", anywhere, (2.0, 500.0)),
    ("delora-aliased", ALIASED, (*PEERS, AUTHOR), "gradients", r"grad\.lora_lambda", anywhere, relative(1.0, 1.0)),
    ("delora-aliased", ALIASED, LITE, "dropout", r"output|grad\.x", anywhere, relative(0.2, 2.5)),
    ("delora-aliased", ALIASED, LITE, "dropout", r"grad\.lora_lambda", anywhere, (2.0, 500.0)),
    ("delora-aliased", ALIASED, LITE, "accuracy", r"output|grad\.x", anywhere, (1e6, 1e8)),
    ("delora-aliased", ALIASED, LITE, "accuracy", r"grad\.lora_lambda", anywhere, (2.0, 500.0)),
    ("delora-aliased", ALIASED, LITE, "dead parameters", "dead", at_init, (0.0, 0.0)),
    ("delora-aliased", ALIASED, PEERS, "dead parameters", "dead", anywhere, (0.0, 0.0)),
    ("delora-aliased", ALIASED, (AUTHOR,), "dead parameters", "dead", away, (0.0, 0.0)),
)


def documented() -> Iterator[Divergence]:
    """All of them, each in its columns."""
    for id_, layer, others, check, what, where, size in ROWS:
        for other in others:
            column = f"{layer} – {other}" if other else layer
            yield Divergence(
                id=id_, check=check, reference=column, what=what, where=where, size=size, reason=REASONS[id_], link=LINK
            )
