"""Files that are whole or not there: written aside, flushed and renamed, with a digest of everything that they say."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

DIGEST = "sha256"  # in a file's metadata: the digest of all its other metadata and of its tensors

PathLike = str | os.PathLike[str]


def write_tensors(file: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with its digest; raises OSError if it cannot be written. Until then an old file stays."""
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    said = {**metadata, DIGEST: digest(metadata, held)}

    def write(aside: Path) -> None:
        try:
            save_file(held, aside, said)
        except SafetensorError as error:
            raise OSError(f"{file} cannot be written: {error}") from error

    replace(file, write)


def replace(file: PathLike, write: Callable[[Path], object]) -> None:
    """Let `write` make a file aside, and put it where `file` is in one step, after its bytes have reached the disk. A link stays one."""
    target = Path(os.path.realpath(file))
    if target.exists() and not target.is_file():
        raise OSError(f"{file} cannot be written: it is there, and it is no file")
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")  # of this process and thread alone
    try:
        write(aside)
        _flush(aside)
        aside.replace(target)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is told
            aside.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened, its new entry is flushed, too
        _flush(target.parent)


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
    content = Path(file).read_bytes()  # once: `safe_open` opens the path twice, and it may be replaced in between
    try:
        tensors = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise ValueError(f"{file} is no complete safetensors file: {error}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
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
