"""The state dict inside a checkpoint: known wrappers opened, known prefixes taken off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError

#: Keys under which projects store a state dict, in the order in which they are tried.
RAW = ("state_dict", "model", "model_state_dict", "module")
#: Keys of its exponential moving average, which is what projects that keep one deploy.
EMA = ("state_dict_ema", "model_ema", "ema")
WRAPPERS = (*RAW, *EMA)
#: What DataParallel / DistributedDataParallel and torch.compile put before every key.
PREFIXES = ("module.", "_orig_mod.")
#: Wrappers inside wrappers are opened this far; ``ema`` in ``model`` is the most that was seen.
DEEPEST = 4


def unwrap(content: Any, path: Path, ema: bool | None = None) -> tuple[dict[str, Tensor], str]:
    """The state dict in ``content`` and how it was held, e.g. ``state_dict, prefix module.``.

    ``ema`` chooses between the weights and their moving average; None: the average where the file
    has one.

    Raises:
        UserError: no state dict under any known wrapper, or no moving average where one was asked.
    """
    opened: list[str] = []
    while not _is_state_dict(content):
        name = _known_wrapper(content, ema)
        if name is None or len(opened) == DEEPEST:  # a hostile file may hold itself
            raise UserError(f"{path}: {_unknown(content)}")
        opened.append(name)
        content = content[name]
    averaged = any(name in EMA for name in opened)
    if ema and not averaged:
        raise UserError(
            f"{path}: holds no moving average (none of {', '.join(EMA)}); leave out --ema."
        )
    state = {key: value.detach() for key, value in content.items()}
    held = opened or ["bare state dict"]
    if averaged and ema is None:
        held.append("the moving average, which is what gets deployed; --no-ema takes the other")
    for prefix in _prefixes(state):
        held.append(f"prefix {prefix}")
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, ", ".join(held)


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def _known_wrapper(content: Any, ema: bool | None) -> str | None:
    if not isinstance(content, Mapping):
        return None
    names = RAW if ema is False else (*EMA, *RAW)
    return next((name for name in names if isinstance(content.get(name), Mapping)), None)


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """The known prefixes that all keys share, outermost first."""
    keys, found = list(state), []
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in keys)), None):
        found.append(prefix)
        keys = [key.removeprefix(prefix) for key in keys]
    return found


def _unknown(content: Any) -> str:
    advice = f"save it bare or under one of {', '.join(WRAPPERS)}"
    if isinstance(content, Mapping):
        keys = ", ".join(map(repr, list(content)[:6])) or "none"
        return f"no state dict found (its keys: {keys}); {advice}."
    return f"holds a {type(content).__name__} and no state dict; {advice}."
