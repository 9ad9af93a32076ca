"""The proof for torch modules: module against module, each block alone and the outputs as a whole.

The original in float64 is the truth. On its way through the network every block's input is given
to the original block and to the fused one, both in the precision that they have. What rounding may
do is what it does to the original, or what rounding the original's weights would do to it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..runners.torch_network import exact_math
from .compare import (
    RATIO_LIMIT,
    UNIT_ROUNDOFF,
    Comparison,
    compare,
    failure_lines,
    furthest,
    nearest,
)
from .discrete import Agreement, agree
from .module_weights import check_module_weights
from .trees import array, mapped, tensors
from .weights import WeightCheck

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class ModuleProof:
    """``blocks``: each fused block alone; ``outputs``: each tensor of floats or complex numbers
    that the model returns; ``discrete``: those of integers and bools.

    ``weights``: whether the fused weights are those that the original's fold to. ``not_run`` are
    fused blocks that this input does not reach (heads that only training uses).
    """

    blocks: tuple[Comparison, ...]
    outputs: tuple[Comparison, ...]
    discrete: tuple[Agreement, ...]
    not_run: tuple[str, ...]
    weights: WeightCheck

    @property
    def worst(self) -> Comparison:
        worst = furthest((*self.blocks, *self.outputs))
        assert worst is not None  # a model without an output of floats is refused
        return worst

    @property
    def failures(self) -> list[str]:
        """One line for each thing that does not hold, the worst first; empty where it passes."""
        wrong = [part for part in self.discrete if not part.passed]
        return [
            *failure_lines((*self.blocks, *self.outputs)),
            *(f"{part.name}: {part.reason}" for part in wrong),
            *self.weights.failures,
        ]

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
    if dtype not in (torch.float64, *_PRECISIONS):
        raise UserError(f"a model in {dtype} cannot be proved; cast it to float32 first.")
    given_models, unit = (original, fused), float(torch.finfo(dtype).eps) / 2
    if dtype == torch.float64:
        dtype = torch.float32
        original, fused = _cast(original, dtype), _cast(fused, dtype)
    judge = _Judge(_PRECISIONS[dtype], limit)
    given = mapped(example, dtype)
    exact = _cast(original, torch.float64)
    rounded = _rounded(exact, UNIT_ROUNDOFF[judge.precision])
    with exact_math():
        try:
            reference, candidate = _call(original, given), _call(fused, given)
            watched = _watch(exact, rounded, original, fused, dtype, judge)
            precise = mapped(given, torch.float64)
            truth, off = _call(exact, precise), _call(rounded, precise)
        except RuntimeError as error:
            raise UserError(f"the models cannot run on this example: {error}") from error
    weights = check_module_weights(*given_models, unit)
    outputs, discrete = judge.outputs("output", truth, reference, candidate, off)
    ran = {comparison.name for comparison in judge.blocks}
    not_run = tuple(path for path in watched if path not in ran)
    return ModuleProof(tuple(judge.blocks), outputs, discrete, not_run, weights)


class _Judge:
    """Holds the verdicts on blocks as they come."""

    def __init__(self, precision: str, limit: float) -> None:
        self.precision, self.limit = precision, limit
        self.blocks: list[Comparison] = []

    def outputs(
        self, name: str, *values: Any
    ) -> tuple[tuple[Comparison, ...], tuple[Agreement, ...]]:
        """Verdicts on floats, and on the rest.

        ``values`` are truth, reference, candidate and the truth with rounded weights.
        """
        leaves = [dict(tensors(name, value)) for value in values]
        if any(one.keys() != leaves[0].keys() for one in leaves):
            raise UserError(f"{name}: outputs of different structure; these are two networks.")
        floats = [key for key, tensor in leaves[0].items() if tensor.is_floating_point()]
        if not floats:
            raise UserError(
                f"{name}: no tensor of floats to compare; a proof on nothing proves nothing."
            )
        return (
            tuple(self._compare(key, *(one[key] for one in leaves)) for key in floats),
            tuple(
                self._agree(key, *(one[key] for one in leaves))
                for key in leaves[0]
                if key not in floats
            ),
        )

    def _compare(self, name: str, *tensors: Tensor) -> Comparison:
        truth, own, new, rounded = map(array, tensors)
        options: dict[str, Any] = {"precision": self.precision, "limit": self.limit}
        each = (compare(name, truth, reference, new, **options) for reference in (own, rounded))
        return nearest(each)

    def _agree(self, name: str, *tensors: Tensor) -> Agreement:
        truth, own, new, rounded = ([tensor.cpu().numpy()] for tensor in tensors)
        each = (agree(name, truth, reference, new, self.limit) for reference in (own, rounded))
        return max(each, key=lambda agreement: agreement.limit)


def _rounded(exact: nn.Module, unit: float) -> nn.Module:
    """A copy with weights as far off as rounding them could put them.

    Where branches cancel, a fused kernel has to round what the branches hold exactly.
    """
    rounded = copy.deepcopy(exact)
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.no_grad():
        for tensor in (*rounded.parameters(), *rounded.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, device="cpu") * 2 - 1
                tensor.mul_(1 + unit * noise.to(tensor))
    return rounded


def _watch(
    exact: nn.Module,
    rounded: nn.Module,
    original: nn.Module,
    fused: nn.Module,
    dtype: torch.dtype,
    judge: _Judge,
) -> list[str]:
    """Have every block of ``exact`` judge its two counterparts; the paths of these blocks."""
    paths = []
    for path in _changed(original, fused):
        others = [model.get_submodule(path) for model in (original, fused, rounded)]

        def hook(
            _: nn.Module, args: Any, kwargs: Any, truth: Any,
            path: str = path, others: list[nn.Module] = others,
        ) -> None:  # fmt: skip
            own, new, off = others
            given = mapped(args, dtype), mapped(kwargs, dtype)
            reference, candidate = (model(*given[0], **given[1]) for model in (own, new))
            floats, _rest = judge.outputs(path, truth, reference, candidate, off(*args, **kwargs))
            judge.blocks += floats

        exact.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
        paths.append(path)
    return paths


def _changed(original: nn.Module, fused: nn.Module) -> Iterator[str]:
    """Paths of the modules that are of another type in ``fused``, the outermost only.

    Not of TorchScript modules, which fuse leaves: a copy of a traced one has another type.
    """
    others = dict(fused.named_modules(remove_duplicate=False))
    done: list[str] = []
    for path, module in original.named_modules():
        inside = any(path.startswith(f"{outer}.") or not outer for outer in done)
        other = others.get(path, module)
        is_script = isinstance(module, torch.jit.ScriptModule)
        if not inside and not is_script and type(other) is not type(module):
            done.append(path)
            yield path


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without the wrappers that compute nothing themselves."""
    while True:
        wrapped = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = dict(model.named_children()).get("module" if wrapped else "_orig_mod")
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
