"""Merge: put what the adapters compute into the weights, for good."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from tqdm import tqdm

from lite.adapter import Adapter
from lite.calibration import PROGRESS_AFTER
from lite.layers import Layer
from lite.runtime import MERGED, Attachment, attached, uncompiled, undo

ROWS = 1024  # inputs at a time, so that a wide layer needs no d_in × d_in matrix


def merge(model: nn.Module) -> nn.Module:
    """Replace every adapted weight, and bias where the method changes it, by the one that gives the same output; nothing stays attached.

    Computed in float64 and rounded once, to the weight's dtype; dropout is off, a steered coefficient counts. It is for good: a later `detach`
    finds nothing, and a file that was saved before fits the old base only. While it works it needs a copy of the targeted weights.
    Returns the model.

    Raises RuntimeError if nothing is attached; ValueError for a weight that is quantised, tied to another module's or no parameter, a
    layer with other hooks, a bias to add where there is none, or a merged weight that would not be finite. The model is then as it was.
    """
    attachment = attached(model)
    if attachment is None:
        merged = "; its adapters were merged already" if uncompiled(model) in MERGED else "; call lite.attach first"
        raise RuntimeError(f"nothing is attached to this model, so there is nothing to merge{merged}")
    for adapter in attachment.adapters:
        _check_mergeable(attachment, adapter)
    progress = tqdm(attachment.adapters, desc="merge", unit="layer", delay=PROGRESS_AFTER)
    computed = [(adapter.layer, *merged_layer(adapter)) for adapter in progress]
    undo(attachment.model, attachment)
    for layer, weight, bias in computed:
        cast("nn.Parameter", layer.module.weight).data = weight.T.contiguous() if layer.transposed else weight
        if bias is not None:
            cast("nn.Parameter", layer.module.bias).data = bias
    MERGED.add(attachment.model)
    return model


@torch.no_grad()
def merged_layer(adapter: Adapter) -> tuple[Tensor, Tensor | None]:
    """W′ (d_out, d_in) and b′ (d_out,), in the dtypes of what they replace; ValueError if they would not be finite.

    The method is asked what it makes of the rows of the identity, without the bias, and of a zero, with it.
    """
    layer, variant = adapter.layer, adapter.variant
    tensors = {name: tensor.double() for name, tensor in adapter.live().items()}
    W, b = layer.weight.double(), None if layer.bias is None else layer.bias.double()
    bare = _bare(layer, W, None)
    parts = []
    with torch.autocast(W.device.type, enabled=False):
        if variant.forward:  # what a bias of the method adds
            still = variant.code(adapter.active, bare, tensors, W.new_zeros(1, layer.d_in), W.new_zeros(1, layer.d_out))
        for first in range(0, layer.d_in, ROWS):
            y = W.T[first : first + ROWS]
            x = W.new_zeros(len(y), layer.d_in)
            x.diagonal(first).fill_(1)  # these rows of the identity
            if variant.adapt_input:
                parts.append(variant.code(adapter.active, bare, tensors, x) @ W.T)
            else:
                parts.append(variant.code(adapter.active, bare, tensors, x, y) - still)
        if b is not None and variant.forward:
            b = variant.code(adapter.active, _bare(layer, W, b), tensors, W.new_zeros(1, layer.d_in), b[None])[0]
    weight = torch.cat(parts).T.to(layer.weight.dtype).contiguous()
    bias = None if b is None or layer.bias is None else b.to(layer.bias.dtype)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and not value.isfinite().all():
            raise ValueError(f"{adapter.where}: the merged {name} would not be finite in {value.dtype!s}")
    return weight, bias


def _bare(layer: Layer, W: Tensor, b: Tensor | None) -> Layer:
    """The same layer in float64, out of training."""
    module: Any = SimpleNamespace(weight=W.T if layer.transposed else W, bias=b, training=False)
    return replace(layer, module=module)


def _check_mergeable(attachment: Attachment, adapter: Adapter) -> None:
    model, layer, where = attachment.model, adapter.layer, adapter.where
    weight = attachment.originals.get(layer.name, layer.module.weight)
    if not layer.is_dense:
        raise ValueError(
            f"{where}: its {layer.weight.dtype!s} {tuple(layer.weight.shape)} weight holds no numbers to merge into; dequantise it"
        )
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"{where}: its weight is no parameter of the layer, a merged one would be lost")
    if "lora_b" in adapter.shapes and layer.bias is None:
        raise ValueError(f"{where}: the method has a bias (lora_bias=True), the layer has none to merge it into")
    own = {handle.id for handle in attachment.handles}
    if {*layer.module._forward_hooks, *layer.module._forward_pre_hooks} - own:
        raise ValueError(
            f"{where}: the layer has other hooks, too, which a merged weight would not stand between as the adapter does; remove them"
        )
    for what, tensor in (("weight", weight), ("bias", layer.bias)):
        names = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is tensor]
        if {id(model.get_submodule(name.rpartition(".")[0])) for name in names} - {id(layer.module)}:
            raise ValueError(f"{where}: its {what} is tied ({', '.join(names)}), and a merged one would change what shares it")
    if not _is_linear(layer):
        raise ValueError(
            f"{where}: {type(layer.module).__name__} computes something else than x Wᵀ + b, which a merged weight would go through, too"
        )


@torch.no_grad()
def _is_linear(layer: Layer) -> bool:
    """Whether the module's own forward is what its weight and bias say, up to roundings, asked with two inputs."""
    W = layer.weight
    signs = torch.ones(2, layer.d_in, dtype=W.dtype, device=W.device)
    signs[1, ::2] = -1
    with torch.autocast(W.device.type, enabled=False):
        y, should = layer.module.forward(signs), linear(signs, W, layer.bias)
        terms = linear(signs.abs(), W.abs(), None if layer.bias is None else layer.bias.abs())
    return bool(((y == should) | ((y - should).abs() <= 4 * layer.d_in * torch.finfo(W.dtype).eps * terms)).all())
