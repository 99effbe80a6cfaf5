# Two commands for a new machine: `make report` and `make test`. Everything is set up in .venv from requirements.lock.
PYTHON  ?= python3
PROFILE ?= quick
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
PYTEST  := $(BIN)/python -m pytest
WORKERS := -n auto --maxprocesses 8 --dist loadfile
OLDEST  := build/triton-3.6.0

.PHONY: report test test-slow check wheel readme lock clean

report: $(READY)            ## run the benchmarks and print the ledger and where report.html is
	@$(BIN)/v3bench run --profile $(PROFILE)

test: $(READY)              ## all tests but the slow ones
	@mkdir -p build
	@$(PYTEST) -q -m "not slow" $(WORKERS) --junitxml=build/test.xml

test-slow: $(READY) $(OLDEST)/.ready  ## the slow tests
	@mkdir -p build
	@$(PYTEST) -q -m slow $(WORKERS) --junitxml=build/test-slow.xml

check: $(READY)             ## lint and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@mkdir -p build/types/v3bench && cd build/types/v3bench && ln -sfn ../../../kernels kernels && ln -sfn ../../../model_ref model_ref \
	  && ln -sfn ../../../baselines baselines && ln -sfn ../../../suite suite && ln -sf ../../../suite/root/__init__.py ../../../suite/root/__main__.py .
	@$(BIN)/mypy

wheel: $(READY)             ## dist/v3bench-*.whl: unpacked on PYTHONPATH it runs where nothing can be installed
	@rm -rf build/lib build/bdist.*
	@$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .
	@ls dist/*.whl

readme: $(READY)            ## write README's table of results anew from the committed run it names
	@$(BIN)/python .ci/readme.py $(RUN)

lock:                       ## write requirements.lock anew from pyproject's ranges
	@.ci/lock $(PYTHON)

clean:
	@rm -rf $(VENV) build dist *.egg-info

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("v3bench needs Python 3.11 or newer, not " + sys.version.split()[0] + "; name another with make PYTHON=...") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) from requirements.lock (once; a few minutes)"
	@$(PYTHON) -m venv $(VENV) || { echo "Python cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $(READY)

$(OLDEST)/.ready: $(READY)  # the oldest Triton that pyproject admits: the kernels are compiled with it too
	@rm -rf $(OLDEST) && $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $(OLDEST) triton==3.6.0
	@touch $@
