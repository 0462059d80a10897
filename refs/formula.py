"""The closed form: a paper's equations as a dense W′ in float64. Every variant has one; it sees what peft and lite share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from refs.case import Case

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Exactly:
    """Starts at this value."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return tuple(self.value.shape)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Starts uniform in ±bound. copies: how many times in a row each row is there."""

    bound: float
    shape: tuple[int, ...]
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Normal:
    """Starts normal with this standard deviation, mean 0."""

    std: float
    shape: tuple[int, ...]


Init = Exactly | Uniform | Normal


@dataclass(frozen=True, kw_only=True, eq=False)
class Formula:
    """The equations of one variant. All tensors float64, under canonical names.

    equation: what the paper says, in the project's notation. source: paper and place.
    init: (case, W) → how each trainable starts; their shapes follow.
    frozen: (case, W) → the frozen tensors, computed from the base weight.
    adapted: (case, W, b, parameters) → (W′, b′), differentiable, stop-gradients where the paper says so.
    moved: (case, start, noise, strength) → the trainables away from their start; `strength` is what the harness turns
        until the adapter changes the output by 0.3 of its norm.
    states: more states of the trainables by name, (case, perturbed) → trainables: the variant's own kinks and clamps.
    scale: the factor that alpha stands for, if the method has one.
    identity: whether the adapted layer at init is the base layer bit for bit.
    """

    equation: str
    source: str
    init: Callable[[Case, Tensor], Mapping[str, Init]]
    frozen: Callable[[Case, Tensor], Tensors] = lambda case, weight: {}
    adapted: Callable[[Case, Tensor, Tensor | None, Mapping[str, Tensor]], tuple[Tensor, Tensor | None]]
    moved: Callable[[Case, Tensors, Tensors, float], Tensors]
    states: Mapping[str, Callable[[Case, Tensors], Tensors]] = field(default_factory=dict)
    identity: bool = True
    scale: Callable[[Case], float] | None = None

    def shapes(self, case: Case, weight: Tensor) -> dict[str, tuple[int, ...]]:
        """Canonical shapes of trainables and frozen tensors."""
        trainable = {name: init.shape for name, init in self.init(case, weight).items()}
        return trainable | {name: tuple(value.shape) for name, value in self.frozen(case, weight).items()}
