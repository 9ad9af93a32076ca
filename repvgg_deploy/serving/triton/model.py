"""Models as Triton has them: one of each precision and backend, and its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from .pbtxt import Word
from .servable import Servable, Tensor

LABELS_FILE = "labels.txt"
#: Largest batch of an ONNX model, which sets no limit itself; as export's own profile has it.
ONNX_MAX_BATCH = 128


@dataclass(frozen=True)
class Scheduling:
    """How Triton is to run a model: at most ``max_batch`` images at once (None: as many as the
    model takes), ``queue_delay`` microseconds of waiting to fill a batch, and ``instances`` of it
    on every GPU."""

    max_batch: int | None = None
    queue_delay: int = 0
    instances: int = 1


@dataclass(frozen=True)
class TritonModel:
    """A model of the repository: one file, or TensorRT engines of one network for several GPUs."""

    name: str
    members: tuple[Servable, ...]
    scheduling: Scheduling

    @property
    def first(self) -> Servable:
        return self.members[0]

    @property
    def files(self) -> dict[str, Servable]:
        """What goes into the version folder, by file name."""
        if self.first.backend == "onnx":
            return {"model.onnx": self.first}
        if len(self.members) == 1:
            return {"model.plan": self.first}
        return {
            f"model_cc{'_'.join(m.targets)}.plan" if m.targets else "model.plan": m
            for m in self.members
        }

    @property
    def max_batch(self) -> int:
        """Triton's max_batch_size; 0: the batch is part of the tensors' shapes."""
        if not self.first.dynamic:
            return 0
        own = max((p.max for p in self.first.profiles), default=None)
        limits = [limit for limit in (own, self.scheduling.max_batch) if limit is not None]
        return min(limits, default=ONNX_MAX_BATCH)

    @property
    def preferred(self) -> list[int]:
        """The batch sizes that the engine is tuned for; one image is no batch to wait for."""
        return sorted({p.opt for p in self.first.profiles if 1 < p.opt <= self.max_batch})

    @property
    def smallest(self) -> int:
        return min((p.min for p in self.first.profiles), default=1)

    @property
    def classes(self) -> int | None:
        """Classes of the one output [N, classes]; None where Triton could not name a class: it
        takes all of a fixed batch for one answer."""
        (batch, *others), *more = (tensor.shape for tensor in self.first.outputs)
        return others[0] if not more and len(others) == 1 and batch in (-1, 1) else None


def check_batches(models: Sequence[TritonModel], scheduling: Scheduling) -> None:
    """Refuse limits without effect, or below what an engine runs.

    Raises:
        UserError: see above.
    """
    asked = scheduling.max_batch is not None or scheduling.queue_delay
    if asked and not any(model.first.dynamic for model in models):
        raise UserError(
            f"{models[0].first.path}: has a fixed batch; leave out --max-batch and --queue-delay, "
            "or export it without --batch."
        )
    if scheduling.queue_delay and all(model.max_batch <= 1 for model in models):
        raise UserError(
            f"{models[0].first.path}: takes one image at once, so there is no batch to fill; leave "
            "out --queue-delay, or allow a larger batch."
        )
    for model in models:
        if model.first.dynamic and model.max_batch < model.smallest:
            raise UserError(
                f"{model.first.path}: runs no batch below {model.smallest}; give a larger "
                "--max-batch, or build the engine with another --profile."
            )


def configuration(model: TritonModel, labelled: bool) -> dict[str, Any]:
    """The fields of ``config.pbtxt`` (model_config.proto of triton-inference-server/common)."""
    first, batched = model.first, model.first.dynamic
    fields: dict[str, Any] = {
        "name": model.name,
        **_backend(model),
        "max_batch_size": model.max_batch,
        "input": [_tensor(tensor, batched) for tensor in first.inputs],
        "output": [_tensor(tensor, batched) for tensor in first.outputs],
    }
    if labelled:
        fields["output"][0]["label_filename"] = LABELS_FILE
    if model.max_batch > 1:
        batching: dict[str, Any] = {"max_queue_delay_microseconds": model.scheduling.queue_delay}
        if model.preferred:
            batching["preferred_batch_size"] = model.preferred
        fields["dynamic_batching"] = batching
    fields["instance_group"] = [_instances(model)]
    fields["model_warmup"] = [_warmup(model, size) for size in _warmup_sizes(model)]
    fields["version_policy"] = {"latest": {"num_versions": 1}}
    return fields


def _backend(model: TritonModel) -> dict[str, Any]:
    if model.first.backend == "onnx":
        return {"platform": "onnxruntime_onnx", "backend": "onnxruntime"}
    fields: dict[str, Any] = {"platform": "tensorrt_plan", "backend": "tensorrt"}
    if len(model.members) > 1:
        fields["cc_model_filenames"] = [
            {"key": target, "value": file}
            for file, member in model.files.items()
            for target in member.targets
        ]
    return fields


def _tensor(tensor: Tensor, batched: bool) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": Word(tensor.dtype),
        "dims": list(tensor.shape[1:] if batched else tensor.shape),
    }


def _instances(model: TritonModel) -> dict[str, Any]:
    """TensorRT runs on GPUs alone; ONNX Runtime where there is one, else on the CPU."""
    kind = "KIND_GPU" if model.first.backend == "tensorrt" else "KIND_AUTO"
    group: dict[str, Any] = {"count": model.scheduling.instances, "kind": Word(kind)}
    if len(model.first.profiles) > 1:  # Triton uses the first alone, unless told
        group["profile"] = [str(index) for index in range(len(model.first.profiles))]
    return group


def _warmup_sizes(model: TritonModel) -> list[int]:
    """The smallest batch and those that the engine is tuned for."""
    return sorted({model.smallest, *model.preferred}) if model.first.dynamic else [1]


def _warmup(model: TritonModel, size: int) -> dict[str, Any]:
    """A batch of zeros before the model counts as ready, for the first request not to wait."""
    return {
        "name": f"batch of {size}" if model.first.dynamic else "fixed batch",
        "batch_size": size,
        "inputs": [
            {
                "key": tensor.name,
                "value": {
                    "data_type": Word(tensor.dtype),
                    "dims": _tensor(tensor, model.first.dynamic)["dims"],
                    "zero_data": True,
                },
            }
            for tensor in model.first.inputs
        ],
    }
