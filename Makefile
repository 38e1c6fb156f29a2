# Two commands: `make train` and `make test`. Needs python3 (3.11 or newer) with its venv module, and the network once.
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help train test lab workspace bundle release grade check site instructor bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

train: .venv/installed ## train a language model with the course's solutions, on the CPU, into outputs/
	.venv/bin/python -m course_utils.run_notebook notebooks/06_train_gsm8k/train_gsm8k.ipynb --solutions

test: .venv/installed ## everything that proves the project
	.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

workspace: release ## your workspace/ with the exercises and configs; never overwrites your work
	.venv/bin/python -m course_utils.workspace workspace --release autograder/release --configs configs

lab: workspace ## that workspace in JupyterLab
	cd workspace && PATH="$(CURDIR)/.venv/bin:$$PATH" jupyter lab

EXERCISES ?= workspace/exercises
bundle: .venv/installed ## build/tinier_zero_colab.zip, for Google Colab, with the functions that you exported in workspace/
	.venv/bin/python -m course_utils.bundle --exercises "$(EXERCISES)"

release: .venv/installed ## the student notebooks, from notebooks/ into autograder/release/
	.venv/bin/nbgrader generate_assignment '0[1-6]_*' --force

grade: .venv/installed ## what was handed in, into nbgrader's gradebook and autograder/report.html
	.venv/bin/python -m autograder grade

check: .venv/installed ## your own workspace/, graded as a class is: points and advice
	.venv/bin/python -m autograder check

site: release ## the course as web pages, with a fresh run of notebook 6: build/site/index.html
	.venv/bin/python docs/site/build.py build/site

instructor: .venv/installed ## JupyterLab with nbgrader's formgrader on this course
	PATH="$(CURDIR)/.venv/bin:$$PATH" jupyter lab

bench: .venv/installed ## how fast a PPO step is, beside TRL's, into docs/speed.md; on an idle machine
	.venv/bin/python benchmarks/ppo_step.py

# Made again when the dependencies change.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "the pins need Python 3.11: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e '.[course,cluster,dev]'
	touch .venv/installed
