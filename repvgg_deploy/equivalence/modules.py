"""The proof for torch modules: module against module, each block alone and the outputs as a whole.

The original in float64 is the truth. On its way through the network every block's input is given
to the original block and to the fused one, both in the precision that they have.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import UserError
from ..runners.torch_network import exact_math
from .compare import RATIO_LIMIT, Comparison, compare

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class ModuleProof:
    """``blocks``: each fused block alone; ``outputs``: each tensor that the model returns.

    ``not_run`` are fused blocks that this input does not reach (heads that only training uses).
    """

    blocks: tuple[Comparison, ...]
    outputs: tuple[Comparison, ...]
    not_run: tuple[str, ...]

    @property
    def worst(self) -> Comparison:
        return max((*self.blocks, *self.outputs), key=lambda part: part.ratio)

    @property
    def failures(self) -> list[str]:
        """One line for each thing that does not hold; empty where the proof passes."""
        return [f"{c.name}: {c.reason}" for c in (*self.blocks, *self.outputs) if not c.passed]

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "failures": self.failures}


def prove_modules(
    original: nn.Module, fused: nn.Module, example: Any, *, limit: float = RATIO_LIMIT
) -> ModuleProof:
    """Compare two models on ``example``: a tensor, a tuple of arguments or a dict of keywords.

    Both stay as they are. A float64 model is compared in float32, where it has a rounding error
    that can be measured.

    Raises:
        UserError: training mode, outputs of different structure, or a precision that the device
            cannot compute in.
    """
    original, fused = _unwrapped(original), _unwrapped(fused)
    for model in (original, fused):
        if training := [path for path, module in model.named_modules() if module.training]:
            where = training[0] or "the model"
            raise UserError(f"{where} is in training mode; call eval() on both models first.")
    dtype = next((p.dtype for p in original.parameters() if p.is_floating_point()), torch.float32)
    if dtype == torch.float64:
        dtype = torch.float32
        original, fused = _cast(original, dtype), _cast(fused, dtype)
    if dtype not in _PRECISIONS:
        raise UserError(f"a model in {dtype} cannot be proved; cast it to float32 first.")
    judge = _Judge(_PRECISIONS[dtype], limit)
    given = _mapped(example, dtype)
    exact = _cast(original, torch.float64)
    with exact_math():
        try:
            reference, candidate = _call(original, given), _call(fused, given)
            watched = _watch(exact, original, fused, dtype, judge)
            truth = _call(exact, _mapped(given, torch.float64))
        except RuntimeError as error:
            raise UserError(f"the models cannot run on this example: {error}") from error
    outputs = judge.outputs("output", truth, reference, candidate)
    ran = {comparison.name for comparison in judge.blocks}
    not_run = tuple(path for path in watched if path not in ran)
    return ModuleProof(tuple(judge.blocks), outputs, not_run)


class _Judge:
    """Holds the verdicts on blocks as they come."""

    def __init__(self, precision: str, limit: float) -> None:
        self.precision, self.limit = precision, limit
        self.blocks: list[Comparison] = []

    def outputs(self, name: str, *values: Any) -> tuple[Comparison, ...]:
        """``values`` are truth, reference and candidate."""
        leaves = [dict(_tensors(name, value)) for value in values]
        if not leaves[0].keys() == leaves[1].keys() == leaves[2].keys():
            raise UserError(f"{name}: outputs of different structure; these are two networks.")
        if not leaves[0]:
            raise UserError(f"{name}: no tensor to compare; a proof on nothing proves nothing.")
        arrays = [{key: _array(leaf) for key, leaf in one.items()} for one in leaves]
        options: dict[str, Any] = {"precision": self.precision, "limit": self.limit}
        return tuple(
            compare(key, true, arrays[1][key], arrays[2][key], **options)
            for key, true in arrays[0].items()
        )


def _watch(
    exact: nn.Module, original: nn.Module, fused: nn.Module, dtype: torch.dtype, judge: _Judge
) -> list[str]:
    """Have every block of ``exact`` judge its two counterparts; the paths of these blocks."""
    paths = []
    for path in _changed(original, fused):
        own, new = original.get_submodule(path), fused.get_submodule(path)

        def hook(
            _: nn.Module, args: Any, kwargs: Any, truth: Any,
            path: str = path, own: nn.Module = own, new: nn.Module = new,
        ) -> None:  # fmt: skip
            args, kwargs = _mapped(args, dtype), _mapped(kwargs, dtype)
            values = truth, own(*args, **kwargs), new(*args, **kwargs)
            judge.blocks += judge.outputs(path, *values)

        exact.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
        paths.append(path)
    return paths


def _changed(original: nn.Module, fused: nn.Module) -> Iterator[str]:
    """Paths of the modules that are of another type in ``fused``, the outermost only."""
    others = dict(fused.named_modules(remove_duplicate=False))
    done: list[str] = []
    for path, module in original.named_modules():
        inside = any(path.startswith(f"{outer}.") or not outer for outer in done)
        if not inside and path in others and type(others[path]) is not type(module):
            done.append(path)
            yield path


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without the wrappers that compute nothing themselves."""
    while True:
        wrapped = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model._modules.get("module" if wrapped else "_orig_mod")
        if inner is None:
            return model
        model = inner


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    try:
        return copy.deepcopy(model).to(dtype=dtype)
    except Exception as error:  # whatever a stranger's __deepcopy__ may raise
        raise UserError(f"the model cannot be copied for the proof: {error}") from error


def _call(model: nn.Module, given: Any) -> Any:
    if isinstance(given, Mapping):
        return model(**given)
    return model(*given) if isinstance(given, tuple) else model(given)


def _mapped(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors of a tree in another dtype; what else there is stays."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _mapped(part, dtype) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(part, dtype) for part in value)
    return value


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The floating-point tensors of a tree, by name."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(f"{name}[{key!r}]", part)
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _tensors(f"{name}[{number}]", part)
    elif is_dataclass(value):
        for entry in fields(value):
            yield from _tensors(f"{name}.{entry.name}", getattr(value, entry.name))


def _array(tensor: Tensor) -> NDArray[np.float64]:
    """At least [N, C]."""
    array = np.asarray(tensor.detach().double().cpu().numpy())
    return (
        array.reshape(len(array), -1) if array.ndim == 1 else array.reshape(array.shape or (1, 1))
    )
