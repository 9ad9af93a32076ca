"""The state dict inside a checkpoint: known wrappers opened, known prefixes taken off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError
from .declared import Declared

#: What a state dict holds: tensors, read or not.
Value = Tensor | Declared
#: Keys under which projects store a state dict, in the order in which they are tried.
RAW = ("state_dict", "model", "model_state_dict", "module", "params")
#: Keys of its exponential moving average, which is what projects that keep one deploy.
EMA = ("state_dict_ema", "model_ema", "ema", "params_ema")
WRAPPERS = (*RAW, *EMA)
#: What DataParallel / DistributedDataParallel and torch.compile put before every key.
PREFIXES = ("module.", "_orig_mod.")
#: Wrappers inside wrappers are opened this far; ``ema`` in ``model`` is the most that was seen.
DEEPEST = 4
#: What torch's AveragedModel adds to the keys of its network, which it has under ``module.``.
COUNTER = "n_averaged"


def unwrap(content: Any, path: Path, ema: bool | None = None) -> tuple[dict[str, Value], str, bool]:
    """The state dict in ``content``, how it was held, e.g. ``state_dict, prefix module.``, and
    whether it is a moving average.

    ``ema`` chooses between the weights and their moving average; None: the average where the file
    has one.

    Raises:
        UserError: no state dict under any known wrapper, or no moving average where one was asked.
    """
    found, opened = _open(content, ema)
    if not _is_state_dict(found):
        raise UserError(f"{path}: {_refusal(content, found, opened, ema)}")
    averaged = any(name in EMA for name in opened)
    if ema and not averaged:
        raise UserError(
            f"{path}: holds no moving average (none of {', '.join(EMA)}); leave out --ema."
        )
    state = {key: value for key, value in found.items() if isinstance(value, Value)}
    held = opened or ["bare state dict"]
    if averaged and ema is None:
        held.append("the moving average, which is what gets deployed; --no-ema takes the other")
    if ema is None and (empty := _empty_average(content)):
        held.append(f"its moving average, {empty}, is empty")
    if others := [key for key in found if key not in state]:
        held.append(f"without {_listed(others)}, which hold no tensors")
    if all(key == COUNTER or key.startswith("module.") for key in state) and COUNTER in state:
        held.append(f"without {COUNTER!r}, which counts what was averaged")
        del state[COUNTER]
    for prefix in _prefixes(state):
        held.append(f"prefix {prefix}")
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, ", ".join(held), averaged


def _open(content: Any, ema: bool | None) -> tuple[Any, list[str]]:
    """The innermost content behind known wrappers, and their names."""
    opened: list[str] = []
    while not _is_state_dict(content):
        name = _known_wrapper(content, ema)
        if name is None or len(opened) == DEEPEST:  # a hostile file may hold itself
            break
        opened.append(name)
        content = content[name]
    return content, opened


def _is_state_dict(content: Any) -> bool:
    """Tensors by name; beside them there may be a few plain values, an epoch for example."""
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return False
    others = [value for value in content.values() if not isinstance(value, Value)]
    plain = all(value is None or isinstance(value, (int, float, str)) for value in others)
    return plain and 2 * len(others) < len(content)


def _known_wrapper(content: Any, ema: bool | None) -> str | None:
    if not isinstance(content, Mapping):
        return None
    names = RAW if ema is False else (*EMA, *RAW)
    return next((n for n in names if isinstance(content.get(n), Mapping) and content[n]), None)


def _empty_average(content: Any) -> str | None:
    """The name under which a file has a place for an average and nothing in it."""
    if not isinstance(content, Mapping):
        return None
    nothing = [name for name in EMA if name in content and _is_nothing(content[name])]
    return nothing[0] if nothing else None


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and not value)


def _prefixes(state: Mapping[str, Value]) -> list[str]:
    """The known prefixes that all keys share, outermost first."""
    keys, found = list(state), []
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in keys)), None):
        found.append(prefix)
        keys = [key.removeprefix(prefix) for key in keys]
    return found


def _refusal(content: Any, found: Any, opened: list[str], ema: bool | None) -> str:
    if ema is None and opened and _is_state_dict(_open(content, False)[0]):
        average = next(name for name in opened if name in EMA)
        return (
            f"its moving average, {average!r}, holds no state dict (its keys: {_keys(found)}); "
            "take the weights themselves with --no-ema."
        )
    advice = f"save it bare or under one of {', '.join(WRAPPERS)}"
    if not isinstance(found, Mapping):
        kind = "Tensor" if isinstance(found, Declared) else type(found).__name__
        return f"holds a {kind} and no state dict; {advice}."
    if unnamed := [key for key in found if not isinstance(key, str)]:
        return f"has {_listed(unnamed)} among its keys, which are no names; {advice}."
    others = [key for key, value in found.items() if not isinstance(value, Value)]
    if others and 2 * len(others) < len(found):
        return f"holds {_listed(others)} beside the tensors of a state dict; save it without."
    return f"no state dict found (its keys: {_keys(found)}); {advice}."


def _keys(content: Any) -> str:
    """The first keys of what may hold some."""
    keys = list(content)[:6] if isinstance(content, Mapping) else []
    return ", ".join(map(repr, keys)) or "none"


def _listed(keys: list[Any]) -> str:
    """The first keys, and how many there are beyond."""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(map(repr, keys[:3])) + more
