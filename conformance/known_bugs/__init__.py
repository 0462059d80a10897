"""Bugs that this family of methods has really had, as data: each is planted in lite and has to turn exactly its checks red."""

from conformance.known_bugs import delora, dora, lora, runtime
from conformance.known_bugs.bug import Bug
from conformance.known_bugs.plant import planted

BUGS: tuple[Bug, ...] = (*lora.BUGS, *dora.BUGS, *delora.BUGS, *runtime.BUGS)

__all__ = ["BUGS", "Bug", "planted"]
