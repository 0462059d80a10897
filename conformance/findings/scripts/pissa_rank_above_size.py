"""peft's PiSSA takes r above min(d_in, d_out) and makes fewer rows than its config says, so that the documented
conversion to a plain LoRA raises after training; it should refuse such an r at once.
"""

import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 16))


model = get_peft_model(base(), LoraConfig(r=20, target_modules=["0"], init_lora_weights="pissa"))
print("r = 20 on a 16 × 24 weight is accepted; lora_A has", len(model.base_model.model[0].lora_A["default"].weight), "rows")
with tempfile.TemporaryDirectory() as folder:
    model.peft_config["default"].init_lora_weights = True  # what the documentation asks for before the first save
    model.save_pretrained(f"{folder}/start")
    model.peft_config["default"].init_lora_weights = "pissa"
    try:
        model.save_pretrained(f"{folder}/trained", path_initial_model_for_weight_conversion=f"{folder}/start")
        PeftModel.from_pretrained(base(), f"{folder}/trained")
        size = 0.0
    except RuntimeError as error:
        print("converting raises:", str(error).splitlines()[1].strip())
        size = float("inf")
print(size)
