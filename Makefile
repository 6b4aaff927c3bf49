# `make run` and `make test` set up what they need on a fresh machine: a virtual environment in .venv.
PYTHON ?= python3
VENV ?= .venv
READY = $(VENV)/.ready

.PHONY: run test test-all lint pages docs clean

run: $(READY)  ## The main job: one parameter server and two workers on real digits. ARGS="option=value ..." changes it.
	$(VENV)/bin/python -m asgd.run $(ARGS)

test: $(READY)  ## Every test that takes less than minutes.
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 -m "not slow" $(ARGS)

test-all: $(READY)  ## The longer checks as well.
	$(VENV)/bin/python -m pytest -n logical --maxprocesses 4 $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

pages: $(READY)  ## The pages of docs that are made of other files: catalogue, configuration, studies.
	$(VENV)/bin/python -m docs.pages

docs: pages  ## README and docs as a site in build/site, with every link checked.
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
