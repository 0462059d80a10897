"""What was found, in tables: a section for each question, the worst first."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE
from rich.table import Table

from conformance.model.checkpoint import some
from conformance.model.examine import ALL, Examined
from conformance.model.names import abbreviated
from conformance.model.one_layer import ALPHA, DEAD, FORWARD, GRADIENTS, IDENTITY, RANK, Row
from conformance.terminal import rendered
from conformance.verdict import ORDER, Measurement, Verdict, peak, rounded_up, worst
from refs.installed import VERSION

NONE = "none: name some with --targets REGEX"


def tables(found: Sequence[Examined]) -> str:
    """Targets, identity, dead parameters, parity; then every failure with both sides."""
    parts = [_targets(found), _identity(found), _dead(found), _parity(found), failures(row for one in found for row in one.rows)]
    return "\n\n".join(part for part in parts if part)


def _targets(found: Sequence[Examined]) -> str:
    """Variants with the same targets stand together."""
    groups: dict[tuple[str, ...], list[Examined]] = {}
    for one in found:
        groups.setdefault(tuple(layer.name for layer in one.layers), []).append(one)
    rows = [
        (_variants(group), str(len(names)), "\n".join(abbreviated(names)) or NONE)
        for names, group in sorted(groups.items(), key=lambda item: len(item[0]))
    ]
    notes = "\n".join(f"  {one.variant}: {one.refusal}" for one in found if one.refusal and one.layers)
    told = [] if not notes else [f"  not to be attached with its defaults, measured with options that fit:\n{notes}"]
    return "\n".join([table("targets", ("variant", "layers", "which"), rows), *_without(found), *told])


def _without(found: Sequence[Examined]) -> list[str]:
    """Why variants have no targets: a line for each reason."""
    groups: dict[str, list[Examined]] = {}
    for one in found:
        if not one.layers:
            reason = one.refusal.partition("Config ")[2] or one.refusal  # lite's begin with the class of their config
            groups.setdefault(reason, []).append(one)
    return [f"  {_variants(group)}: {reason}" for reason, group in groups.items()]


def _variants(group: Iterable[Examined]) -> str:
    return ", ".join(one.variant for one in group)


def _identity(found: Sequence[Examined]) -> str:
    rows = []
    for one in _worst_first(found, IDENTITY):
        own = [row for row in one.rows if row.measurement.check == IDENTITY]
        layers = [row for row in own if row.relative is not None and row.layer != ALL]
        top = max(layers, key=_badness, default=None)
        whole = [row for row in own if row.layer == ALL]
        rows.append((
            one.variant,
            str(worst(row.measurement for row in own)),
            *((f"{top.relative:.2g}", top.layer if top.relative else "") if top else ("", "")),
            ", ".join(dict.fromkeys(f"{row.measurement.verdict}, {row.relative:.2g}" for row in whole if row.relative is not None)),
        ))  # fmt: skip
    head = ("variant", "verdict", "worst relative", "in layer", ALL)
    title = (
        f"identity where it starts (rank {RANK}, alpha {ALPHA:g}, or what fits): ‖y − y_base‖/‖y_base‖ on each layer's own input"
    )
    return table(title, head, rows)


def _dead(found: Sequence[Examined]) -> str:
    rows = []
    for one in _worst_first(found, DEAD):
        own = [row for row in one.rows if row.measurement.check == DEAD]
        red = [row.layer for row in own if row.measurement.verdict.is_red]
        rows.append((one.variant, str(worst(row.measurement for row in own)), f"{len(red)} of {len(own)}", some(abbreviated(red))))
    head = ("variant", "verdict", "layers", "which")
    return table("parameters that get no gradient from the model's output, beyond those the method starts with", head, rows)


def _parity(found: Sequence[Examined]) -> str:
    rows = []
    for one in _worst_first(found, FORWARD, GRADIENTS):
        for reference in dict.fromkeys(row.measurement.reference for row in one.rows if row.measurement.check == FORWARD):
            own = [row for row in one.rows if row.measurement.reference == reference]
            verdicts = [_verdict(own, check) for check in (FORWARD, GRADIENTS)]
            shown = peak(row.measurement for row in own)
            where = next(row.layer for row in own if row.measurement is shown)
            error = f"{rounded_up(shown.error)} of {shown.bound:.2g} {shown.unit}" if shown.unit else shown.reason
            rows.append((one.variant, reference, *verdicts, f"{error}: {shown.what}" if shown.what else error, where))
    head = ("variant", "reference", "output", "gradients", "worst", "in layer")
    return table(f"beside peft {VERSION}, each layer alone in float64", head, rows)


def _verdict(rows: Iterable[Row], check: str) -> str:
    return str(worst(row.measurement for row in rows if row.measurement.check == check))


def failures(rows: Iterable[Row]) -> str:
    """Each with both sides; layers that fail alike in a row."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=_badness, reverse=True):
        m = row.measurement
        if m.verdict.is_red:
            got = "" if row.relative else m.got
            groups.setdefault((m.variant, m.check, m.what, got, m.should), []).append(row)
        elif m.verdict is Verdict.UNTESTED:
            groups.setdefault((m.variant, "", str(m.verdict), m.reason, ""), []).append(row)
    lines = []
    for (variant, check, what, got, should), own in groups.items():
        checks = check or ", ".join(dict.fromkeys(row.measurement.check for row in own))
        where = some(abbreviated(dict.fromkeys(row.layer for row in own)))
        lines.append((variant, checks, what, got or f"off by {own[0].relative:.2g} ‖y_base‖", should, where))
    return table("what is wrong, and what was not tested", ("variant", "check", "what", "got", "should be", "where"), lines)


def _worst_first(found: Sequence[Examined], *checks: str) -> list[Examined]:
    """Those that were asked."""

    def key(one: Examined) -> tuple[int, float]:
        own = [row for row in one.rows if row.measurement.check in checks]
        return ORDER.index(worst(row.measurement for row in own)), max(map(_badness, own))[1]

    asked = [one for one in found if any(row.measurement.check in checks for row in one.rows)]
    return sorted(asked, key=key, reverse=True)


def _badness(row: Row) -> tuple[int, float]:
    m: Measurement = row.measurement
    return ORDER.index(m.verdict), row.relative if row.relative is not None else m.ratio


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table under its title, or nothing where it has no row."""
    if not rows:
        return ""
    made = Table(box=SIMPLE)
    for word in head:
        made.add_column(word, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return f"{title}\n{rendered(made)}"
