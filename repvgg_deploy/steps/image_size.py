"""The image size of a model: one for all that its folder holds."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..data.image_set import ImageSet
from ..errors import UserError
from ..models.spec import ArchSpec
from ..models.zoo import ZOO, variant_name
from ..sidecar import load_sidecar
from ..workspace import ModelFolder
from .training_record import trained_preprocessing

#: (height, width) in pixels.
Size = tuple[int, int]


def default_image_size(path: Path, spec: ArchSpec) -> Size:
    """(height, width) that the network in ``path`` was trained at by ``train``, else that its
    variant was published at, 224 for all others."""
    trained = trained_preprocessing(path)
    if trained is not None and trained.size is not None:
        return trained.size
    variant = ZOO.get(variant_name(spec) or "")
    size = variant.image_size if variant else 224
    return size, size


def folder_sizes(folder: ModelFolder) -> dict[str, Size]:
    """The image size of each ONNX model that export and quantize left, by file name, fp32 first."""
    paths = (*folder.onnx_files(), folder.onnx("int8"))
    found = {path.name: recorded_size(path) for path in paths if path.exists()}
    return {name: size for name, size in found.items() if size is not None}


def model_image_size(folder: ModelFolder, spec: ArchSpec) -> Size:
    """That of the ONNX models in the folder, else as :func:`default_image_size`."""
    found = next(iter(folder_sizes(folder).values()), None)
    return found or default_image_size(folder.fused, spec)


def recorded_size(path: Path) -> Size | None:
    """What the sidecar of an ONNX model says; None where it does not, or any size will do."""
    try:
        height, width = load_sidecar(path)["input_shape"][2:]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    sides = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
    return (height, width) if sides else None


def check_calibration_size(
    folder: ModelFolder, images: ImageSet, remade: Collection[str] = ()
) -> None:
    """Refuse to quantize at another image size than that of the float models in the folder.

    ``remade`` are precisions that this run exports afterwards, at the size of the images.

    Raises:
        UserError: no float model there takes images of this size.
    """
    ours = {folder.onnx(precision).name for precision in (*remade, "int8")}
    others = {name: size for name, size in folder_sizes(folder).items() if name not in ours}
    _, height, width = images.shape
    if others and (height, width) not in others.values():
        name, (rows, columns) = next(iter(others.items()))
        raise UserError(
            f"{images.path}: its images are {height}x{width} pixels after preprocessing, and "
            f"{folder.path / name} takes {rows}x{columns}; a model has one image size, so "
            f"preprocess them as in training, or export {name} again with --size "
            f"{height}x{width}."
        )
