# Two commands carry the course: `make lab` and `make test`. Each sets up .venv first, where that is not done yet.
# The environment is exactly requirements.lock, every file checked against its hash.

SHELL := /bin/sh
BIN := .venv/bin
# The first Python of a supported version; say PYTHON=/path/to/python3.12 to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

STARTED := $(shell date +%s)

.PHONY: lab test build bench wheel lock clean

lab: .venv/ready
	@$(BIN)/course lab $(ARGS)

test: .venv/ready
	@$(BIN)/course model
	$(BIN)/ruff check .
	$(BIN)/course build --check
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

# Notebooks from lessons/: only what changed.
build: .venv/ready
	@$(BIN)/course build $(ARGS)

# What the README's table says, measured on this machine.
bench: .venv/ready
	$(BIN)/python benchmarks/spine.py $(ARGS)

# The course as one file to install elsewhere, such as on Colab: dist/loss_to_bert-*.whl.
wheel: .venv/ready
	@$(BIN)/uv build --quiet --wheel --no-build-isolation --out-dir dist . && ls dist/*.whl

# After a change of the dependencies in pyproject.toml; ARGS=--upgrade takes the newest of everything.
lock: .venv/ready
	$(BIN)/uv pip compile pyproject.toml --extra test --extra build --universal --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock $(ARGS)

clean:
	rm -rf .venv

# Made anew from nothing whenever it is not known to be complete, so an interrupted set-up repairs itself: the file
# `ready` comes last, and holds the seconds that it took. uv, itself pinned in the lock, installs the rest in parallel.
.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found; install one, or say make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "setting up .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv || { echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@sed -n '/^uv==/,/^[^ ]/{/^uv==/p;/^ /p;}' requirements.lock > .venv/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt
	@echo "installing the packages of requirements.lock"
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@echo $$(($$(date +%s) - $(STARTED))) > .venv/ready
