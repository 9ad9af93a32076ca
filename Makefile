# make demo and make test work on a fresh machine with Python >= 3.10 and PyPI.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test bench docs lint gpu-test clean
.DELETE_ON_ERROR:

# The rtx extra holds no package where NVIDIA ships no wheel, and says so. The bindings of TensorRT
# are for the contract test alone (docs/contributing.md), and lie outside of site-packages.
$(VENV)/installed: setup.cfg constraints.txt tests/tensorrt_wheels.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e ".[cpu,openvino,report,train,test,docs]"
	$(PIP) -e ".[rtx]" || echo "tensorrt-rtx could not be installed: going on without engines"
	@$(BIN)/python -c "import tensorrt_rtx" 2>/dev/null \
	  || echo "no tensorrt-rtx wheel for this platform: no TensorRT-RTX engine will be built"
	@$(BIN)/python -m tests.tensorrt_wheels
	touch $@

demo: $(VENV)/installed
	$(BIN)/repvgg-deploy demo

test: $(VENV)/installed lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Speed and memory: never part of the tests, since machines are noisy.
bench: $(VENV)/installed
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.engine_matrix

# What needs a GPU: run by hand on a machine that has one. The tests, then the measurements.
GPU_RESULTS ?= docs/results/gpu-$(shell date +%Y%m%d-%H%M%S).json
gpu-test: $(VENV)/installed
	$(BIN)/python -m pytest tests/gpu -v
	$(BIN)/python -m tests.gpu.measure --out $(GPU_RESULTS)

# Files made by code: the CLI reference and the figure.
docs: $(VENV)/installed
	$(BIN)/python docs/make_cli_reference.py
	$(BIN)/python docs/make_schemas.py
	$(BIN)/python docs/make_figure.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
