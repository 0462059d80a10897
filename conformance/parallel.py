"""Work that is spread over processes, and the bar that shows how far it is."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

R = TypeVar("R")


def as_done(work: Iterable[tuple[Callable[[Any], R], Any]], processes: int) -> Iterator[tuple[Any, R]]:
    """Each argument with its function's result, in the order in which they are done. Whoever stops asking stops the work."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:  # torch does not survive a fork
        asked = {pool.submit(function, argument): argument for function, argument in work}
        try:
            for done in as_completed(asked):
                yield asked[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def bar() -> Progress:
    """On standard error: what is being done, how much of how much, for how long."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=Console(stderr=True)
    )
