"""Triton's own schema, engines as a GPU machine leaves them, and Triton's rules for a model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from repvgg_deploy.artifacts import EngineArtifact, Source
from repvgg_deploy.sidecar import store
from repvgg_deploy.workspace import ModelFolder


def _schema() -> Any:
    """tritonclient's ``model_config_pb2``, without its package, whose imports want grpc."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None, "the extra test brings tritonclient"
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"  # type: ignore[index]
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCHEMA = _schema()


def parse(text: str) -> Any:
    """A ModelConfig; an unknown field, enum value or escape raises."""
    return text_format.Parse(text, SCHEMA.ModelConfig())


def read_config(model: Path) -> Any:
    """The configuration of a model folder, held to what Triton checks when it loads one
    (triton-inference-server/core, model_config_utils.cc)."""
    config = parse((model / "config.pbtxt").read_text())
    check_rules(config)
    assert config.name == model.name
    newest = max((p for p in model.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    default = {"tensorrt": "model.plan", "onnxruntime": "model.onnx"}[config.backend]
    files = {*config.cc_model_filenames.values()} or {default}
    assert files <= {path.name for path in newest.iterdir()}
    for output in config.output:
        if output.label_filename:
            assert (model / output.label_filename).is_file()
    return config


def check_rules(config: Any) -> None:
    assert (config.platform, config.backend) in {
        ("tensorrt_plan", "tensorrt"),
        ("onnxruntime_onnx", "onnxruntime"),
    }
    assert config.max_batch_size >= 0
    for tensor in (*config.input, *config.output):
        assert tensor.name
        assert tensor.data_type != SCHEMA.TYPE_INVALID
        assert len(tensor.dims) > 0
        assert all(dim >= 1 or dim == -1 for dim in tensor.dims)
    for size in config.dynamic_batching.preferred_batch_size:
        assert 0 < size <= config.max_batch_size
    inputs = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.input}
    for sample in config.model_warmup:
        assert 1 <= sample.batch_size <= max(1, config.max_batch_size)
        assert {n: (i.data_type, list(i.dims)) for n, i in sample.inputs.items()} == inputs
        assert all(i.WhichOneof("input_data_type") for i in sample.inputs.values())
    for group in config.instance_group:
        assert not group.profile or config.platform == "tensorrt_plan"


def write_engine(folder: ModelFolder, file: str = "fp16.tensorrt.engine", **changes: Any) -> Path:
    """An engine and its sidecar as export leaves them; its bytes are not TensorRT's."""
    fused = folder.read_fused()
    batch = changes.pop("batch", (1, 32, 128))
    content = changes.pop("content", file).encode()
    fields: dict[str, Any] = {
        "file": file,
        "source": Source("fp16.onnx", "b" * 64),
        "lineage": [
            {"path": "fused.safetensors", "sha256": fused.sha256},
            {"path": "ckpt.pth", "sha256": fused.source.sha256},
        ],
        "flavour": "tensorrt",
        "version": "10.13.3.9",
        "platform": "linux-x86_64",
        "targets": ["sm86"],
        "gpu": {"name": "NVIDIA A10"},
        "precision": "fp16",
        "layers": [],
        "inspected": None,
        "inputs": [{"name": "input", "dtype": "fp16", "shape": [-1, 3, 32, 32]}],
        "outputs": [{"name": "logits", "dtype": "fp16", "shape": [-1, 5]}],
        "profiles": [profile(*batch)],
        "options": {"hardware_compatible": False, "version_compatible": False},
        "warnings": [],
        "proof": {"passed": True},
        **changes,
    }
    path = folder.path / file
    store(
        path,
        lambda temporary: temporary.write_bytes(content),
        lambda sha256: EngineArtifact(sha256=sha256, **fields),
    )
    return path


def profile(*batch: int) -> dict[str, dict[str, list[int]]]:
    """A profile of three batch sizes for a 32 px image."""
    keys = ("min", "opt", "max")
    return {"input": {key: [n, 3, 32, 32] for key, n in zip(keys, batch, strict=True)}}
