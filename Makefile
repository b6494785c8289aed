# Two commands carry the course: `make lab` and `make test`. Each sets up .venv first, where that is not done yet.
# The environment is exactly requirements.lock, every file checked against its hash.

SHELL := /bin/sh
BIN := .venv/bin
# The first Python of a supported version; say PYTHON=/path/to/python3.12 to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

STARTED := $(shell date +%s)

# uv installs sources only. Where this is set, each of a hundred processes would compile all that it imports, JAX too.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: lab test test-latest build bench wheel lock licences sbom mutants clean

lab: .venv/ready
	@$(BIN)/course lab $(ARGS)

PYTEST := pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: .venv/ready
	@$(BIN)/course model
	$(BIN)/ruff check .
	$(BIN)/course build --check
	$(BIN)/$(PYTEST) $(ARGS)

# The same on the newest version of every package, whatever requirements.lock says: what will break next? In a copy of what
# git has, runs/latest, whose lock is made anew; take that over with `make lock ARGS=--upgrade` here.
test-latest:
	@rm -rf runs/latest && git checkout-index --all --prefix=runs/latest/
	@$(MAKE) --no-print-directory -C runs/latest lock ARGS=--upgrade
	@diff requirements.lock runs/latest/requirements.lock | grep '^> [^ ]*==' || echo "requirements.lock is the newest"
	@$(MAKE) --no-print-directory -C runs/latest licences
	$(MAKE) --no-print-directory -C runs/latest test

# Notebooks from lessons/: only what changed.
build: .venv/ready
	@$(BIN)/course build $(ARGS)

# What the README's table says, measured on this machine.
bench: .venv/ready
	$(BIN)/python benchmarks/spine.py $(ARGS)

# The course as one file to install elsewhere, such as on Colab: dist/loss_to_bert-*.whl.
wheel: .venv/ready
	@$(BIN)/uv build --quiet --wheel --no-build-isolation --out-dir dist . && ls dist/*.whl

# After a change of the dependencies in pyproject.toml; ARGS=--upgrade takes the newest of everything. Beside the lock for
# everybody, one each with what a GPU, a TPU and Kubernetes need on top. `make licences` comes next.
LOCKED := --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet
lock: .venv/ready
	$(BIN)/uv pip compile pyproject.toml --extra test --extra build $(LOCKED) -o requirements.lock $(ARGS)
	@for more in "cuda12 x86_64 aarch64" "tpu x86_64" "k8s x86_64 aarch64"; do set -- $$more; extra=$$1; shift; for machine; do \
		echo "jax[$$extra] ; sys_platform == 'linux' and platform_machine == '$$machine' and python_version < '3.14'"; \
		done | $(BIN)/uv pip compile - $(LOCKED) --constraint requirements.lock -o requirements-$$extra.lock $(ARGS) \
		$$(sed -n 's/^\([^ =]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u); done
	@echo cosmic-ray | $(BIN)/uv pip compile - $(LOCKED) -o hardening/requirements-mutants.lock $(ARGS)

# hardening/licences.md, after a change of the lock. Fetches the few packages that are not for this system.
licences: .venv/ready
	@$(BIN)/python hardening/licences.py

# Software bill of materials, CycloneDX: what is installed here, with versions, licences and who needs what.
sbom: .venv/ready
	@mkdir -p dist
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o dist/sbom.json $(BIN)/python \
		&& ls dist/sbom.json

# Small faults put into a copy of the code, one at a time: how many do the tests notice? Hours; see hardening/mutants.py.
mutants: .venv/mutants/ready
	@.venv/mutants/bin/python hardening/mutants.py $(ARGS)

.venv/mutants/ready: hardening/requirements-mutants.lock .venv/ready
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv/mutants
	@VIRTUAL_ENV=.venv/mutants $(BIN)/uv pip install --quiet --require-hashes --no-deps -r hardening/requirements-mutants.lock
	@touch $@

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
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes --no-deps -r requirements.lock
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@echo $$(($$(date +%s) - $(STARTED))) > .venv/ready
# Files of a day that has not come yet (the clock was set back) would be newer for good, and make it anew at each call.
	@for file in $^; do test .venv/ready -nt "$$file" || touch -r "$$file" .venv/ready; done
