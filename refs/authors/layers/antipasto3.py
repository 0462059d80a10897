"""AntiPaSTO's third version, in JAX: it computes in float32, and keeps what is left of the weight in bfloat16, whatever it is given.

The factors that a case gives go into the author's constructor, with what they leave of the kernel, as its own `create_svd_adapter` has it.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refs import antipasto_rot
from refs.authors.built import Built, has_no
from refs.authors.code import Code, stand_in
from refs.case import Case
from refs.problem import Problem

TRAINED, FACTORS = ("delta_s", "rotation_params"), ("svd_U", "svd_S", "svd_Vh")


def refuses(case: Case) -> str | None:
    """Options, base layers and data that it does not take."""
    if case.layer != "linear":
        return "antipasto3 has a kernel of its own, which nn.Linear's weight can be put into"
    if case.rank is None:
        return "antipasto3 is always told rank, blocks and angle"
    if case.adapter_dtype:
        return "antipasto3 computes in float32"
    if case.data:
        return "antipasto3 is told the components, chosen beforehand by pairs of prompts"
    if antipasto_rot.turns(case) == "both":
        return "antipasto3 turns both sides by the same parameters"
    if antipasto_rot.turns(case) == "none":
        return "antipasto3 keeps the parameters of rotations that it does not use"
    return has_no(case, "antipasto3 has", known=("coeff", "block_size", "max_rotation_angle", "rotate_basis"))


def build(code: Code, case: Case, numbers: Problem) -> Built:
    """Around torch's tensors; it has no bias."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    stand_in("loguru", logger=None)
    stand_in("einops", rearrange=None)
    stand_in("jaxtyping", Float=dict, Int=dict)
    author = code.module("docs/refs/antipasto3_svd_adapter.py")
    layer = Bridged(author, case, numbers.weight.T.float().contiguous())
    return Built(layer, dict(layer.named_parameters()) | dict(layer.named_buffers()))


class Bridged(nn.Module):
    """The author's layer for a kernel (d_in, d_out), with its tensors as torch's, under its names."""

    def __init__(self, author: Any, case: Case, kernel: Tensor) -> None:
        super().__init__()
        self.jax, self.nnx = importlib.import_module("jax"), importlib.import_module("flax.nnx")
        self.author, self.case, self.kernel = author, case, kernel
        layer = author.create_svd_adapter(
            self.jax.numpy.asarray(kernel.numpy()), case.rank, rngs=self.nnx.Rngs(case.seed), **self.options()
        )
        for name in TRAINED:
            self.register_parameter(name, nn.Parameter(self.torch(getattr(layer, name).value)))
        for name in FACTORS:
            self.register_buffer(name, self.torch(getattr(layer, name).value))
        self.start, self.began = layer, {name: getattr(self, name).clone() for name in FACTORS}

    def options(self) -> dict[str, Any]:
        """What the author's functions are told of the case."""
        return {
            "rotation_block_size": antipasto_rot.block(self.case),
            "max_rotation_angle": self.case.option("max_rotation_angle", antipasto_rot.ANGLE),
            "rotate_U": antipasto_rot.turns(self.case) == "V",
            "rotate_V": antipasto_rot.turns(self.case) == "U",
        }

    def torch(self, array: Any) -> Tensor:
        """An array of JAX in the case's dtype."""
        return torch.from_numpy(np.array(array)).to(self.case.torch_dtype)

    def array(self, tensor: Tensor) -> Any:
        """A tensor as JAX's, in float32."""
        return self.jax.numpy.asarray(tensor.detach().float().contiguous().numpy())

    def layer(self) -> Any:
        """The author's, with the factors that there are now."""
        layer = self.start
        if any(not getattr(self, name).equal(value) for name, value in self.began.items()):
            U, S, Vh = (self.get_buffer(name).float() for name in FACTORS)
            parts = (U, S, Vh, self.kernel - U @ S.diag() @ Vh)
            layer = self.author.SVDSteeringLinear(*map(self.array, parts), rngs=self.nnx.Rngs(0), **self.options())
        self.author.set_alpha(layer, self.case.option("coeff", 1.0))
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """x (…, d_in) → (…, d_out)."""
        graph, trained, rest = self.nnx.split(self.layer(), self.author.SVDParam, ...)

        def function(x: Any, *values: Any) -> Any:
            self.nnx.replace_by_pure_dict(trained, dict(zip(TRAINED, values, strict=True)))
            return self.nnx.merge(graph, trained, rest)(x)

        output: Tensor = _Called.apply(self, function, x, *(getattr(self, name) for name in TRAINED))  # type: ignore[no-untyped-call]
        return output


class _Called(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bridge: Bridged, function: Callable[..., Any], *tensors: Tensor) -> Tensor:
        output, ctx.back = bridge.jax.vjp(function, *map(bridge.array, tensors))
        ctx.bridge = bridge
        return bridge.torch(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *map(ctx.bridge.torch, ctx.back(ctx.bridge.array(gradient))))
