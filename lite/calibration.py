"""Calibration: what the targeted layers receive while data runs through the undamaged model."""

import inspect
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lite.config import Config
from lite.layers import Layer
from lite.variant import Statistics, variant_of

MASKS = ("attention_mask", "label_mask")
IGNORED = -100  # the label of a token that is not trained on, as transformers has it
PROGRESS_AFTER = 1.0  # seconds; shorter work needs no bar


def calibrate(model: nn.Module, targets: Iterable[tuple[Config, Layer]], data: Iterable[Any]) -> dict[str, Statistics]:
    """Run `data` through the model as it is, in eval mode and without gradients; what each layer received, by its name.

    Layers of one config that receive the very same tensor share one accumulator, if it is of the input alone.

    Raises TypeError for a batch of another kind, ValueError for no data, a mask that fits no input, values that are not
    finite or of another width than the layer's, or a layer that was never reached. Modes and hooks are then as before.
    """
    if isinstance(data, Tensor | Mapping | str) or not isinstance(data, Iterable):
        raise TypeError(f"calibration_data should be an iterable of batches, got one {type(data).__name__}; put it into a list")
    readers = [Reader(config, layer) for config, layer in targets]
    calls, masks = _Calls(), _Masks()
    batches = 0
    with torch.no_grad(), _eval_mode(model), _hooks(readers, calls, masks):
        for batch in tqdm(data, desc="calibration", unit="batch", delay=PROGRESS_AFTER):
            batches += 1
            calls.seen.clear()
            arguments, keywords = masks.take(model, batch, batches)
            model(*arguments, **keywords)
    if batches == 0:
        raise ValueError("calibration_data is empty: at least one batch is needed (a generator can be used once only)")
    for reader in readers:
        if reader.tokens == 0:
            raise ValueError(
                f"{reader.layer.title} received no token in {batches} batches: every one is masked, or the layer is not used"
            )
    return {reader.layer.name: reader.statistics for reader in readers}


class Reader:
    """Reads one layer's input. `statistics` is that of its leader, the reader that first saw the same tensor."""

    def __init__(self, config: Config, layer: Layer) -> None:
        self.config, self.layer = config, layer
        self.tokens = 0
        self.leader: Reader | None = None
        self.made: Statistics | None = None  # by leaders only: one accumulator for each distinct input

    @property
    def statistics(self) -> Statistics:
        """What was accumulated of its input."""
        made = self.leader.made if self.leader else self.made
        assert made is not None
        return made

    def read(self, x: Tensor, calls: "_Calls", masks: "_Masks") -> None:
        """Add what the layer is about to receive."""
        before = calls.before(self, x)
        if self.leader is None and self.made is None:
            self.leader = next((reader for reader in before if reader.statistics.of_input_alone), None)
            if self.leader is None:
                make = variant_of(self.config).statistics
                assert make is not None
                try:
                    self.made = make(self.config, self.layer)
                except ValueError as error:
                    raise ValueError(f"{self.layer.title}: {error}") from error
        if self.leader is not None and self.leader not in before:  # who only comes to share a tensor later keeps its own account
            raise ValueError(
                f"batch {masks.batch}: {self.layer.title} shared its input with {self.leader.layer.title} before, but now it received "
                f"another tensor or was called first; attach them by two configs"
            )
        rows = masks.select(x, self.layer, uses_labels=self.statistics.uses_label_mask)
        self.tokens += len(rows)
        if self.leader is not None or len(rows) == 0:
            return
        if not torch.isfinite(rows).all():
            raise ValueError(f"batch {masks.batch}: {self.layer.title} received values that are not finite")
        try:
            self.statistics.update(rows)
        except ValueError as error:
            raise ValueError(f"batch {masks.batch}: {self.layer.title}: {error}") from error


class _Calls:
    """Who received which tensor. Tensors are held weakly: they live as long as the model keeps them."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, Config], tuple[weakref.ref[Tensor], int, list[Reader]]] = {}

    def before(self, reader: Reader, x: Tensor) -> list[Reader]:
        """The readers of the same config that received this tensor in this batch, as it is now; `reader` joins them."""
        if x.is_inference():  # its changes in place cannot be seen
            return []
        alive, version, readers = self.seen.get((id(x), reader.config), (None, -1, []))
        if alive is None or alive() is not x or version != x._version:
            readers = []
        self.seen[id(x), reader.config] = (weakref.ref(x), x._version, [*readers, reader])
        return readers


class _Masks:
    """The masks of the batch that is running."""

    def __init__(self) -> None:
        self.batch = 0
        self.masks: dict[str, Tensor] = {}

    def take(self, model: nn.Module, batch: Any, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Keep the masks of a batch; the arguments that the model gets."""
        self.batch, self.masks = number, {}
        if isinstance(batch, Tensor):
            return (batch,), {}
        if isinstance(batch, Mapping):
            self.masks = {name: batch[name] for name in MASKS if batch.get(name) is not None}
            labels = batch.get("labels")
            if "label_mask" not in self.masks and isinstance(labels, Tensor) and _names_tokens(labels, batch):
                self.masks["label_mask"] = labels.ne(IGNORED)
            for name, mask in self.masks.items():
                if not isinstance(mask, Tensor) or mask.ndim != 2:
                    raise ValueError(f"batch {number}: {name} should be a tensor (batch, tokens), got {_shape(mask)}")
                if not ((mask == 0) | (mask == 1)).all():
                    raise ValueError(
                        f"batch {number}: {name} should hold 0 (leave out) and 1 (count), or booleans; it holds others"
                    )
            taken = inspect.signature(model.forward).parameters
            anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
            left_out = {"label_mask"} if anything else set(MASKS)  # ours, unless the model names it
            return (), {key: value for key, value in batch.items() if key in taken or key not in left_out}
        if isinstance(batch, tuple | list):
            return tuple(batch), {}
        raise TypeError(f"batch {number} of calibration_data should be a tensor, a tuple or a mapping, got {type(batch).__name__}")

    def select(self, x: Tensor, layer: Layer, *, uses_labels: bool) -> Tensor:
        """The rows (tokens, d_in) that no mask leaves out."""
        if x.shape[-1:] != (layer.d_in,):
            raise ValueError(f"batch {self.batch}: {layer.title} received {tuple(x.shape)}, should be (…, {layer.d_in})")
        rows = x.reshape(-1, layer.d_in)
        for name, mask in self.masks.items():
            if name == "label_mask" and not uses_labels:
                continue
            if x.shape[:-1] == mask.shape or (x.ndim == 2 and len(x) == mask.numel()):
                continue
            if x.ndim == 2 and len(x) == len(mask):  # one vector per sequence: a pooled one has no padding
                return rows
            raise ValueError(
                f"batch {self.batch}: {name} {tuple(mask.shape)} does not fit what {layer.title} receives, {tuple(x.shape)}; exclude the layer"
            )
        keep = torch.ones(len(rows), dtype=torch.bool, device=x.device)
        for name, mask in self.masks.items():
            if name == "attention_mask" or uses_labels:
                keep &= mask.reshape(-1).to(x.device).bool()
        return rows[keep]


def _names_tokens(labels: Tensor, batch: Mapping[str, Any]) -> bool:
    """Whether a batch's labels are one for each token, as language models have them."""
    tokens = [batch[name].shape for name in ("attention_mask", "input_ids") if isinstance(batch.get(name), Tensor)]
    return labels.ndim == 2 and labels.shape in tokens


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _hooks(readers: Iterable[Reader], calls: _Calls, masks: _Masks) -> Iterator[None]:
    def hook(reader: Reader, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reader.read(args[0] if args else kwargs[reader.layer.input_name], calls, masks)

    with ExitStack() as stack:
        for reader in readers:
            handle = reader.layer.module.register_forward_pre_hook(partial(hook, reader), with_kwargs=True)
            stack.callback(handle.remove)
        yield
