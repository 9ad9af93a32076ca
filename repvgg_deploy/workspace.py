"""The engines/ folder: where artifacts go, and which model is current."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .artifacts import FusedArtifact
from .errors import UserError
from .redo_log import POINTER, recover, recover_inside
from .sidecar import read_sidecar, recorded_source, to_json
from .transaction import Transaction

#: Those that export writes itself.
ONNX_PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class ModelFolder:
    """``engines/<model>/``: everything that was made from one checkpoint."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def fused(self) -> Path:
        return self.path / "fused.safetensors"

    @property
    def fused_pth(self) -> Path:
        return self.path / "fused.pth"

    @property
    def fused_pkl(self) -> Path:
        return self.path / "fused.pkl"

    @property
    def fused_onnx(self) -> Path:
        return self.path / "fused.onnx"

    @property
    def bench(self) -> Path:
        return self.path / "bench.json"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def int8_weights(self) -> Path:
        """The fake-quantized network that int8.onnx is held against."""
        return self.path / "int8.safetensors"

    def onnx(self, precision: str) -> Path:
        return self.path / f"{precision}.onnx"

    def claim_engine(self, onnx: Path, flavour: str) -> Path:
        """Where the engine of an ONNX model goes: ``fp16.rtx.engine`` for fp16.onnx.

        Raises:
            UserError: the engine of another model lies there.
        """
        engine = self.path / f"{onnx.stem}.{flavour}.engine"
        recorded = recorded_source(engine)
        if recorded is not None and (self.path / recorded.path).resolve() != onnx.resolve():
            raise UserError(
                f"{engine}: was built from another model ({recorded.path}); move it away, or give "
                "this one its own folder with --name."
            )
        return engine

    def claim_int8(self, source: Path) -> Path:
        """Where the int8 model of fused weights or of an ONNX model goes.

        Raises:
            UserError: the int8 model of another network lies there, or one of unknown origin.
        """
        path = self.onnx("int8")
        recorded = recorded_source(path)
        if recorded is None and path.exists():
            raise UserError(f"{path}: stands there, and nothing says whose it is; move it away.")
        if recorded is not None and (self.path / recorded.path).resolve() != source.resolve():
            raise UserError(
                f"{path}: was made from another model ({recorded.path}); move it away, or give an "
                "ONNX model of your own its own folder with --name."
            )
        return path

    def onnx_files(self) -> list[Path]:
        """The ONNX models that export left, fp32 first; other files are not ours to judge."""
        paths = (self.onnx(precision) for precision in ONNX_PRECISIONS)
        return [path for path in paths if path.exists()]

    def engine_files(self) -> list[Path]:
        return sorted(self.path.glob("*.engine"))

    def read_fused(self) -> FusedArtifact:
        """The fused network's sidecar, checked against its bytes."""
        return read_sidecar(self.fused, FusedArtifact)

    def stale_copies(self, fresh: Collection[Path]) -> set[Path]:
        """Copies of the fused weights that an earlier run made; the weights may be others now."""
        return {self.fused_pth, self.fused_pkl}.difference(fresh)


@dataclass(frozen=True)
class Workspace:
    """A folder of model folders and ``current.json``, which names the one to go on with."""

    root: Path

    @property
    def _pointer(self) -> Path:
        return self.root / POINTER

    def claim(self, name: str, source_sha256: str) -> ModelFolder:
        """The folder for a model made from this checkpoint.

        Raises:
            UserError: the folder holds a model made from another checkpoint, or folders stand where
                fuse has to write or to remove files.
        """
        folder = self._folder(name)
        for path in (folder.fused, folder.fused_pth, folder.fused_pkl, self._pointer):
            if path.is_dir():
                raise UserError(f"{path}: a folder stands there; move it away.")
        source = recorded_source(folder.fused)
        if source is not None and source.sha256 != source_sha256:
            raise UserError(
                f"{folder.path}: holds a model made from another checkpoint, or from an earlier "
                f"state of it ({source.path}); give this one its own name with --name, or remove "
                "that folder."
            )
        return folder

    def claim_graph(self, name: str, source: Path) -> Path:
        """Where the fused form of an ONNX model goes; its folder may be a checkpoint's as well.

        Raises:
            UserError: the fused form of another file lies there.
        """
        folder = self._folder(name)
        recorded = recorded_source(folder.fused_onnx)
        if recorded is not None and Path(recorded.path).resolve() != source.resolve():
            raise UserError(
                f"{folder.fused_onnx}: was made from another model ({recorded.path}); give this "
                "one its own name with --name, or a place with --output."
            )
        return folder.fused_onnx

    def folder_of(self, onnx: Path, name: str | None) -> ModelFolder:
        """Where what is made of a user's own ONNX model goes: beside it, if that is in here.

        Raises:
            UserError: a fused checkpoint has that name by chance.
        """
        inside = onnx.resolve().parent.parent == self.root.resolve()
        own = onnx.resolve().parent.name if inside else onnx.stem
        folder = self._folder(own if name is None else name)
        if name is None and not inside and folder.fused.exists():
            raise UserError(
                f"{folder.path}: holds a fused checkpoint; name the folder for this model's engine "
                "with --name."
            )
        return folder

    def set_current(self, folder: ModelFolder, change: Transaction) -> None:
        """Make ``folder`` the current model, as a part of ``change`` to it."""
        change.place(self._pointer).write_text(to_json({"model": folder.name}) + "\n")

    def folder(self, name: str | None = None) -> ModelFolder:
        """The named model's folder, or the current one's, whatever it holds.

        Raises:
            UserError: nothing is current, or there is no such folder.
        """
        folder = self._named(name)
        if not folder.path.is_dir():
            raise UserError(
                f"{folder.path}: no such folder; run repvgg-deploy fuse CHECKPOINT first, or "
                "repvgg-deploy export MODEL.onnx --trt fp16."
            )
        return folder

    def model(self, name: str | None = None) -> ModelFolder:
        """The named model, or the current one: what was made from a checkpoint.

        Raises:
            UserError: nothing fused yet, or no such model.
        """
        folder = self._named(name)
        if not folder.fused.exists():
            raise UserError(
                f"{folder.fused}: no such file; nothing is fused under that name yet, so run "
                "repvgg-deploy fuse CHECKPOINT first."
            )
        return folder

    def _named(self, name: str | None) -> ModelFolder:
        return self._folder(self._current_name() if name is None else name)

    def _folder(self, name: str) -> ModelFolder:
        if not re.fullmatch(r"(?!\.{1,2}$|current\.json$| *$)[^/\\\x00-\x1f]{1,100}", name):
            raise UserError(f"{name!r} is no model name; give a plain folder name with --name.")
        recover(self.root / name)
        return ModelFolder(self.root / name)

    def _current_name(self) -> str:
        recover_inside(self.root)
        try:
            return str(json.loads(self._pointer.read_text())["model"])
        except FileNotFoundError:
            raise UserError(
                f"{self.root}: no checkpoint is fused here yet; run repvgg-deploy fuse CHECKPOINT "
                "first, or name a model with --model (export MODEL.onnx --trt needs neither)."
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self._pointer}: is damaged; name the model with --model, or fuse again."
            ) from error
