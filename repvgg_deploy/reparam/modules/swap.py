"""A block becomes its fused self where it stands, once its own forward agrees."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from ..linear import NotOneConv
from .candidate import Candidate
from .fold import Folded, exact, kernels

#: A fused block may differ this much in float64 from its own forward, as in equivalence.proof.
EXACT_LIMIT = 1e-10
#: What a forward does to large values only, as a clamp does, shows on an input so much louder.
_LOUD = 100.0

_TENSOR_DICTS = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class FusedBlock(nn.Sequential):
    """One convolution, then what the block had after its sum, under the names that it had."""


def build_layer(candidate: Candidate, folded: Folded) -> nn.Conv2d | nn.Linear:
    """The fused layer as the block's own convolution is: dtype, device, memory format, gradient.

    Raises:
        NotOneConv: the fused weights overflow that dtype.
    """
    own: list[Tensor] = [step.weight for step in kernels(candidate)]
    like = max(own or candidate.module.parameters(), key=lambda weight: weight.numel())
    last = torch.channels_last
    is_last = any(
        w.ndim == 4 and w.is_contiguous(memory_format=last) and not w.is_contiguous() for w in own
    )
    layer = exact_layer(folded)
    for name, parameter in list(layer.named_parameters()):
        value = parameter.detach().to(like.device, like.dtype)
        if value.ndim == 4 and is_last:
            value = value.contiguous(memory_format=last)
        if not bool(value.isfinite().all()):
            dtype = str(like.dtype).removeprefix("torch.")
            raise NotOneConv(f"the fused {name} overflows {dtype}")
        setattr(layer, name, nn.Parameter(value, requires_grad=like.requires_grad))
    return layer


def exact_layer(folded: Folded) -> nn.Conv2d | nn.Linear:
    """The fold as a float64 layer in eval mode."""
    conv = folded.conv
    layer: nn.Conv2d | nn.Linear
    if folded.is_linear:
        layer = nn.Linear(conv.in_channels, conv.out_channels, device="meta")
        weight = conv.kernel.flatten(1)
    else:
        layer = nn.Conv2d(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation, conv.groups, device="meta",
        )  # fmt: skip
        weight = conv.kernel
    layer.weight, layer.bias = nn.Parameter(weight.contiguous()), nn.Parameter(conv.bias)
    layer.eval()
    return layer


def become(module: nn.Module, layer: nn.Module, name: str, tail: dict[str, nn.Module]) -> None:
    """Turn ``module`` into its fused self: object, hooks and plain attributes stay.

    Without a ``name`` for the convolution the block becomes one itself.
    """
    own = module.__dict__
    if name:
        kind: type[nn.Module] = FusedBlock
        own["_modules"] = type(own["_modules"])({name: layer, **tail})
        own["_parameters"] = type(own["_parameters"])()
    else:
        kind = type(layer)
        common = vars(nn.Module()).keys() - set(_TENSOR_DICTS)
        own.update({key: value for key, value in vars(layer).items() if key not in common})
    for hidden in (*own["_modules"], *own["_parameters"], "_compiled_call_impl"):
        own.pop(hidden, None)  # attributes shadow modules and parameters
    module.__class__ = kind


def check_forward(candidate: Candidate, folded: Folded) -> tuple[str, ...]:
    """Run a block's own forward against its fold, both in float64, on a small input and a loud one.

    Returns the names of the modules that follow the sum: all that the block has of its family's,
    or only those with parameters where the others have no effect (Apple's large-kernel block calls
    its activation and drops the result).

    Raises:
        NotOneConv: they differ, or the forward cannot be run.
    """
    x = _input(folded).to(folded.conv.kernel.device)
    inputs = (x, _LOUD * x)
    try:
        block = _exact_copy(candidate.module)
        expected = [block(one) for one in inputs]
    except Exception as error:  # whatever a stranger's forward may raise
        raise NotOneConv(
            f"its own forward could not be run on {tuple(x.shape)}: {error}"
        ) from error
    every = {name: block.get_submodule(name) for name in candidate.tail}
    with_parameters = {
        name: child for name, child in every.items() if next(child.parameters(), None) is not None
    }
    for tail in (every, with_parameters):
        fused = nn.Sequential(exact_layer(folded), *tail.values())
        results = map(fused, inputs)
        if all(_agree(*pair, folded.size) for pair in zip(results, expected, strict=True)):
            return tuple(tail)
    raise NotOneConv("its own forward does something else than the sum of its branches")


def _agree(actual: object, expected: object, size: Tensor) -> bool:
    if not (isinstance(actual, Tensor) and isinstance(expected, Tensor)):
        return False
    if actual.shape != expected.shape or expected.shape[1] != len(size):
        return False
    axes = [axis for axis in range(expected.ndim) if axis != 1]
    limit = EXACT_LIMIT * torch.maximum(expected.abs().amax(axes), size).clamp_min(1e-300)
    return bool(((actual - expected).abs().amax(axes) <= limit).all())


def _input(folded: Folded) -> Tensor:
    conv = folded.conv
    shape = [2, conv.in_channels]
    if not folded.is_linear:  # large enough for borders and an inside
        sizes = zip(conv.kernel_size, conv.dilation, strict=True)
        shape += [2 * d * (k - 1) + 3 + axis for axis, (k, d) in enumerate(sizes)]
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")


def _exact_copy(module: nn.Module) -> nn.Module:
    """A float64 copy without hooks, which may hold on to anything."""
    hooks = {name for name in vars(nn.Module()) if "hooks" in name}
    memo: dict[int, object] = {
        id(value): OrderedDict()
        for child in module.modules()
        for name, value in vars(child).items()
        if name in hooks
    }
    memo.update({id(p): nn.Parameter(exact(p), requires_grad=False) for p in module.parameters()})
    return copy.deepcopy(module, memo).to(exact(next(module.parameters())).device).double()
