"""Does a network fit into half precision? Fused weights have outliers, so it is looked up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import CheckFailed

FP16_MAX = 65504.0

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


def check_half_range(network: nn.Module, samples: NDArray[np.float32]) -> float:
    """The largest |weight|, |bias| or |activation|, on ``samples`` [N, C, H, W].

    Raises:
        CheckFailed: a value that float16 cannot hold.
    """
    peaks = {f"the tensor {k}": float(v.abs().max()) for k, v in network.named_parameters()}

    def record(name: str) -> Hook:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            peaks[f"the output of {name}"] = float(output.abs().max())

        return hook

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    handles = [module.register_forward_hook(record(name)) for name, module in layers]
    with torch.inference_mode():
        network(torch.from_numpy(samples))
    for handle in handles:
        handle.remove()
    where, peak = max(peaks.items(), key=lambda item: item[1])
    if peak > FP16_MAX:
        raise CheckFailed(
            f"{where} reaches {peak:.3g}, beyond float16's largest number {FP16_MAX:g}; "
            "export this network in fp32."
        )
    return peak
