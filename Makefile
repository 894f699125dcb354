# The commands of a working copy. Needs Python 3.11 or newer and make; a C++ compiler makes the whole step faster.
#   make serve                   environment, C++ parts, the small embedded model, a server on 127.0.0.1:8000
#   make serve PORT=9000 ARGS="--max-model-len 2048"
#   make serve LAYOUT=layouts/two-ranks.yaml
#   make docs                    the documents as a site, in build/docs
#   make test                    what must pass: lint, types, the CPU suite
# pip runs with your own settings (PIP_* variables, pip config); nothing here names a package index.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.complete
# More than the two cores that the suite is sized for: many tests wait for processes, and leave a core idle.
WORKERS ?= 3
# Neighbours stay with one worker, which has made what they share; a worker that is done takes from another's end. Tests
# are kept as bytecode also where PYTHONDONTWRITEBYTECODE is set: each worker would take seconds to compile all of them.
PYTEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -n $(WORKERS) --dist worksteal
# The suite runs more variants of the C++ parts than this machine loads: compiled before it, where no core is idle.
BUILD = -m weft.compute.native.build
serve: BUILD = -m weft.compute.native.build --quiet
test: BUILD = -m tests.support.native_libraries
test-long: BUILD = -m weft.compute.native.build --all
LAYOUT ?=
PORT ?= 8000
CPP := $(wildcard weft/compute/native/*.cpp) $(shell find weft/compute/native tests/compute/native -name "*.h") $(shell find tests/compute/native benchmarks/peers -name "*.cpp")
ARGS ?=

.PHONY: help venv native serve docs generated test test-long sanitize lint format size clean

help:
	@echo "make venv       $(VENV) with the pinned dependencies, development tools and weft itself"
	@echo "make native     compile the C++ parts (without a compiler: says so, and the plain path is used)"
	@echo "make serve      serve the embedded model on 127.0.0.1:$(PORT); PORT=, LAYOUT=FILE; ARGS= adds flags"
	@echo "make docs       the documents as a site, in build/docs/index.html"
	@echo "make test       lint, sizes, generated documents and the CPU suite; make test-long adds the long tests"
	@echo "make sanitize   the C++ parts under address, undefined and thread sanitizers, 40 minutes at most"
	@echo "make generated  write the documents that are made from the code; fails where that changes them"
	@echo "make lint       ruff, mypy and clang-format only"
	@echo "make format     rewrite the code in ruff's and clang-format's format"
	@echo "make size       lines of code, against the budget"
	@echo "make clean      remove $(VENV), compiled parts and caches"

VERSION := -c "import sys; v = sys.version_info; v >= (3, 11) and print('%d.%d' % v[:2])" 2>/dev/null
HAVE := sed -n 's/^version *= *\([0-9]*\.[0-9]*\).*/\1/p' $(VENV)/pyvenv.cfg 2>/dev/null
WANT := $(if $(filter file,$(origin PYTHON)),$(HAVE),$(PYTHON) $(VERSION))

# A stamp is trusted only while its interpreter is there, and is of the version that a given PYTHON= has.
ifneq ($(shell test -x $(PY) && echo yes),yes)
.PHONY: $(STAMP)
else ifneq ($(shell $(HAVE)),$(shell $(WANT)))
.PHONY: $(STAMP)
endif

venv: $(STAMP)

# What is there is finished, never deleted: where that cannot be, a person is told to run `make clean`.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@test -x $(PY) || test -n "$$($(PYTHON) $(VERSION))" || { \
	  echo "weft needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>/dev/null || echo not found)."; \
	  echo "Name another one: make venv PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "To make $(VENV) anew: make clean"; exit 1; }
	@test -n "$$($(HAVE))" && test -n "$$($(PY) $(VERSION))" && test "$$($(HAVE))" = "$$($(WANT))" || { \
	  echo "$(VENV) is of Python '$$($(HAVE))'; wanted: '$$($(PYTHON) $(VERSION))'. To make it anew: make clean"; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade
	@echo "torch first, at its pinned version (README, 'PyTorch for the CPU', says how to keep it small)"
	$(PY) -m pip install -c constraints.txt torch
	$(PY) -m pip install -c constraints.txt setuptools
	$(PY) -m pip install -c constraints.txt --no-build-isolation -e ".[dev]"
	@broken=$$($(PY) scripts/broken_packages.py) || { \
	  echo "installed again, because an earlier run was cut short:" $$broken; \
	  $(PY) -m pip install -c constraints.txt --force-reinstall --no-deps $$broken; }
	@$(PY) scripts/broken_packages.py
	@touch $@

# An editable install has no bytecode; where PYTHONDONTWRITEBYTECODE is set every process would compile weft again.
native: $(STAMP)
	@$(PY) -m compileall -q weft || echo "without bytecode beside it, weft only starts a little later"
	@$(PY) $(BUILD) || echo "without these C++ parts weft runs its plain paths: the same answers, slower"

TWO := layouts/two-ranks.yaml
serve: native
	@test -n "$(LAYOUT)" || echo "to see a layout at work: make serve LAYOUT=$(TWO)" \
	  "(what it does: $(VENV)/bin/weft explain --layout $(TWO))"
	@$(PY) -m weft.cli.main serve $(if $(LAYOUT),--layout $(LAYOUT)) --host 127.0.0.1 --port $(PORT) $(ARGS)

# Strict: a link that leads nowhere, or a page that no index names, is an error. The pages load nothing from a network.
docs: $(STAMP)
	@$(PY) -c "import furo, myst_parser, sphinx" 2>/dev/null || \
	  $(PY) -m pip install -c constraints.txt --no-build-isolation -e ".[docs]"
	@$(PY) -m scripts.generated --write
	$(PY) -m sphinx -q -n -W --keep-going -d build/doctrees -b html docs build/docs
	@! grep -rnE '<(script|link|img)[^>]* (src|href)="(https?:)?//' build/docs --include='*.html'
	@echo "build/docs/index.html"

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)
	$(PY) -m mypy

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

size: $(STAMP)
	@$(PY) scripts/size.py

# Writes the documents that are made from the code, and fails with the difference where they were out of date.
generated: $(STAMP)
	@$(PY) -m scripts.generated

test: lint size generated native
	$(PYTEST)

test-long: lint size generated native
	$(PYTEST) -m "long or not long"

# Builds and runs in a copy: what is compiled here stays as it is.
sanitize: $(STAMP)
	@$(PY) -m scripts.sanitize

clean:
	rm -rf $(VENV) weft/compute/native/_build build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
