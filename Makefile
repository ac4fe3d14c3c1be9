# The few commands of development. Each calls a script that also runs without make.
.DEFAULT_GOAL := help
.PHONY: help setup fast check docs bench demo

BIN := $(or $(QA_FAST_VENV),.venv)/bin

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1 - \2/p' $(MAKEFILE_LIST)

setup: ## Make a virtual environment with everything that the tests need
	sh tools/setup.sh test

fast: setup ## Run the fast tests, about two minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: ## Run everything that CI checks
	sh tools/check.sh

docs: setup ## Build the documentation site in site/
	$(BIN)/python -m zensical build --clean --strict

bench: ## Measure the figures of the documentation
	sh tools/bench.sh

demo: ## Featurize SQuAD, train a small model, score it and ask it
	sh tools/demo.sh
