# The five commands of a developer. Before the first one: bash setup_colab.sh
.PHONY: setup lint test all notebooks

setup: ## what tests need, into the active environment
	python tools/install.py requirements.txt requirements-results.txt requirements-test.txt

lint: ## as CI: ruff and mypy
	ruff check .
	ruff format --check .
	mypy gt_helpers

test: ## one process, what takes less than ten seconds
	python -m pytest -q -m "not slow"

all: ## everything, as CI does
	bash setup_colab.sh test --all

notebooks: ## clean them after editing, with badge and setup cell
	python tools/notebooks.py clean
