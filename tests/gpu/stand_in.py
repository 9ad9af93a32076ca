"""The runner on a real GPU without TensorRT: its engines are one kernel of torch."""

from __future__ import annotations

import functools
import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ..engine_files import Machine, fake_machine
from ..fake_tensorrt import FakeContext, Shape


def machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """pycuda, CUDA and the GPU are real; TensorRT is a stand-in whose engines give y = 2 x."""
    driver = importlib.import_module("pycuda.driver")
    machine = fake_machine(monkeypatch)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr(FakeContext, "execute_async_v3", double)
    torch.cuda.init()
    return machine


def double(context: FakeContext, stream_handle: int) -> bool:
    """IExecutionContext.execute_async_v3: one kernel that allocates nothing, as graphs need it."""
    x = tensor_at(context.addresses["x"], context.shapes["x"])
    y = tensor_at(context.addresses["y"], context.get_tensor_shape("y"))
    with torch.cuda.stream(torch.cuda.ExternalStream(stream_handle)):
        torch.add(x, x, out=y)
    return True


@functools.cache
def tensor_at(address: int, shape: Shape) -> Tensor:
    """float32 numbers on the GPU. Cached, so that nothing but the kernel is left to be recorded."""
    interface = {"shape": shape, "typestr": "<f4", "data": (address, False), "version": 2}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device="cuda")
