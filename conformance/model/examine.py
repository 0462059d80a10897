"""All variants on all of their layers of a model: layer by layer, each with one adapter at a time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conformance.checks.start import DEPARTURE, SEEDS
from conformance.model import whole
from conformance.model.checkpoint import Checkpoint, some
from conformance.model.one_layer import DEAD, IDENTITY, START, Adapted, Row
from conformance.model.stream import Call, Outputs, observed
from conformance.model.words import Words
from conformance.policy import Judgement
from conformance.suite import Suite
from conformance.suite_of import suite_of
from conformance.suites.lite_layers import LiteRuntime
from conformance.trial import Trial, scratch
from conformance.verdict import Measurement, Verdict
from lite.layers import Layer
from refs.threads import one_thread

ALL = "the model's output"
Watch = Callable[[str, int, int], None]  # what is being done, how much is done, of how much


@dataclass(eq=False)
class Examined:
    """A variant on a model. layers: its targets. refusal: why it has none, or cannot be attached to them as it is."""

    suite: Suite
    layers: list[Layer] = field(default_factory=list)
    refusal: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def variant(self) -> str:
        """Its name."""
        return self.suite.variant

    @property
    def runtime(self) -> LiteRuntime:
        """Lite's, of this variant, with its defaults."""
        return LiteRuntime(self.variant)


def examined(
    checkpoint: Checkpoint, words: Words, variants: Sequence[str], targets: Sequence[str], progress: Watch
) -> list[Examined]:
    """Find each variant's targets, look at each of them, then at the model's output. targets: patterns, lite's defaults if there are none."""
    model, request = checkpoint.model, {"target_names": list(targets), "exclude_names": []} if targets else {}
    found = [_targeted(Examined(suite_of(variant)), checkpoint, request) for variant in variants]
    layers = list({layer.name: layer for one in found for layer in one.layers}.values())
    if packed := [layer.name for layer in layers if not layer.is_dense]:
        raise ValueError(
            f"{checkpoint.folder}: the weights of {some(packed)} are no floating-point matrices; give the checkpoint before quantisation"
        )
    total, done = sum(len(one.layers) + bool(one.layers) for one in found), 0
    with one_thread(), scratch() as folder:
        plain, calls = observed(model, words.batch, layers)
        if not whole.is_finite(plain):
            raise ValueError(f"{checkpoint.folder}: the model's output is not finite on {words.about}; try another --text")
        files: dict[str, dict[str, Path]] = {one.variant: {} for one in found}
        for number, layer in enumerate(layers):
            for one in found:
                if any(layer.name == own.name for own in one.layers):
                    progress(f"{one.variant} on {layer.name}", done, total)
                    file = Path(folder) / f"{one.variant}-{number}.safetensors"
                    one.rows += _on_layer(one.suite, layer, calls.get(layer.name, []), file)
                    if file.exists():
                        files[one.variant][layer.name] = file
                    done += 1
        kappa: dict[frozenset[str], dict[str, float]] = {}
        for one in found:
            if one.layers:
                progress(f"{one.variant}: {ALL}", done, total)
                names = frozenset(files[one.variant])
                kappa[names] = kappa.get(names) or whole.roundings(
                    model, words.batch, [x for x in layers if x.name in names], plain
                )
                one.rows += _on_model(one, checkpoint, words, plain, kappa[names], files[one.variant])
                one.rows += _departure(one, calls)
                done += 1
        progress("done", total, total)
    return found


def _targeted(one: Examined, checkpoint: Checkpoint, request: Mapping[str, object]) -> Examined:
    try:
        one.layers, one.refusal = one.runtime.targets(checkpoint.model, request)
    except ValueError as error:
        one.refusal = str(error)
    return one


def _on_layer(suite: Suite, layer: Layer, calls: list[Call], file: Path) -> list[Row]:
    if calls:
        return Adapted(suite, layer, calls, file).measure()
    trial = _trial(suite, DEAD)
    trial.expect(False, "dead", None, "the model never calls this layer, so nothing of its adapter learns", "a gradient for each")
    return [Row(layer.name, measurement) for measurement in trial.measured]


def _on_model(
    one: Examined, checkpoint: Checkpoint, words: Words, plain: Outputs, kappa: Mapping[str, float], files: Mapping[str, Path]
) -> list[Row]:
    """Of all layers at once that have a start."""
    trial = _trial(one.suite, IDENTITY)
    try:
        output = whole.adapted(checkpoint.model, words.batch, one.layers, one.runtime, files)
    except Exception as error:  # a model may raise anything
        trial.raised(error)
        return [Row(ALL, measurement) for measurement in trial.measured]
    identical = all(row.measurement.verdict is not Verdict.NOT_APPLICABLE for row in one.rows if row.measurement.check == IDENTITY)
    if not identical:
        trial.not_applicable("this start is not the identity: see the size of the start")
    elif not files:
        trial.untested("no layer has a start")
    else:
        for name, judgement in whole.judged(output, plain, kappa, one.layers).items():
            trial.judge(name, None, judgement)
    return [Row(ALL, measurement, whole.farthest(output, plain)) for measurement in trial.measured]


def _departure(one: Examined, calls: Mapping[str, list[Call]]) -> list[Row]:
    """A start that is nearly zero adds what its spread says, over many starts."""
    reached = [layer for layer in one.layers if layer.name in calls]
    of = [Adapted(one.suite, layer, calls[layer.name], Path()) for layer in reached]
    of = [adapted for adapted in of if not one.suite.formula.identity(adapted.case) and not adapted.unfit()]
    if not of or not one.suite.formula.departure:
        return []
    trial = _trial(one.suite, IDENTITY)
    try:
        factors = [factor for adapted in of for factor in adapted.departures(math.ceil(SEEDS / len(of)))]
        size = (sum(factor**2 for factor in factors) / len(factors)) ** 0.5
        ratio = max(size, 1 / size) if size else math.inf
        verdict = Verdict.EQUIVALENT if ratio <= DEPARTURE else Verdict.FAILS
        got, should = f"adds {size:.3g} times what its spread says (root mean square)", "once"
        trial.judge(START, None, Judgement(verdict, ratio, DEPARTURE, "× the expected size", got, should))
    except Exception as error:  # lite may refuse a layer
        trial.raised(error)
    return [Row(f"{len(of)} layers", measurement) for measurement in trial.measured]


def _trial(suite: Suite, check: str) -> Trial:
    return Trial(suite=suite, check=check, candidate=suite.candidate, reference=None)


def all_measurements(found: Sequence[Examined]) -> list[Measurement]:
    """Of every variant."""
    return [row.measurement for one in found for row in one.rows]
