"""RoAd's."""

from conformance.known_bugs.bug import Bug
from conformance.known_bugs.everywhere import FILE_ROUNDED, GRADIENTS_STAY_OFF, LAST_LAYER_STAYS, ONE_TOKEN, under

BUGS = (
    Bug(
        id="road-pairing",
        variant="road",
        description="neighbours are paired instead of i and i + group_size/2",
        effect="another function",
        source="review of lora-lite",
        hidden_by="group size 2",
        where="lite.variants.road",
        old="""def forward(config: RoadConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
""",
        new="""def forward(config: RoadConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    neighbours = y.reshape(*y.shape[:-1], -1, config.group_size // 2, 2).transpose(-1, -2).reshape(y.shape)
    turned = halves(config, layer, t, x, neighbours)
    return turned.reshape(*y.shape[:-1], -1, 2, config.group_size // 2).transpose(-1, -2).reshape(y.shape)


def halves(config: RoadConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
""",
        red=frozenset({"accuracy", "defaults", "forward", "gradients"}),
        message="output",
    ),
    Bug(
        id="road-bias-unturned",
        variant="road",
        description="the bias is added after the turn",
        effect="(R − I)·b",
        source="planted: a bias",
        hidden_by="bias-free layers",
        where="lite.variants.road",
        old="""def forward(config: RoadConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
""",
        new="""def forward(config: RoadConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
    b = 0 if layer.bias is None else layer.bias
    return b + turned(config, layer, t, x, y - b)


def turned(config: RoadConfig, layer: Layer, t: Tensors, x: Tensor, y: Tensor) -> Tensor:
""",
        red=frozenset({"accuracy", "defaults", "forward", "gradients"}),
        message="output",
    ),
    Bug(
        id="road-angle-sign",
        variant="road",
        description="the opposite sign of the angle",
        effect="the inverse turn",
        source="rot-chirality of another method",
        hidden_by="zero angles at the start",
        where="lite.variants.road",
        old="new_tensor([[-1], [1]])",
        new="new_tensor([[1], [-1]])",
        red=frozenset({"accuracy", "defaults", "forward", "gradients"}),
        message="output",
    ),
    Bug(
        id="road-scale-shared",
        variant="road",
        description="the entries beside the diagonal take the diagonal's scale",
        effect="half of road_4's scales without effect",
        source="planted: road_4",
        hidden_by="road_1 in tests",
        where="lite.variants.road",
        old="alpha[-1] * theta",
        new="alpha[0] * theta",
        red=frozenset({"accuracy", "forward", "gradients"}),
        message="grad.lora_alpha",
    ),
    Bug(
        id="road-scale-unused-across",
        variant="road",
        description="the scale reaches the diagonal only",
        effect="α·sin θ becomes sin θ",
        source="planted: a factor",
        hidden_by="scales of one",
        where="lite.variants.road",
        old="alpha[-1] * theta[-1].sin()",
        new="theta[-1].sin() * torch.ones_like(alpha[-1])",
        red=frozenset({"accuracy", "defaults", "forward", "gradients"}),
        message="output",
    ),
    Bug(
        id="road-alpha-zero",
        variant="road",
        description="scales start at zero",
        effect="the layer is switched off",
        source="planted: a start",
        hidden_by="parameters copied before every comparison",
        where="lite.variants.road",
        old='"lora_alpha": torch.ones(size)',
        new='"lora_alpha": torch.zeros(size)',
        red=frozenset({"dead parameters", "defaults", "identity", "init", "seed parity"}),
        message="bit for bit",
    ),
    Bug(
        id="road-theta-random",
        variant="road",
        description="angles start normal(0.5)",
        effect="not the identity",
        source="peft's init_weights=False",
        hidden_by="parameters copied before every comparison",
        where="lite.variants.road",
        old='"lora_theta": torch.zeros(size)',
        new='"lora_theta": torch.randn(size) / 2',
        red=frozenset({"defaults", "identity", "init", "seed parity"}),
        message="bit for bit",
    ),
    Bug(
        id="road-group-ignored",
        variant="road",
        description="the whole layer is one group",
        effect="other pairs",
        source="design: no option is silently ignored",
        hidden_by="one group in tests",
        where="lite.variants.road",
        old="half = config.group_size // 2",
        new="""config = RoadConfig(road_variant=config.road_variant, group_size=layer.d_out)
    half = config.group_size // 2""",
        red=frozenset({"accuracy", "defaults", "forward", "gradients"}),
        message="output",
    ),
    Bug(
        id="road-group-unchecked",
        variant="road",
        description="a group that does not divide d_out is accepted",
        effect="a crash at the first call, with the model already changed",
        source="design: everything is validated first",
        hidden_by="sizes that fit in tests",
        where="lite.variants.road",
        old="if layer.d_out % config.group_size == 0:",
        new="if True:",
        red=frozenset({"bad input"}),
        message="a group that does not divide d_out",
    ),
    Bug(
        id="road-default-group",
        variant="road",
        description="group_size defaults to 32, peft's to 64",
        effect="other pairs",
        source="loralib, peft and papers disagree about defaults",
        hidden_by="group_size set in tests",
        where="lite.variants.road",
        old="group_size: int = option(64, even)",
        new="group_size: int = option(32, even)",
        red=frozenset({"defaults"}),
        message="output",
    ),
    Bug(
        id="road-alpha-frozen",
        variant="road",
        description="scales are frozen buffers",
        effect="half of the method is not trained",
        source="planted: set of trainables",
        hidden_by="set of trainables unchecked",
        where="lite.variants.road",
        old="        parameters=parameters,\n",
        new="""        parameters=lambda config, layer: {"lora_theta": parameters(config, layer)["lora_theta"]},
        buffers=lambda config, layer: {"lora_alpha": parameters(config, layer)["lora_alpha"]},
""",
        red=frozenset({"mapping"}),
        message="trains",
    ),
    *under("road", ONE_TOKEN, LAST_LAYER_STAYS, GRADIENTS_STAY_OFF, FILE_ROUNDED),
)
