"""Runs with the Python of ModelOpt's own venv, which lacks this package: FOLDER is its argument.

python modelopt_worker.py FOLDER    # fp32.onnx, images.npy, options.json -> int8.onnx
"""

import json
import sys
from pathlib import Path

import numpy as np
from modelopt.onnx.quantization import quantize

folder = Path(sys.argv[1])
quantize(
    str(folder / "fp32.onnx"),
    calibration_data=np.load(folder / "images.npy"),
    output_path=str(folder / "int8.onnx"),
    **json.loads((folder / "options.json").read_text()),
)
