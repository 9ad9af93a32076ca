"""What train says before, during and after a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..sqnr import sqnr_text
from .text import count_text

if TYPE_CHECKING:
    from ..quantize.quality import Likeness
    from ..steps.train import Setup
    from ..train.processes import Processes
    from ..train.recipe import Recipe
    from ..train.record import Epoch, Initial

#: More files or tensors than this would bury the rest.
_LISTED = 5


def start_lines(setup: Setup, processes: Processes) -> list[str]:
    """What is trained, on what, and how, with the reasons for what was chosen."""
    from ..models.zoo import describe

    network, data, how = setup.network, setup.data, setup.data.train.preprocessing
    parameters = sum(one.numel() for one in network.parameters())
    lines = [f"{describe(network.spec)}: {parameters:,} parameters in training"]
    lines += initial_lines(setup.initial)
    lines += data.notes
    lines += [f"corrupt: {name}" for name in data.corrupt[:_LISTED]]
    if len(data.corrupt) > _LISTED:
        lines.append(f"corrupt: {len(data.corrupt) - _LISTED} more; train.json lists them")
    if not any(note.startswith("preprocessing: ") for note in data.notes):
        lines.append(f"preprocessing: {how}")
    lines.append(f"augmentation: {setup.augmentation}")
    lines.append(f"recipe: {recipe_text(setup.recipe)}")
    processes_text = "1 process" if processes.world == 1 else f"{processes.world} processes"
    lines.append(f"device: {processes.device}, {processes_text}")
    return lines


def initial_lines(initial: Initial | None) -> list[str]:
    """Which tensors came from ``--init``, and which are new and why."""
    if initial is None:
        return ["started from: fresh weights"]
    lines = [
        f"started from: {initial.path} ({initial.family}), "
        f"{count_text(len(initial.taken), 'tensor')} taken"
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in initial.fresh.items():
        reasons.setdefault(reason, []).append(name)
    lines += [f"new: {_some(names)}: {reason}" for reason, names in reasons.items()]
    return lines


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(names[:_LISTED])
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"


def recipe_text(recipe: Recipe) -> str:
    """``12 epochs, lr 0.1, momentum 0.9, ...``, without what is switched off."""
    parts = [
        count_text(recipe.epochs, "epoch"),
        f"batch {recipe.batch}",
        f"learning rate {recipe.lr:g}",
    ]
    if recipe.warmup_epochs:
        parts.append(f"warm-up over {recipe.warmup_epochs:g}")
    decay = "custom L2" if recipe.custom_l2 else "weight decay"
    parts += [f"momentum {recipe.momentum:g}", f"{decay} {recipe.weight_decay:g}"]
    for name in ("label_smoothing", "mixup", "ema"):
        if value := getattr(recipe, name):
            parts.append(f"{name.replace('_', ' ')} {value:g}")
    parts.append(recipe.precision)
    parts += [
        name.replace("_", " ") for name in ("channels_last", "recompute") if getattr(recipe, name)
    ]
    return ", ".join([*parts, f"seed {recipe.seed}"])


def epoch_line(epoch: Epoch, epochs: int) -> str:
    """``epoch 3/12  loss 0.4312  val 89.12 % (ema 89.40 %)  2,841 img/s  21 s``"""
    parts = [f"epoch {epoch.epoch}/{epochs}", f"loss {epoch.loss:.4f}"]
    if epoch.val_top1 is not None:
        average = "" if epoch.ema_top1 is None else f" (ema {epoch.ema_top1:.2f} %)"
        parts.append(f"val {epoch.val_top1:.2f} %{average}")
    parts += [f"{epoch.images_per_second:,.0f} img/s", f"{epoch.seconds:.0f} s"]
    return "  ".join(parts)


def verdict_text(epochs: Sequence[Epoch], best: Epoch | None) -> str:
    """The end of the line of a checkpoint."""
    if not epochs:
        return "nothing left to train"
    if best is None:
        return f"loss {epochs[-1].loss:.4f} after epoch {epochs[-1].epoch}; nothing to validate on"
    return f"best of {count_text(len(epochs), 'epoch')}: epoch {best.epoch}, {best_text(best)}"


def best_text(best: Epoch) -> str:
    """``top-1 89.40 % of the moving average``"""
    if best.ema_top1 is None:
        return f"top-1 {best.val_top1:.2f} %"
    return f"top-1 {best.ema_top1:.2f} % of the moving average"


def int8_line(before: Likeness, after: Likeness) -> str:
    """What training for int8 brought beside post-training quantization."""
    return f"int8 without training: {_likeness(before)}; with: {_likeness(after)}"


def _likeness(quality: Likeness) -> str:
    parts = [sqnr_text(quality.sqnr_db)]
    if quality.agreement is not None:
        parts.append(f"{quality.agreement:.2%} of the answers as in float")
    if quality.top1_drop is not None:
        parts.append(f"top-1 {0 - quality.top1_drop:+.2f} points")
    return ", ".join(parts)
