# `make demo` and `make test` each do all the set-up on a fresh machine with Python 3.11 to 3.13 (TensorFlow 2.21, which
# constraints.txt names, has no wheel for 3.14).
PYTHON ?= python3
# The backend's extra for `make demo`: cpu, cuda (TensorFlow with CUDA), jax, torch.
EXTRA ?= cpu
# What pip installs for PyTorch. On Linux the registry's wheel brings CUDA along; name a CPU build here to save disk.
TORCH ?= torch==2.13.0

VENV := .venv
BARE := .venv-no-tensorflow
PIP := bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test lint notebooks parity export-matrix figures schema clean

demo: $(VENV)/.$(EXTRA)
	$(VENV)/bin/python scripts/train.py configs/demo.yaml
	$(VENV)/bin/python scripts/evaluate.py runs/demo

# Every test on TensorFlow; then what depends on the backend on JAX and PyTorch, where TensorFlow is not installed.
test: $(VENV)/.test $(BARE)/.test
	KERAS_BACKEND=tensorflow $(VENV)/$(PYTEST)
	KERAS_BACKEND=jax $(VENV)/$(PYTEST) -m "not backend_free" tests/data/test_pets.py tests/test_chain.py
	@! $(BARE)/bin/python -c 'import tensorflow' 2> /dev/null || { echo "$(BARE) must not hold TensorFlow"; exit 1; }
	KERAS_BACKEND=jax $(BARE)/$(PYTEST) -m "not backend_free"
	KERAS_BACKEND=torch $(BARE)/$(PYTEST) -m "not backend_free"

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Run the notebooks and write their outputs back.
notebooks: $(VENV)/.test
	$(VENV)/bin/python notebooks/execute.py

# How closely the upsamplers agree with independent references, on every backend: docs/results/parity.md.
parity: $(VENV)/.test
	for backend in tensorflow jax torch; do KERAS_BACKEND=$$backend $(VENV)/bin/python -m benchmarks.parity || exit 1; done

# Every upsampler in every format, and what that costs on this machine: docs/results/export.md.
export-matrix: $(VENV)/.test
	for backend in tensorflow torch; do KERAS_BACKEND=$$backend $(VENV)/bin/python -m benchmarks.export_matrix || exit 1; done

# Draw the README's figures and write its table from the committed results.
figures: $(VENV)/.$(EXTRA)
	$(VENV)/bin/python scripts/figures.py

# What editors use to complete and check the YAML files.
schema: $(VENV)/.$(EXTRA)
	$(VENV)/bin/python -m unet.config > configs/schema.json

clean:
	rm -rf $(VENV) $(BARE) .cache runs

$(VENV)/bin/python $(BARE)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=python3.13"; exit 1; }
	$(PYTHON) -m venv $(@D)/..

$(VENV)/.$(EXTRA): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/$(PIP) -e '.[$(EXTRA)]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/$(PIP) $(TORCH)
	$(VENV)/$(PIP) -e '.[cpu,jax,torch,onnx,litert,openvino,demo,ray,test]'
	@touch $@

$(BARE)/.test: pyproject.toml constraints.txt | $(BARE)/bin/python
	$(BARE)/$(PIP) $(TORCH)
	$(BARE)/$(PIP) -e '.[jax,torch,test]'
	@touch $@
