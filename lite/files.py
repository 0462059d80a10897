"""Files that are whole or not there: written aside, flushed and renamed, with a digest of everything that they say."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

DIGEST = "sha256"  # in a file's metadata: the digest of all its other metadata and of its tensors

PathLike = str | os.PathLike[str]


def write_tensors(file: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with its digest; raises OSError if it cannot be written. Until then an old file stays."""
    replace({Path(file): content(tensors, metadata)})


def content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with its digest."""
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text: bytes = save(held, {**metadata, DIGEST: digest(metadata, held)})
    return text


def replace(contents: Mapping[Path, bytes]) -> None:
    """Write files aside, and put them where they belong, each in one step, when all of their bytes have reached the disk.

    A link stays one, and a file that was there keeps its mode. Raises OSError if one cannot be written; the old ones are then as they were.
    """
    made: dict[Path, Path] = {}
    try:
        for file, text in contents.items():
            target = Path(os.path.realpath(file))
            if target.exists() and not target.is_file():
                raise OSError(f"{file} cannot be written: it is there, and it is no file")
            made[target] = target.with_name(f".{uuid.uuid4().hex}.tmp")  # of this process and thread alone
            made[target].write_bytes(text)
            if target.exists():
                shutil.copymode(target, made[target])
            _flush(made[target])
        for target, aside in made.items():
            aside.replace(target)
    finally:
        for aside in made.values():
            with contextlib.suppress(OSError):  # what went wrong before is told
                aside.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened, its new entries are flushed, too
        for folder in {target.parent for target in made}:
            _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_tensors(file: PathLike) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; FileNotFoundError, or ValueError if it is damaged."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    held = Path(file).read_bytes()  # once: `safe_open` opens the path twice, and it may be replaced in between
    try:
        tensors = load(held)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise ValueError(f"{file} is no complete safetensors file: {error}") from error
    header = json.loads(held[8 : 8 + int.from_bytes(held[:8], "little")])
    return header.get("__metadata__") or {}, tensors


def check_digest(file: PathLike, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """ValueError unless a file says what was written: a flipped bit in a number is a number, too."""
    rest = {key: value for key, value in metadata.items() if key != DIGEST}
    if (there := metadata.get(DIGEST)) != (now := digest(rest, tensors)):
        raise ValueError(f"{file} is damaged: its {DIGEST} is {there!r:.20}, what it holds has {now!r:.20}")


def digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over metadata and tensors, by name: text, dtypes, shapes, bits."""
    found = hashlib.sha256()
    for key, text in sorted(metadata.items()):
        found.update(f"{key!r} {text!r}\n".encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name!r} ".encode())
        for part in bits(tensor):
            found.update(part)
    return found.hexdigest()


def bits(tensor: Tensor) -> Iterator[bytes | memoryview]:
    """A tensor for a digest: its dtype and shape, then its bytes."""
    yield f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
