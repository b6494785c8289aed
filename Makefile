# Two commands carry the course: `make lab` and `make test`. Both set up .venv first, once.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

.PHONY: lab test build lock clean
.DELETE_ON_ERROR:

lab: .venv/ready
	$(BIN)/course lab $(ARGS)
