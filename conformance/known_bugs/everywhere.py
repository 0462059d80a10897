"""Bugs of the shared runtime that any variant can be asked for: what is shared is trusted nowhere unseen."""

from dataclasses import replace

from conformance.known_bugs.bug import Bug

ONE_TOKEN = Bug(
    id="one-token",
    variant="",
    description="a single token passes without the adapter",
    effect="the base model while generating",
    source="planted: a shape that no fixed grid has",
    hidden_by="several tokens in tests",
    where="lite.adapter:Adapter.__call__",
    old="return adapted.to(y.dtype)",
    new="return adapted.to(y.dtype) if y.numel() > y.shape[-1] else y",
    red=frozenset({"shape sweep"}),
    message="off by",
)
ONE_INPUT_TOKEN = replace(
    ONE_TOKEN,
    where="lite.adapter:Adapter.adapt_input",
    old="if args else (args, kwargs | {self.layer.input_name: adapted})",
    new="if args and x.numel() > x.shape[-1] else (args, kwargs if x.numel() == x.shape[-1] else kwargs | {self.layer.input_name: adapted})",
)
LAST_LAYER_STAYS = Bug(
    id="detach-last-layer",
    variant="",
    description="detach takes the hook out of all layers but the last",
    effect="a crash, or an adapter that still acts",
    source="planted: a loop that ends early",
    hidden_by="models of one layer",
    where="lite.runtime:undo",
    old="for handle in attachment.handles:",
    new="for handle in attachment.handles[:1]:",
    red=frozenset({"detach"}),
    message="hooks of second",
)
FILE_ROUNDED = Bug(
    id="file-rounded",
    variant="",
    description="a file holds its tensors in half precision",
    effect="digits are lost at every save",
    source="planted: small files",
    hidden_by="tolerances of reload tests",
    where="lite.files:content",
    old=".detach().cpu().contiguous()",
    new=".detach().cpu().bfloat16().contiguous()",
    red=frozenset({"round trip"}),
    message="lora_",
)
GRADIENTS_STAY_OFF = Bug(
    id="attach-fails-frozen",
    variant="",
    description="an attach that fails leaves the base frozen",
    effect="a model that no longer trains",
    source="planted: requires_grad is restored by detach only",
    hidden_by="attaches that succeed",
    where="lite.runtime:commit",
    old="        undo(model, attachment)\n        raise",
    new="        attachment.requires_grad.clear()\n        undo(model, attachment)\n        raise",
    red=frozenset({"failed attach"}),
    message="requires_grad",
)
EXTRA_TENSOR = Bug(
    id="load-extra-tensor",
    variant="",
    description="a file's tensors that nothing needs are passed over",
    effect="another method's file is half loaded",
    source="planted: strict=False",
    hidden_by="files that fit",
    where="lite.stored:_fitting",
    old="if needed.keys() != tensors.keys():",
    new="if needed.keys() - tensors.keys():",
    red=frozenset({"bad input"}),
    message="is damaged",
)


def under(variant: str, *bugs: Bug) -> tuple[Bug, ...]:
    """The same bugs, to be planted under one variant."""
    return tuple(replace(bug, id=f"{variant.replace('_', '-')}-{bug.id}", variant=variant) for bug in bugs)
