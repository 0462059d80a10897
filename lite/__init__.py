"""Minimal adapter methods: `attach` one or several to a model, train, `save`, `load`, `detach`.

Every method is one file in `lite/variants/`, short enough to read beside its paper.
"""

from lite.checkpoint import load, save
from lite.config import Config
from lite.runtime import attach, detach
from lite.variant import VARIANTS, Variant
from lite.variants.corda import CorDAConfig
from lite.variants.delora import DeLoRAConfig
from lite.variants.dora import DoRAConfig
    "HRAConfig",
    "IA3Config",
    "IA3FFConfig",
    "LoRAConfig",
    "RoadConfig",
