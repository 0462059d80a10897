"""How long lite's layers take: forward and backward of one layer, beside PiSSA's, measured in turns so that both see the same machine."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import lite
from conformance.variants import known
from refs.threads import one_thread

SIZE, RANK, TOKENS = 1024, 64, 512
BESIDE = "pissa"


def step(variant: str) -> Callable[[], None]:
    """One forward and backward pass of a method on one linear layer, the gradient of its input included."""
    torch.manual_seed(0)
    layer = nn.Linear(SIZE, SIZE)
    x, cotangent = (torch.randn(TOKENS, SIZE) for _ in range(2))
    method = lite.VARIANTS[variant]
    own: dict[str, Any] = {"r": RANK} if "r" in method.config.__dataclass_fields__ else {}
    config = method.config(**own)
    with torch.no_grad():
        data = [torch.randn(1, 4 * RANK, SIZE)] if method.takes_data(config) and method.needs_data else None
    lite.attach(layer, config, data)
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]

    def run() -> None:
        given: list[Tensor] = [x.requires_grad_(), *trained]
        torch.autograd.grad(layer(x), given, cotangent, allow_unused=True)

    return run


def seconds(run: Callable[[], None]) -> float:
    """Of one run."""
    before = time.perf_counter()
    run()
    return time.perf_counter() - before


def report(runs: int) -> None:
    """Print the table: every method's median, and the median of its ratios to PiSSA's run before it. One thread, float32."""
    table = Table("method", "median ms", f"× {BESIDE}", title=f"forward and backward, d = {SIZE}, r = {RANK}, {TOKENS} tokens")
    with one_thread():
        beside = step(BESIDE)
        for variant in track(known(), "layers", console=Console(stderr=True)):
            own = step(variant)
            seconds(beside), seconds(own)  # the first run warms up
            pairs = [(seconds(beside), seconds(own)) for _ in range(runs)]
            median = statistics.median(mine for _, mine in pairs)
            table.add_row(variant, f"{1e3 * median:.1f}", f"{statistics.median(mine / theirs for theirs, mine in pairs):.2f}")
    Console().print(table)
