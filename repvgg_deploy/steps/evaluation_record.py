"""The record that evaluate leaves in a model's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..sidecar import write_json
from ..workspace import ModelFolder
from .evaluate import Evaluation


def keep_evaluation(evaluation: Evaluation, folder: ModelFolder) -> Path:
    """Write it, without confusions, where ``report`` looks for it; returns where that is."""
    networks = [
        replace(one, scores=replace(one.scores, confusion=None)) for one in evaluation.networks
    ]
    write_json(folder.evaluation, replace(evaluation, networks=networks).to_dict())
    return folder.evaluation
