"""Save and load: one self-contained safetensors file with the configs, all adapter tensors and a fingerprint of the base.

The file holds no d_out × d_in tensor and needs no calibration data. Its header's metadata is `format`, `version`, `adapters` (see
`lite.stored`) and `sha256`, a digest of all the rest. Methods that took a part out of the weight store what they took as `LAYER.NAME.start`.
"""

from collections.abc import Mapping

from torch import nn

from lite import files, stored
from lite.files import PathLike
from lite.runtime import attached

FORMAT, VERSION = "lite-adapter", "2"


def save(model: nn.Module, file: PathLike) -> None:
    """Write all adapters of the model to `file`. An old file is replaced only by a complete new one, whatever happens meanwhile.

    A model that was cast after `attach` comes back with residuals formed anew from the cast base: the trainables are bit for bit the
    same, a residual is off by a rounding of the coarser dtype.

    Raises RuntimeError if nothing is attached or a replaced weight is not what its start left, OSError if the file cannot be written.
    """
    attachment = attached(model)
    if attachment is None:
        raise RuntimeError(f"nothing is attached to this model, so there is nothing to save to {file}; call lite.attach first")
    metadata = {"format": FORMAT, "version": VERSION, "adapters": stored.described(attachment)}
    files.write_tensors(file, stored.held(attachment), metadata)


def load(model: nn.Module, file: PathLike) -> nn.Module:
    """Attach what `save` wrote; on a model with the very same configs attached, replace the values. Returns the model.

    Raises FileNotFoundError, or ValueError for a file that is damaged, of another format, version, variant or base, or
    whose tensors do not fit; RuntimeError if something else is attached. The model is then as it was.
    """
    metadata, tensors = files.read_tensors(file)
    _check_format(file, metadata)
    groups = stored.groups(file, metadata.get("adapters", "null"))
    try:
        ready = stored.prepared(model, file, groups, tensors)
    except RuntimeError:
        files.check_digest(file, metadata, tensors)  # it may not be the model that is another one
        raise
    files.check_digest(file, metadata, tensors)  # last: whatever is wrong with a whole file says more
    stored.put(model, ready)
    return model


def _check_format(file: PathLike, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{file} has format {metadata.get('format')!r}, should be {FORMAT!r}: not written by lite.save")
    if metadata.get("version") != VERSION:
        raise ValueError(f"{file} has format version {metadata.get('version')!r}, this release reads {VERSION!r}")
