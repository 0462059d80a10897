"""The closed form: a paper's equations as a dense W′ in float64. Every variant has one; it sees what peft and lite share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from refs.calibration import Batch, Calls, batches, calls
from refs.case import Case
from refs.gauge import Gauge

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
    """Starts normal with this standard deviation."""

    std: float
    shape: tuple[int, ...]
    mean: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Starts random, with mean 0 and this root mean square; value is one such start."""

    value: Tensor
    std: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return tuple(self.value.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Decomposed:
    """Starts at this value, up to what its decomposition leaves free (`Formula.gauge`) and how well it is determined."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the value."""
        return tuple(self.value.shape)


Init = Exactly | Uniform | Normal | Drawn | Decomposed
RESIDUAL = "residual"  # the canonical name of a base weight that a part was taken out of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Promise:
    """What a steered method says of its core K (r, r), W′ = W + U (K − diag S) Vᵀ, beyond its formula.

    what: the promise, in words. coefficients: the ones it is about; broken gets a core for each.
    at: (parameters) → those that it is about. broken: (cores, tensors) → by how much it does not hold, relative, and by how much
        computing that multiplies rounding.
    """

    what: str
    coefficients: tuple[float, ...]
    at: Callable[[Tensors], Tensors] = lambda parameters: parameters
    broken: Callable[[Sequence[Tensor], Tensors], tuple[float, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Formula:
    """The equations of one variant. All tensors float64, under canonical names.

    equation: what the paper says, in the project's notation. source: paper and place.
    init: (case, W) → how each trainable starts; their shapes follow.
    init_from: (case, W, calls) → the same for methods that start from data: the tokens that the layer and the one beside it receive.
    frozen: (case, W) → the frozen tensors, computed from the base weight. frozen_from: (case, W, calls) → the same, from data, too;
        no layer has a call in cases without data.
    uses_data: (case) → whether these options can use data, for methods that start from some at all.
    residual: (case, W, start) → what is left of W, for methods that take a part out; it is frozen, under the name `residual`.
    copied: whether all implementations are given the same frozen tensors, because a decomposition determines them only up to
        signs and, in clusters, rotations. Their own are compared where they start, and in the state "own".
    gauge: what the free signs of components do to which tensors: the axes that run over components, or over the first of them, or a
        function; the first names the tensor, by axes, that signs are told by.
    right: the factor of a decomposition on the input's side, one component a row.
    adapted: (case, W, b, parameters) → (W′, b′), differentiable, stop-gradients where the paper says so; the parameters
        include the frozen tensors if these are copied.
    moved: (case, start, noise, strength) → the trainables away from their start; `strength` is what the harness turns
        until the adapter changes the output by 0.3 of its norm.
    states: more states of the trainables by name, (case, perturbed) → trainables: the variant's own kinks and clamps.
    jumps: trainables → the value at which their gradient jumps: numbers that are exactly there stay there when sensitivities are measured.
    scale: the factor that alpha stands for, if the method has one.
    identity: (case) → whether the adapted layer at init is the base layer, bit for bit or, for decompositions, up to rounding.
    departure: (case, W, x) → the root mean square of what a nearly zero start adds to the output, for starts that are no identity.
    condition: (case, W) → by how much the published way of computing the start multiplies rounding, beyond the start's own
        sensitivity: the condition of a matrix that it inverts.
    steps: (case) → how many roundings follow one another beyond those of one sum of d_in or d_out terms.
    steered: whether it has a coefficient that turns the adapter up and down. promises: what it says of the operator in between.
    unseen: options that change how a start is computed, not what it is.
    label_mask: whether a label mask selects data, too. least_tokens: (case) → how many tokens are needed.
    """

    equation: str
    source: str
    init: Callable[[Case, Tensor], Mapping[str, Init]] = lambda case, weight: {}
    init_from: Callable[[Case, Tensor, Calls], Mapping[str, Init]] | None = None
    frozen: Callable[[Case, Tensor], Tensors] = lambda case, weight: {}
    frozen_from: Callable[[Case, Tensor, Calls], Tensors] | None = None
    uses_data: Callable[[Case], bool] = lambda case: True
    residual: Callable[[Case, Tensor, Tensors], Tensor] | None = None
    copied: bool = False
    gauge: Gauge = field(default_factory=dict)
    right: str = "lora_A"
    adapted: Callable[[Case, Tensor, Tensor | None, Mapping[str, Tensor]], tuple[Tensor, Tensor | None]]
    moved: Callable[[Case, Tensors, Tensors, float], Tensors]
    states: Mapping[str, Callable[[Case, Tensors], Tensors]] = field(default_factory=dict)
    jumps: Mapping[str, float] = field(default_factory=dict)
    identity: Callable[[Case], bool] = lambda case: True
    departure: Callable[[Case, Tensor, Tensor], float] | None = None
    scale: Callable[[Case], float] | None = None
    condition: Callable[[Case, Tensor], float] = lambda case, weight: 1.0
    steps: Callable[[Case], int] = lambda case: 0
    steered: bool = False
    promises: tuple[Promise, ...] = ()
    unseen: frozenset[str] = frozenset()
    label_mask: bool = False
    least_tokens: Callable[[Case], int] = lambda case: 1

    def begin(self, case: Case, weight: Tensor, data: Calls | None = None) -> "Beginning":
        """Where everything starts. data: instead of the case's own."""
        if data is not None:
            return self._begun(case, weight, data)
        known = _BEGINNINGS.get(weight)
        if known is None:
            _BEGINNINGS[weight] = known = {}
        key = (self, case.numbers.but(state="init"))
        if key not in known:
            own = calls(self.data(case), labels=self.label_mask)
            known[key] = self._begun(case, weight, own)
        begun: Beginning = known[key]
        return begun

    def takes_data(self, case: Case) -> bool:
        """Whether the method starts from data under these options, or may."""
        return bool(self.init_from or self.frozen_from) and self.uses_data(case)

    def data(self, case: Case) -> tuple[Batch, ...]:
        """The data of a case: none where it names none."""
        return batches(case) if case.data and self.takes_data(case) else ()

    def _begun(self, case: Case, weight: Tensor, data: Calls) -> "Beginning":
        inits = dict(self.init_from(case, weight, data) if self.init_from else self.init(case, weight))
        frozen = dict(self.frozen_from(case, weight, data) if self.frozen_from else self.frozen(case, weight))
        if self.residual:
            start = {name: init.value for name, init in inits.items() if isinstance(init, Decomposed)}
            frozen[RESIDUAL] = self.residual(case, weight, start)
        return Beginning(inits, frozen)

    def shapes(self, case: Case, weight: Tensor) -> dict[str, tuple[int, ...]]:
        """Canonical shapes of trainables and frozen tensors."""
        begin = self.begin(case, weight)
        trainable = {name: init.shape for name, init in begin.inits.items()}
        return trainable | {name: tuple(value.shape) for name, value in begin.frozen.items()}


@dataclass(frozen=True, slots=True)
class Beginning:
    """How each trainable starts, and the frozen tensors."""

    inits: dict[str, Init]
    frozen: Tensors

    @property
    def decomposed(self) -> Tensors:
        """What comes from a decomposition: trainables and frozen tensors alike."""
        return {name: init.value for name, init in self.inits.items() if isinstance(init, Decomposed)} | self.frozen


_BEGINNINGS: Any = WeakTensorKeyDictionary()  # decompositions are dear, and every check asks for them
