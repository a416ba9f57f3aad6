# Every target sets the machine up first (.ci/setup): Debian packages and .venv, where they are missing.
PYTHON ?= python3
WORKERS ?= 2
CASES ?= 0
BIN := .venv/bin

.PHONY: help setup demo mnist lint format test fuzz clean

help:
	@echo "make demo    train, compile, verify, flash and measure a network on handwritten digits (a few minutes)"
	@echo "make mnist   compile, verify and measure LeNet5 on MNIST"
	@echo "make test    lint, types and all tests"
	@echo "make fuzz    compile mutated model files until interrupted, or CASES=100000"
	@echo "make lint    ruff and mypy alone"
	@echo "make format  rewrite the Python sources as ruff formats them"
	@echo "make setup   only install what is missing"
	@echo "make clean   remove .venv and everything else that was built in this folder"

setup:
	@PYTHON="$(PYTHON)" .ci/setup

demo: setup
	@$(BIN)/python -m examples.digits.demo

mnist: setup
	@$(BIN)/python -m examples.mnist.demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .

test: lint
	$(BIN)/pytest -n $(WORKERS)

fuzz: setup
	$(BIN)/python -m tests.fuzz --jobs $(WORKERS) --cases $(CASES)

clean:
	rm -rf .venv build dist examples/*/out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
