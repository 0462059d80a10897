"""A checkpoint on this disk, loaded as it is: no network, no code of its own, no pickles, and no weight that nobody trained."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model in eval mode. unused: tensors of the files that it has no place for."""

    folder: Path
    model: nn.Module
    unused: tuple[str, ...]

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def title(self) -> str:
        """Class, dtypes and size."""
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in self.model.parameters()})
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        return f"{type(self.model).__name__}, {' and '.join(dtypes)}, {millions:.3g} M parameters"


def load(folder: Path) -> Checkpoint:
    """The model of a folder with config.json and safetensors. ValueError or OSError for whatever keeps it from being that model."""
    _check_files(folder)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = _class(folder)
    try:
        model, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
            attn_implementation="eager",
            ignore_mismatched_sizes=True,  # they are told below
            output_loading_info=True,
        )
    except Exception as error:  # whatever a model class, or a damaged file, raises
        raise ValueError(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{folder}: the weights lack {some(missing)}, which {kind.__name__} has; random numbers would stand there")
    if mismatched := info["mismatched_keys"]:
        told = [f"{name}, {tuple(there)} in the file and {tuple(needed)} in the model" for name, there, needed in mismatched]
        raise ValueError(f"{folder}: weights of another shape than config.json says: {some(sorted(told))}")
    return Checkpoint(folder, model.eval(), tuple(sorted(info["unexpected_keys"])))


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give one with config.json and model.safetensors")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is no transformers checkpoint; it has {_content(folder)}")
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{folder} has its weights in {some(pickles)}, a format that can run code when it is read; save them as safetensors"
            )
        raise FileNotFoundError(
            f"{folder} has a config.json and no weights: {' or '.join(WEIGHTS)} is needed; it has {_content(folder)}"
        )


def _class(folder: Path) -> Any:
    """The transformers class that the config names, else the headless one of its model type; ValueError for one that transformers lacks."""
    import transformers

    try:
        named = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"{folder}/config.json names no model that transformers {transformers.__version__} has: {error}"
        ) from error
    if not named:
        headless = transformers.AutoModel._model_mapping.get(type(config), None)
        if headless is None:
            raise ValueError(
                f"{folder}/config.json names no architecture, and transformers {transformers.__version__} has no headless model "
                f"of type {config.model_type!r}; add the class's name as architectures"
            )
        return headless
    kind = getattr(transformers, str(named[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ValueError(f"{folder}/config.json: transformers {transformers.__version__} has no architecture {named[0]!r}")
    return kind


def _content(folder: Path) -> str:
    return some(sorted(path.name for path in folder.iterdir())) or "nothing"


def some(names: Collection[str], most: int = 6) -> str:
    """A few of many names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
