# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11 to 3.13 (TensorFlow 2.21, pinned in
# constraints.txt, has no wheel for 3.14). `make help` lists the targets.
PYTHON ?= python3
# Extra that installs the backend of `make demo`: cpu, cuda (TensorFlow with CUDA), jax or torch.
EXTRA ?= cpu
# Requirement that pip installs for PyTorch. On Linux the default wheel includes CUDA; a CPU build saves disk space.
TORCH ?= torch==2.13.0
# Marks of the tests that are run, and files or folders with tests; default: all.
SELECT ?= not slow
TESTS ?=
# Parts of the slow tests. A process keeps the memory of all networks that it has compiled, so each part has its own.
PARTS := "tests/encoders" "tests/training" "tests --ignore=tests/encoders --ignore=tests/training"

VENV := .venv
BARE := .venv-no-tensorflow
PIP := bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: help demo test test-all test-tensorflow test-tfds test-jax test-torch lint notebooks parity export-matrix intervals scaling gpu-results figures docs schema clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-16s %s\n", $$1, $$2 }'

demo: $(VENV)/.$(EXTRA) ## Install, train a small network on drawn scenes, and score it.
	$(VENV)/bin/unet train demo
	$(VENV)/bin/unet evaluate runs/demo

test: test-tensorflow test-tfds test-jax test-torch ## Install, and run the tests on TensorFlow, JAX and PyTorch.

test-all: test ## The same, and then the slow tests.
	$(MAKE) test-tfds SELECT=slow
	$(MAKE) slow-tensorflow slow-jax slow-torch

slow-%: ## Run the slow tests on one backend, as in slow-jax.
	for part in $(PARTS); do $(MAKE) test-$* SELECT=slow TESTS="$$part" || exit 1; done

test-tensorflow: $(VENV)/.test ## Run all tests on TensorFlow.
	KERAS_BACKEND=tensorflow $(VENV)/$(PYTEST) -m "$(SELECT)" $(TESTS)

# Without TensorFlow installed, except for the tests that read data through TensorFlow Datasets.
test-jax: $(BARE)/.test ## Run the tests that depend on the backend on JAX.
	KERAS_BACKEND=jax $(BARE)/$(PYTEST) -m "($(SELECT)) and not backend_free" $(TESTS)

test-tfds: $(VENV)/.test ## Run on JAX the tests that need TensorFlow Datasets.
	KERAS_BACKEND=jax $(VENV)/bin/python -m pytest -m "($(SELECT)) and not backend_free" -k pets tests/data/test_pets.py tests/test_chain.py

test-torch: $(BARE)/.test ## Run the tests that depend on the backend on PyTorch.
	KERAS_BACKEND=torch $(BARE)/$(PYTEST) -m "($(SELECT)) and not backend_free" $(TESTS)

lint: $(VENV)/.test ## Check style, format and types.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

notebooks: $(VENV)/.test ## Execute the notebooks and save their outputs.
	$(VENV)/bin/python notebooks/execute.py

parity: $(VENV)/.test ## Compare the upsamplers with independent references on every backend: docs/results/parity.md.
	for backend in tensorflow jax torch; do KERAS_BACKEND=$$backend $(VENV)/bin/python -m benchmarks.parity || exit 1; done

export-matrix: $(VENV)/.test ## Export every upsampler in every format and measure the files: docs/results/export.md.
	for backend in tensorflow torch; do KERAS_BACKEND=$$backend $(VENV)/bin/python -m benchmarks.export_matrix || exit 1; done

intervals: $(VENV)/.test ## Simulate the coverage of the ablation report's intervals: docs/results/intervals.md.
	$(VENV)/bin/python -m benchmarks.intervals

scaling: $(VENV)/.test ## Model data-parallel training on 1 to 64 GPUs: docs/results/scaling.md.
	$(VENV)/bin/python -m benchmarks.scaling

# On a machine that has the requirements already, without the network: PY=python3 make gpu-results. SETTINGS are those of
# all runs, such as data.source=folder data.data_dir=~/pets for the official archive, which needs no TensorFlow.
gpu-results: $(if $(PY),,$(VENV)/.$(EXTRA)) ## Train, evaluate and compare on a GPU within MINUTES=60: docs/results/gpu.
	PYTHONPATH=. $(or $(PY),$(VENV)/bin/python) -m benchmarks.gpu_results --minutes $(or $(MINUTES),60) $(SETTINGS)

figures: $(VENV)/.$(EXTRA) ## Redraw charts and gallery and rewrite the generated tables from the committed results.
	$(VENV)/bin/python scripts/figures.py
	$(VENV)/bin/python docs/gallery.py
	$(VENV)/bin/python docs/generate.py

docs: $(VENV)/.docs ## Build the documentation into site/, without the network.
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict  # Material announces its successor

schema: $(VENV)/.$(EXTRA) ## Write the JSON schema with which editors check the YAML files: configs/schema.json.
	$(VENV)/bin/python -m unet.config > configs/schema.json

clean: ## Delete the environments, the caches and all runs.
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
	$(VENV)/$(PIP) -e '.[cpu,jax,torch,encoders,coco,geo,onnx,litert,openvino,demo,mlflow,wandb,ray,docs,test]'
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/$(PIP) -e '.[docs]'
	@touch $@

$(BARE)/.test: pyproject.toml constraints.txt | $(BARE)/bin/python
	$(BARE)/$(PIP) $(TORCH)
	$(BARE)/$(PIP) -e '.[jax,torch,encoders,test]'
	@! $(BARE)/bin/python -c 'import tensorflow' 2> /dev/null || { echo "$(BARE) must not contain TensorFlow"; exit 1; }
	@touch $@
