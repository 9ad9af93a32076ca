"""The processes of a run, by Lightning Fabric: one, or several that torchrun or we start."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import RepvggDeployError, UserError
from ..optional import require
from .recipe import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Accelerator = Literal["auto", "cpu", "cuda"]

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
#: A process waits this long for the others: rank 0 alone writes meanwhile, and the machine may have
#: other work.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Launch:
    """``devices``: processes on this machine, a GPU each on CUDA. torchrun has its own count."""

    accelerator: Accelerator = "auto"
    devices: int = 1


class StoppedElsewhere(UserError):
    """Another process ended the run and says why."""

    def __init__(self) -> None:
        super().__init__("training stopped, since another process did; it says why.")


class Processes:
    """This process among those of the run."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank: int = fabric.global_rank
        self.world: int = fabric.world_size
        self.device: torch.device = fabric.device

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def first_only(self, action: Callable[[], None]) -> None:
        """Run ``action`` in the first process while the others wait.

        Raises:
            RepvggDeployError: the action's, in the first process; in the others StoppedElsewhere.
        """
        error = None
        if self.rank == 0:
            try:
                action()
            except RepvggDeployError as raised:
                error = raised
        failed = self.fabric.broadcast(error is not None)
        if error is not None:
            raise error
        if failed:
            raise StoppedElsewhere

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """Around what all of them do: where one fails, the others end too.

        Raises:
            StoppedElsewhere: the connection to another broke.
        """
        try:
            yield
        except BaseException as error:
            for child in getattr(self.fabric.strategy.launcher, "procs", []):
                child.terminate()  # over NCCL, it would wait for us
            if self.world > 1 and _connection_broke(error):
                raise StoppedElsewhere from error
            raise


def start(launch: Launch, precision: Precision) -> Processes:
    """Join the processes that torchrun started, or start as many as ``launch`` asks for: those run
    this command anew and come here themselves.

    Raises:
        UserError: no CUDA device, or too few; fp16 without CUDA; the extra is not installed; the
            others do not come.
    """
    fabric_module = require("lightning_fabric")
    strategies = require("lightning_fabric.strategies")
    device = _device_type(launch.accelerator)
    if precision == "fp16" and device == "cpu":
        raise UserError(
            "fp16 training needs a CUDA GPU, and this run is on the CPU; take bf16 or fp32."
        )
    devices, nodes = _local_processes(launch), _machines()
    if device == "cuda" and devices > torch.cuda.device_count():
        raise UserError(
            f"{devices} processes need a GPU each, and there are {torch.cuda.device_count()}; "
            "start fewer."
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = (
        strategies.DDPStrategy(timeout=_PATIENCE, gradient_as_bucket_view=True)
        if devices * nodes > 1
        else "auto"
    )
    fabric = fabric_module.Fabric(
        accelerator=device,
        strategy=strategy,
        devices=devices,
        num_nodes=nodes,
        precision=_PRECISIONS[precision],
    )
    try:
        fabric.launch()
    except dist.DistError as error:
        raise UserError(
            f"the {devices * nodes} processes of the run do not find one another, or one has ended "
            f"({str(error).splitlines()[0][:200]}); start them again."
        ) from error
    return Processes(fabric)


def launched_rank() -> int:
    """This process's number among those of torchrun or :func:`start`, before it has joined them."""
    name = "RANK" if dist.is_torchelastic_launched() else "LOCAL_RANK"
    return int(os.environ.get(name, "0"))


def _device_type(accelerator: Accelerator) -> str:
    available = torch.cuda.is_available()
    if accelerator == "cuda" and not available:
        raise UserError(
            "torch finds no CUDA device here; train on the CPU, or install a build of torch for "
            "CUDA and NVIDIA's driver."
        )
    return "cuda" if available and accelerator != "cpu" else "cpu"


def _local_processes(launch: Launch) -> int:
    if not dist.is_torchelastic_launched():
        return launch.devices
    count = int(os.environ["LOCAL_WORLD_SIZE"])
    if launch.devices not in (1, count):
        raise UserError(
            f"torchrun has started {count} processes on this machine, and {launch.devices} are "
            "asked for; leave the count to torchrun."
        )
    return count


def _machines() -> int:
    if not dist.is_torchelastic_launched():
        return 1
    return int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])


def _connection_broke(error: BaseException) -> bool:
    """gloo has no type for it, only words."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in words)
    )
