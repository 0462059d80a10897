"""The file in which a process that runs an author's code gets its numbers."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from refs.authors.traces import vars_of
from refs.calibration import Batch
from refs.case import Case
from refs.problem import Problem
from refs.subject import Shapes

Asked = tuple[Case, Problem, Shapes]


def write(file: Path, asked: Sequence[Asked]) -> None:
    """The runs that are wanted: cases, their numbers, the canonical shapes of all tensors."""
    tensors: dict[str, Tensor] = {}
    about = []
    for n, (case, numbers, shapes) in enumerate(asked):
        flat = {"x": numbers.x, "weight": numbers.weight, "cotangent": numbers.cotangent}
        flat |= {f"parameter.{name}": value for name, value in numbers.parameters.items()}
        flat |= {f"frozen.{name}": value for name, value in numbers.frozen.items()}
        flat |= {} if numbers.bias is None else {"bias": numbers.bias}
        for k, batch in enumerate(numbers.data):
            flat |= {f"data.{k}.{name}": value for name, value in vars_of(batch).items()}
        tensors |= {f"{n}/{name}": value.contiguous().clone() for name, value in flat.items()}
        about.append({"case": repr(case), "effect": numbers.effect, "batches": len(numbers.data), "shapes": dict(shapes)})
    save_file(tensors, file, {"runs": json.dumps(about)})


def read(file: Path) -> Iterator[tuple[str, Problem, Shapes]]:
    """What `write` wrote: the case's `repr`, its numbers, the shapes."""
    with safe_open(file, framework="pt") as handle:
        about = json.loads(handle.metadata()["runs"])
        keys = list(handle.keys())
        for n, run in enumerate(about):
            own = {key.partition("/")[2]: handle.get_tensor(key).clone() for key in keys if key.startswith(f"{n}/")}

            def under(prefix: str, own: dict[str, Tensor] = own) -> dict[str, Tensor]:
                return {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}

            data = tuple(Batch(**under(f"data.{k}.")) for k in range(run["batches"]))
            problem = Problem(
                own["x"],
                own["weight"],
                own.get("bias"),
                under("parameter."),
                own["cotangent"],
                run["effect"],
                under("frozen."),
                data,
            )
            yield run["case"], problem, {name: tuple(shape) for name, shape in run["shapes"].items()}
