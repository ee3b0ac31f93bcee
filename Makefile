# Every target sets up what it needs: a virtual environment with the tested versions, and hfseg itself.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready
VENV_XLA := .venv-xla

unexport PYTHONDONTWRITEBYTECODE  # the suite starts many processes: what one has compiled, the next ones read

.PHONY: demo test test-xla quick kill lint type bench docs ci clean

demo: $(READY)  ## fine-tune on the embedded photograph, score it, draw it: under three minutes on two cores
	$(RUN)/hfseg finetune

test: $(READY)  ## the whole suite but for the long kill tests
	$(RUN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not kill and not gpu"

test-xla: $(VENV_XLA)/.ready  ## train, resume and score on XLA, in an environment of its own (8 GB), about ten minutes
	$(VENV_XLA)/bin/pytest tests_xla

quick: $(READY)  ## the everyday subset, about a minute
	$(RUN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not kill and not gpu"

kill: $(READY)  ## kill a run at random moments and resume it
	$(RUN)/pytest -m kill

lint: $(READY)
	$(RUN)/ruff check . && $(RUN)/ruff format --check .

type: $(READY)
	$(RUN)/mypy

bench: $(READY)  ## the figures of docs/benchmarks.md
	for name in help metric loss loader attention; do $(RUN)/python scripts/bench_$$name.py || exit 1; done

docs: $(READY)  ## rebuild docs/config.md and docs/cli.md
	$(RUN)/python scripts/build_docs.py

ci: lint type test

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

$(VENV_XLA)/.ready: pyproject.toml constraints-xla.txt
	$(PYTHON) -m venv $(VENV_XLA)
	$(VENV_XLA)/bin/pip install --quiet --constraint constraints-xla.txt --editable . torch_xla==2.9.0 pytest beartype
	touch $@

clean:
	rm -rf $(VENV) $(VENV_XLA) build *.egg-info
