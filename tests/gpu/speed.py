"""Fused against unfused in time, by the ways that torch has to run a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repvgg_deploy.bench.measure import Step, measure
from repvgg_deploy.bench.stats import speedup, summarize
from repvgg_deploy.runners.torch_network import no_tf32
from repvgg_deploy.steps.bench_subjects import FUSED

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def eager(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    return lambda: network(images)


def cuda_graph(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Recorded once, launched as one; three runs before it, on a stream of their own, as torch's
    documentation has it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = network(images)

    def launch() -> Tensor:
        graph.replay()
        return output

    return launch


def compiled(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    run = torch.compile(network)
    return lambda: run(images)


MODES = {"eager": eager, "CUDA graph": cuda_graph, "torch.compile": compiled}


@torch.inference_mode()
def race(
    networks: Mapping[str, nn.Module],
    mode: str,
    images: Tensor,
    layout: str,
    duration: float,
) -> dict[str, Any]:
    """Milliseconds a batch, and how many times faster the fused network is, with its interval."""

    def step(network: nn.Module) -> Step:
        placed = copy.deepcopy(network).to(images.device, images.dtype)
        placed = placed.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        run = MODES[mode](placed, images.to(memory_format=LAYOUTS[layout]))

        def once() -> None:
            run()
            if images.is_cuda:
                torch.cuda.synchronize()

        once()  # compiling is no part of the duration
        return once

    with no_tf32():
        seconds = measure({label: step(network) for label, network in networks.items()}, duration)
    ratios = {label: speedup(seconds[label], seconds[FUSED]) for label in seconds if label != FUSED}
    return {
        "mode": mode,
        "layout": layout,
        "dtype": str(images.dtype).removeprefix("torch."),
        "shape": list(images.shape),
        "median_ms": {label: summarize(times).median * 1e3 for label, times in seconds.items()},
        "samples": len(seconds[FUSED]),
        "images_per_second": {
            label: len(images) / summarize(times).median for label, times in seconds.items()
        },
        "fused_is_faster_by": {
            label: [ratio.value, ratio.low, ratio.high] for label, ratio in ratios.items()
        },
    }
