"""How long lite takes to attach, save and load, beside peft: two blocks of a Llama of a billion parameters, in turns on the same model."""

import contextlib
import copy
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import lite
from refs.threads import one_thread

BLOCKS, RANK = 2, 16
SHAPE = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 1000,
}  # fmt: skip
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIGS: dict[str, tuple[dict[str, Any], Any]] = {  # lite's options, and peft's config
    "lora": ({"r": RANK}, peft.LoraConfig(r=RANK, target_modules=LAYERS)),
    "dora": ({"r": RANK}, peft.LoraConfig(r=RANK, target_modules=LAYERS, use_dora=True)),
    "delora": ({"r": RANK}, peft.DeloraConfig(r=RANK, target_modules=LAYERS)),
    "hra": ({"r": RANK}, peft.HRAConfig(r=RANK, target_modules=LAYERS)),
    "ia3": ({}, peft.IA3Config(target_modules=LAYERS, feedforward_modules=[])),
    "road": ({}, peft.RoadConfig(target_modules=LAYERS)),
    "pissa": ({"r": RANK, "niter": 4}, peft.LoraConfig(r=RANK, target_modules=LAYERS, init_lora_weights="pissa_niter_4")),
    "olora": ({"r": RANK}, peft.LoraConfig(r=RANK, target_modules=LAYERS, init_lora_weights="olora")),
}
STEPS = ("attach", "save", "load")


@dataclass(frozen=True)
class Side:
    """One library's steps on a model and in a folder; undo gives the base back after attach and load."""

    steps: Mapping[str, Callable[[nn.Module, Path], nn.Module]]
    undo: Callable[[nn.Module], nn.Module]

    def seconds(self, base: nn.Module) -> dict[str, float]:
        """Of each step, on the base, which comes out as it was."""
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            model = base
            for name in STEPS:
                if name == "load":
                    model = self.undo(model)
                before = time.perf_counter()
                model = self.steps[name](model, Path(folder))
                found[name] = time.perf_counter() - before
            self.undo(model)
        return found


def ours(config: lite.Config) -> Side:
    """lite's."""

    def save(model: nn.Module, folder: Path) -> nn.Module:
        lite.save(model, folder / "adapter.safetensors")
        return model

    steps: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
        "attach": lambda model, folder: lite.attach(model, config),
        "save": save,
        "load": lambda model, folder: lite.load(model, folder / "adapter.safetensors"),
    }
    return Side(steps, lite.detach)


def theirs(config: Any) -> Side:
    """peft's."""

    def save(model: nn.Module, folder: Path) -> nn.Module:
        wrapped: Any = model
        wrapped.save_pretrained(str(folder))
        return model

    def undo(model: nn.Module) -> nn.Module:
        wrapped: Any = model
        base: nn.Module = wrapped.unload()
        vars(base).pop("peft_config", None)
        return base

    steps: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
        "attach": lambda model, folder: peft.get_peft_model(model, config),
        "save": save,
        "load": lambda model, folder: peft.PeftModel.from_pretrained(model, str(folder)),
    }
    return Side(steps, undo)


def llama() -> nn.Module:
    """Two blocks of a model of a billion parameters, random."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: nn.Module = LlamaForCausalLM(LlamaConfig(num_hidden_layers=BLOCKS, **SHAPE))
    return model


def report(runs: int) -> None:
    """Print the table: of every method lite's median and the median of its ratios to peft's run before it. One thread, float32."""
    table = Table(
        "method", *(heading for step in STEPS for heading in (f"{step} ms", "× peft")),
        title=f"{BLOCKS} blocks of Llama, hidden {SHAPE['hidden_size']}, all linear layers, r = {RANK}",
        caption="lite reads the whole base when it saves and loads, for its fingerprint, and waits until the file is on the disk",
    )  # fmt: skip
    base, console = llama(), Console(file=sys.stderr)
    with one_thread(), contextlib.redirect_stderr(io.StringIO()):  # the libraries' own bars and warnings
        for name, (own, config) in track(CONFIGS.items(), "attaching", console=console):
            row, sides = [name], (theirs(config), ours(lite.VARIANTS[name].config(**own)))
            pairs = [[side.seconds(copy.deepcopy(base)) for side in sides] for _ in range(runs + 1)][1:]  # one to warm up
            for step in STEPS:
                median = statistics.median(mine[step] for _, mine in pairs)
                row += [f"{1e3 * median:.0f}", f"{statistics.median(mine[step] / peers[step] for peers, mine in pairs):.2f}"]
            table.add_row(*row)
    Console().print(table)
