"""Minimal adapter methods: `attach` one or several to a model, train, `save`, `load`, `merge` or `detach`; `export_peft` and `load_peft` cross into peft.

Every method is one file in `lite/variants/`, short enough to read beside its paper.
"""

from lite.checkpoint import load, save
from lite.config import Config
from lite.merging import merge
from lite.peft_export import export_peft
from lite.peft_load import load_peft
from lite.runtime import attach, detach
from lite.steering import steer
from lite.variant import VARIANTS, Variant
from lite.variants.antipasto import AntiPaSTOConfig
from lite.variants.antipasto_ablate import AntiPaSTOAblateConfig
from lite.variants.antipasto_arrow import AntiPaSTOArrowConfig
from lite.variants.antipasto_asvd import AntiPaSTOASVDConfig
from lite.variants.antipasto_corda import AntiPaSTOCorDAConfig
from lite.variants.antipasto_dplr import AntiPaSTODPLRConfig
from lite.variants.antipasto_rot import AntiPaSTORotConfig
from lite.variants.asvd import ASVDConfig
from lite.variants.corda import CorDAConfig
from lite.variants.delora import DeLoRAConfig
from lite.variants.dora import DoRAConfig
from lite.variants.eva import EVAConfig
from lite.variants.hra import HRAConfig
from lite.variants.ia3 import IA3Config
from lite.variants.ia3_ff import IA3FFConfig
from lite.variants.lora import LoRAConfig
from lite.variants.lora_xs import LoRAXSConfig
from lite.variants.olora import OLoRAConfig
from lite.variants.pissa import PiSSAConfig
from lite.variants.road import RoadConfig

__all__ = [
    "VARIANTS",
    "ASVDConfig",
    "AntiPaSTOASVDConfig",
    "AntiPaSTOAblateConfig",
    "AntiPaSTOArrowConfig",
    "AntiPaSTOConfig",
    "AntiPaSTOCorDAConfig",
    "AntiPaSTODPLRConfig",
    "AntiPaSTORotConfig",
    "Config",
    "CorDAConfig",
    "DeLoRAConfig",
    "DoRAConfig",
    "EVAConfig",
    "HRAConfig",
    "IA3Config",
    "IA3FFConfig",
    "LoRAConfig",
    "LoRAXSConfig",
    "OLoRAConfig",
    "PiSSAConfig",
    "RoadConfig",
    "Variant",
    "attach",
    "detach",
    "export_peft",
    "load",
    "load_peft",
    "merge",
    "save",
    "steer",
]
