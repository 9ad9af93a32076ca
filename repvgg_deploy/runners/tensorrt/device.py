"""The GPU that engines run on, by pycuda: torch does not have to be installed."""

from __future__ import annotations

import atexit
import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from ...errors import UserError
from ...optional import require
from .pycuda_api import Driver


class GpuDevice:
    """The first GPU that CUDA sees, in its primary context, which torch, CuPy and TensorRT share.

    All threads push one and the same context object: pycuda frees memory only where the context
    object that it was allocated under is current, or in the thread that made that object.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        try:
            driver.init()
            self._context = driver.Device(0).retain_primary_context()
        except driver.Error as error:
            raise UserError(f"the GPU cannot be used: CUDA said: {error}.") from error
        # pycuda's destructor takes the wrong way to let a primary context go, and says so at exit.
        atexit.register(self._context.detach)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Work on this GPU in the block; what was current in the thread before is so again after.

        Raises:
            UserError: CUDA failed in the block.
        """
        try:
            self._context.push()
            try:
                yield
            finally:
                self.driver.Context.pop()
        except self.driver.Error as error:
            raise UserError(
                f"the GPU failed: CUDA said: {error}; start again, since CUDA may not recover "
                "within a process."
            ) from error


@functools.cache
def gpu_device() -> GpuDevice:
    """The one GpuDevice of this process.

    Raises:
        UserError: pycuda is missing or does not load, or CUDA has no usable GPU.
    """
    try:
        driver = importlib.import_module("pycuda.driver")
    except ModuleNotFoundError:
        require("pycuda")
        raise
    except ImportError as error:
        raise UserError(
            f"pycuda is installed but does not load here ({error}); it has to be built against "
            "the CUDA version of this machine: pip install --no-binary pycuda --force-reinstall "
            "pycuda."
        ) from error
    return GpuDevice(cast(Driver, driver))
