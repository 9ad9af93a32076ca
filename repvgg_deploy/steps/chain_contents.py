"""Whether a file is what its own sidecar says: its name, its data files, its precision,
how its checkpoint was read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..artifacts import (
    EngineArtifact,
    FusedArtifact,
    FusedOnnxArtifact,
    OnnxArtifact,
    QuantizedArtifact,
)
from ..engine.compatible import contradiction as engine_contradiction
from ..engine.engine_file import read_engine_file
from ..engine.inspector import inspected_mismatches
from ..engine.precision import LayerTypes, mismatches
from ..errors import RepvggDeployError, UserError
from ..files import sha256_file
from ..quantize.read import read_qdq
from ..reparam.graph.files import load_model
from ..runners.onnx_info import float_types, read_onnx_info
from .weights import Reading

Artifact = FusedArtifact | OnnxArtifact | FusedOnnxArtifact | QuantizedArtifact | EngineArtifact


def contradiction(path: Path, artifact: Artifact) -> str:
    """What differs, beside the file's own hash; empty if nothing does.

    Raises:
        UserError: an exported ONNX model is none, or an engine.
    """
    if not _is_named(path, artifact):
        return f"its sidecar is that of {artifact.file}; give both their names again"
    if isinstance(artifact, FusedOnnxArtifact):
        return changed_data(path.parent, artifact.data)
    if isinstance(artifact, OnnxArtifact):
        found = read_onnx_info(path).precision
        return "" if found == artifact.precision else _claim(artifact.precision, found)
    if isinstance(artifact, QuantizedArtifact):
        return changed_data(path.parent, artifact.data) or _quantized(path, artifact)
    if isinstance(artifact, EngineArtifact):
        differs = engine_contradiction(read_engine_file(path).plan, artifact)
        return f"its sidecar {differs}" if differs else _layers(artifact)
    return _reading(artifact)


def _is_named(path: Path, artifact: Artifact) -> bool:
    """Engines for several GPUs get names of their own in one folder (docs/serving.md):
    fp16.a10.engine may hold what was built as fp16.tensorrt.engine."""
    built = Path(artifact.file)
    if not isinstance(artifact, EngineArtifact):
        return path.name == built.name
    return (path.name.partition(".")[0], path.suffix) == (
        built.name.partition(".")[0],
        built.suffix,
    )


def _reading(artifact: FusedArtifact) -> str:
    try:
        Reading.of(artifact)
    except UserError as error:
        return detail_of(error, artifact.file)
    return ""


def detail_of(error: RepvggDeployError, file: Path | str) -> str:
    """What it says, without the name of the file, beside which it is printed."""
    return str(error).removeprefix(f"{file}: ").removesuffix(".")


def changed_data(folder: Path, data: Mapping[str, str]) -> str:
    """Which of a model's data files is gone or another, empty if none; none is read elsewhere."""
    for name, sha256 in data.items():
        inside = not (Path(name).is_absolute() or ".." in Path(name).parts or "\x00" in name)
        file = folder / name if inside else None
        if file is None or not file.is_file():
            return f"the data file {name} is not here; put it beside the model"
        if sha256_file(file) != sha256:
            return f"the data file {name} is not the one that the sidecar describes"
    return ""


def _quantized(path: Path, artifact: QuantizedArtifact) -> str:
    """The layers and the float type that the record names are those of the graph."""
    model = load_model(path)
    if (found := float_types(model)) != [artifact.float_type]:
        return _claim(f"{artifact.float_type} where it is not quantized", ", ".join(found))
    scales = {layer.name: layer.input_scale for layer in read_qdq(model).layers}
    recorded = {row["name"]: row["input_scale"] for row in artifact.layers if row["quantized"]}
    if scales == recorded:
        return ""
    name = min(k for k in scales.keys() | recorded if scales.get(k) != recorded.get(k))
    return (
        f"its sidecar gives {name} the input scale {recorded.get(name)}, but the model itself says "
        f"{scales.get(name)}"
    )


def _layers(artifact: EngineArtifact) -> str:
    """The tables that prove an engine's precision are judged again."""
    keys = ("name", "kind", "input", "weight", "output")
    rows = [LayerTypes(**{key: layer[key] for key in keys}) for layer in artifact.layers]
    wrong = mismatches(rows, artifact.precision)
    wrong += inspected_mismatches(artifact.inspected or [], artifact.precision)
    return _claim(artifact.precision, wrong[0]) if wrong else ""


def _claim(precision: str, found: str) -> str:
    return f"its sidecar says {precision}, but: {found}"
