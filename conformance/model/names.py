"""Many module names in a few words: encoder.layer.{0–5}.output.dense."""

from collections.abc import Iterable


def abbreviated(names: Iterable[str]) -> list[str]:
    """The names, those that differ by one number only as one."""
    found = [name.split(".") for name in names]
    deepest = max(map(len, found), default=0)
    for place in range(deepest):
        found = _folded(found, place)
    return [".".join(parts) for parts in found]


def _folded(names: list[list[str]], place: int) -> list[list[str]]:
    numbers: dict[tuple[str, ...], list[int]] = {}
    for parts in names:
        numbered = len(parts) > place and parts[place].isdecimal()
        key = (*parts[:place], "", *parts[place + 1 :]) if numbered else tuple(parts)
        numbers.setdefault(key, []).extend([int(parts[place])] if numbered else [])
    return [[*key[:place], ranges(seen), *key[place + 1 :]] if seen else list(key) for key, seen in numbers.items()]


def ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] → "{0–2, 5}", [3] → "3"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(first) if first == last else f"{first}–{last}" for first, last in runs]
    return told[0] if len(told) == 1 and runs[0][0] == runs[0][1] else f"{{{', '.join(told)}}}"
