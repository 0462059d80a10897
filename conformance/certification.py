"""`certify`: the same checks on somebody else's layer, at once or as tests of theirs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from conformance.certificate import Certificate
from conformance.foreign import Factory, candidate
from conformance.jobs import Job, jobs
from conformance.parametrize import parametrized
from conformance.suite import Candidate, Divergence, Reference, Suite
from conformance.suite_of import suite_of
from refs.case import Case

Reset = Callable[[Any, Case], Any]


class Certify:
    """Is this layer the method? `certify(…)` says it at once, `test_mine = certify.tests(…)` makes tests of it.

    Both take:

    factory: (base layer, case) → an `nn.Module` that adapts it: x (…, d_in) → (…, d_out). It finds what it needs in
        the case: rank, alpha, dtype, `case.option("dropout", 0.0)` and the variant's other options, and raises
        NotImplementedError for what it does not offer. The base layer is frozen and holds the weight; wrap it or copy from it.
        Or an object that is a `conformance.suite.Candidate`, which brings its own map.
    variant: the method it claims to be.
    map: canonical name → name in the module's `state_dict()`, or a mapping with name and any of transpose, shape, sign,
        scale, plus (see `refs.maps`). Every trainable has to be there; frozen tensors may be, and have to where they come from a
        decomposition: `residual` is the weight that a part was taken out of (PiSSA), told as (d_out, d_in).
    reset: (module, case) → runs the layer's own init of its adapter again; it is seeded immediately before. Without it,
        seed parity is untested for layers whose constructor draws other numbers first.
    input_name: what the layer's forward calls its input; without it, calls by keyword are not tried.
    references: names of those to compare with, all of the variant's by default (as in its verdict table: "closed form", "peft",
        "author", …), and references of your own, which are `conformance.suite.Reference` objects. The verdict is about these, which
        the page names.
    divergences: `conformance.Divergence`s of yours: differences that are meant, each with a reason. They are verified: one that is
        not there in its stated size fails as stale. Those documented of lite hold where your layer shows them.

    Methods that start from data (EVA, CorDA, ASVD): `refs.calibration.calls(refs.calibration.batches(case), labels=True)` holds the tokens that
    the layer ("layer") and one beside it ("beside"), which a budget of ranks is shared with, receive; a factory takes its start
    from them.

    Raises ValueError for an unknown variant, check, reference or canonical name and for a map that cannot be read, TypeError for a
    factory that is none. Whatever the factory itself raises becomes a measurement with the verdict `error`.
    """

    def __call__(
        self,
        factory: Factory | Candidate,
        variant: str,
        map: Mapping[str, Any] | None = None,  # noqa: A002 the project's word for it
        *,
        reset: Reset | None = None,
        input_name: str | None = None,
        references: Sequence[str | Reference] | None = None,
        divergences: Sequence[Divergence] = (),
        checks: Sequence[str] | str | None = None,
        case: str | None = None,
    ) -> Certificate:
        """Run the variant's checks now and return the measurements.

        checks: names of the checks to run, all by default. case: id of the one case to run, as failures print it.
        """
        suite = _suite(factory, variant, map, reset, input_name, references, divergences)
        chosen = _chosen(suite, references, checks)
        if checks is None:
            _check_divergences(divergences, chosen)
        measurements = tuple(m for job in chosen for m in job.measure(case))
        if not measurements:
            raise ValueError(f"no check has a case {case!r}; the grid has {', '.join(known.id for known in suite.cases)}")
        return Certificate(variant, measurements, complete=checks is None and case is None)

    def tests(
        self,
        factory: Factory | Candidate,
        variant: str,
        map: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        reset: Reset | None = None,
        input_name: str | None = None,
        references: Sequence[str | Reference] | None = None,
        divergences: Sequence[Divergence] = (),
        name: str = "",
        folder: str = "reports",
    ) -> Callable[..., None]:
        """A pytest function for a test file of yours: one test per check and reference. A whole run writes the page and the badge.

        name: of the page and the badge, the variant's by default. folder: where they go, relative to pytest's root.
        """
        name = name or variant
        if not re.fullmatch(r"\w[\w.-]*", name) or not folder:
            raise ValueError(f"a page needs a folder, and a name of letters, digits, dots and dashes; got {folder!r} and {name!r}")
        suite = _suite(factory, variant, map, reset, input_name, references, divergences)
        chosen = _chosen(suite, references, None)
        _check_divergences(divergences, chosen)
        return parametrized(suite, chosen, name=name, folder=folder)


certify = Certify()


def _suite(
    factory: Factory | Candidate,
    variant: str,
    map_: Mapping[str, Any] | None,
    reset: Reset | None,
    input_name: str | None,
    references: Sequence[str | Reference] | None,
    divergences: Sequence[Divergence],
) -> Suite:
    """The variant's, with somebody else's layer as its candidate."""
    suite = suite_of(variant)
    return replace(
        suite,
        candidate=candidate(factory, suite, map_, reset, input_name),
        references=(*suite.references, *(r for r in references or () if not isinstance(r, str))),
        divergences=(*divergences, *suite.for_others.divergences),
    )


def _check_divergences(divergences: Sequence[Divergence], chosen: Sequence[Job]) -> None:
    """ValueError for one that none of these jobs would verify."""
    for divergence in divergences:
        if not any((job.check.name, job.column) == (divergence.check, divergence.reference) for job in chosen):
            raise ValueError(
                f"divergence {divergence.id} is about {divergence.check} against {divergence.reference}, which is not asked of your layer: nobody would verify it"
            )


def _chosen(suite: Suite, references: Sequence[str | Reference] | str | None, checks: Sequence[str] | str | None) -> list[Job]:
    """The candidate's own jobs, of these references and checks; ValueError for names that there are not, or none at all."""
    checks = [checks] if isinstance(checks, str) else checks
    references = [references] if isinstance(references, str) else references
    own = [job for job in jobs(suite) if job.candidate is suite.candidate]
    names = None if references is None else [r if isinstance(r, str) else r.name for r in references]
    _known("reference", names, [reference.name for reference in suite.all_references])
    _known("check", checks, [job.check.name for job in own])
    return [
        job
        for job in own
        if (checks is None or job.check.name in checks) and (names is None or job.reference is None or job.reference.name in names)
    ]


def _known(kind: str, asked: Sequence[str] | None, known: Sequence[str]) -> None:
    if asked is not None and not asked:
        raise ValueError(f"{kind}s is empty: name some, or leave it out for all")
    if unknown := set(asked or ()) - set(known):
        raise ValueError(f"unknown {kind} {', '.join(sorted(unknown))}; known: {', '.join(dict.fromkeys(known))}")
