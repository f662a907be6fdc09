# Two commands set everything up on a fresh machine: `make serve` and `make test`. All of it lives in .venv.
PYTHON ?= python3
POLICY ?= deploy/policies/cube-single.safetensors
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_ALL := $(VENV)/.ready-all
# Tests that may share the cores, a process for each core; and the others, which start servers or Ray, or measure time.
ARITHMETIC := tests/kernels tests/policy tests/service/access tests/service/budget tests/service/protocol
TOGETHER := -n auto --dist worksteal $(ARITHMETIC) tests/training --ignore=tests/training/sweep
ALONE := $(ARITHMETIC:%=--ignore=%) --ignore-glob='tests/training/[!s]*'

.DEFAULT_GOAL := help
.PHONY: help setup serve demo test test-all check bench-gpu drill fuzz images lock sbom format clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): pyproject.toml setup.py client/pyproject.toml $(wildcard kernels/cpu/src/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --editable './client[drive]' --editable '.[data,gpu,grpc,serve,test,train,zmq]'
	touch $@

# Ray, kubectl, Prometheus, linters, Chromium, ROS 2 and robots' clients are 1.3 GB on disk; `make serve` and `make test` do without.
$(READY_ALL): $(READY) deploy/tools.sh tests/service/web/chromium.sh tests/service/clients/install.sh tests/examples/ros2/install.sh
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[browser,deploy,scale]'
	deploy/tools.sh $(VENV)/tools
	tests/service/web/chromium.sh $(VENV)/tools/browser
	tests/service/clients/install.sh $(VENV)/tools/clients
	tests/examples/ros2/install.sh $(VENV)/tools/ros2
	touch $@

setup: $(READY) ## Make .venv with everything

serve: $(READY) ## Serve a shipped policy on 127.0.0.1:8000 (POLICY=path for another)
	$(BIN)/sorl-serve --model $(POLICY)

demo: $(READY) ## Serve cube-single and drive the simulated arm through HTTP: ten episodes, fixed seeds
	deploy/demo.sh

test: $(READY) ## Quick tests and the GPU compile gate, under five minutes
	$(BIN)/python -m pytest -m 'not slow and not gpu' $(TOGETHER)
	$(BIN)/python -m pytest -m 'not slow and not gpu' $(ALONE)
	$(BIN)/sorl-bench aot

test-all: $(READY_ALL) ## The rest: shipped policies in real environments, Ray, the page in a browser, and what deploy/ starts
	$(BIN)/python -m pytest -m 'slow and not gpu' $(TOGETHER)
	$(BIN)/python -m pytest -m 'slow and not gpu' $(ALONE)

check: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-gpu: $(READY) ## On a CUDA card: the GPU kernel checked, then timed against torch; writes bench-gpu.json
	$(BIN)/sorl-bench gpu --model $(POLICY) --json bench-gpu.json

drill: $(READY) ## Faults under load: reloads, restarts, hang-ups, poison; every request accounted for
	$(BIN)/sorl-bench drill

fuzz: $(READY) ## 200,000 inputs for everything that reads bytes of others, 5,000 requests by the OpenAPI document
	$(BIN)/python -m tests.service.fuzz.run

images: $(READY_ALL) ## Make docs/images again: the page with the shipped policies, and the plot of docs/results/bench/serve.json
	$(BIN)/python -m tests.service.web.page_images
	$(BIN)/python -m tests.bench.elastic_image

lock: $(READY_ALL) ## Make deploy/requirements.lock again, what the image installs by hash (UPGRADE=--upgrade for newer versions)
	CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --extra serve,grpc,zmq --all-build-deps --strip-extras $(UPGRADE) \
	  --generate-hashes --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --unsafe-package torch --output-file deploy/requirements.lock pyproject.toml
	sed -i '/^# WARNING/,$$d' deploy/requirements.lock

sbom: $(READY_ALL) ## Write dist/sbom.json, the image's parts in CycloneDX's format
	mkdir -p dist
	(cat deploy/requirements.lock; grep -o 'torch==[0-9.]*' Dockerfile) | $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml \
	  --output-reproducible --output-file dist/sbom.json -

format: $(READY) ## Let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
