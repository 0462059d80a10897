"""peft's CorDA with covariance_file="cov.pt", a file in the current folder, raises after the whole calibration and
saves nothing, because it makes the folder "" first; it should save the file.
"""

import contextlib
import tempfile

import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 8))
corda = CordaConfig(covariance_file="cov.pt")
config = LoraConfig(r=2, target_modules=["0"], init_lora_weights="corda", corda_config=corda)
with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    try:
        preprocess_corda(model, config, lambda: model(torch.randn(64, 12)))
        size = 0.0
    except FileNotFoundError as error:
        print("raised after the calibration:", error)
        size = float("inf")
print(size)
