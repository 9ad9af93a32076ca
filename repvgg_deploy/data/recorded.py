"""The preprocessing that sidecars record."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..sidecar import lineage, load_sidecar, sidecar_path
from .preprocessing import Preprocessing


def recorded_preprocessing(path: Path) -> Preprocessing | None:
    """What the images were like that an int8 model was calibrated with; None: nothing is recorded.

    An engine's is that of the ONNX model it was built from, which lies beside it.

    Raises:
        UserError: a sidecar is damaged.
    """
    beside = [source.path for source in lineage(path) if Path(source.path).name == source.path]
    for file in (path, *(path.with_name(name) for name in beside)):
        try:
            calibration = load_sidecar(file).get("calibration")
            if calibration is not None:
                return Preprocessing.from_dict(calibration["preprocessing"])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{sidecar_path(file)}: is damaged ({str(error)[:200]}); run the step that makes "
                "it again."
            ) from error
    return None
