# One target a stage. Which run needs what is drawn from configs/ into .graph.mk, so a new run never edits this file.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules --check-symlink-times
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

$(foreach name,COMP NAME FROM SET PUBLIC PRIVATE DATA WEIGHTS ARGS,$(eval $(name) ?=))
export SET PUBLIC PRIVATE DATA WEIGHTS
# glibc copies large images past the caches, as it does by itself where a virtual machine tells their true size.
export GLIBC_TUNABLES ?= glibc.cpu.x86_non_temporal_threshold=0x80000
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PY := .venv/bin/python
SETUP := .venv/.ready
override COMP := $(patsubst %/,%,$(COMP))
RUN := $(COMP)/$(NAME)
DEMO := $(or $(COMP),digits)
CONFIGS = $(filter-out competition,$(patsubst configs/$(COMP)/%.toml,%,$(wildcard configs/$(COMP)/*.toml)))
COMPS = $(patsubst configs/%/competition.toml,%,$(wildcard configs/*/competition.toml))

include .graph.mk
.graph.mk: $(wildcard configs configs/* configs/*/*.toml) $(wildcard pipeline/store/*.py)
	@$(PYTHON) -m pipeline.store.graph > $@.$$$$ && mv $@.$$$$ $@ || { rm -f $@.$$$$; exit 2; }

# A wrong or missing argument is one line, before anything runs.
OF_RUN := check train ensemble pseudo tag lb full ablate tune submit audit
GOAL := $(filter data folds vary $(OF_RUN),$(MAKECMDGOALS))
ifneq ($(GOAL),)
$(if $(COMP),,$(error make $(GOAL) needs COMP=<competition>; choices: $(COMPS)))
$(if $(wildcard configs/$(COMP)/competition.toml),,$(error no competition configs/$(COMP)/competition.toml; choices: $(COMPS)))
endif
ifneq ($(filter vary,$(GOAL)),)
$(if $(and $(FROM),$(NAME)),,$(error make vary needs FROM=<run> and NAME=<new run>; choices of FROM: $(CONFIGS)))
endif
ifneq ($(filter $(OF_RUN),$(GOAL)),)
$(if $(NAME),,$(error make $(GOAL) needs NAME=<run>; choices: $(CONFIGS)))
$(if $(wildcard configs/$(RUN).toml),,$(error no config configs/$(RUN).toml; choices: $(CONFIGS)))
endif

$(SETUP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
cache/%/data.json: | $(SETUP)
	$(PY) -m pipeline.stages.data $*
cache/%/table.csv: | $(SETUP)
	$(PY) -m pipeline.stages.folds $*
$(RUNS): runs/%/cv.json: | $(SETUP)
	$(PY) -m pipeline.stages.$(stage.$*) $*
submissions/%.csv: runs/%/cv.json | $(SETUP)
	$(PY) -m pipeline.stages.submit $*

.PHONY: help setup new data folds vary $(OF_RUN) ledger status demo test proofs bench lint
help: ## every target, in stage order
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile
setup: $(SETUP) ## .venv with every dependency (the other targets do it when they need it)
new: | $(SETUP) ## COMP= DATA=folder [WEIGHTS=none|pretrained] | look at a folder; write its contract and first configs
	@$(PY) -m pipeline.stages.new "$(COMP)"
data: cache/$(COMP)/data.json ## COMP= | make or confirm the raw data
folds: cache/$(COMP)/table.csv ## COMP= | split once: folds/<comp>.csv and the table of record
vary: | $(SETUP) ## COMP= FROM= NAME= SET='optim.lr=3e-4' | write the three-line config of a variation
	@$(PY) -m pipeline.stages.vary "$(COMP)/$(FROM)" "$(NAME)"
check: cache/$(COMP)/table.csv ## COMP= NAME= | before a night of training: is anything broken, and what will it cost?
	@$(PY) -m pipeline.stages.check $(RUN)
train: runs/$(RUN)/cv.json ## COMP= NAME= | train every fold, predict, score; continues where it was killed
ensemble: runs/$(RUN)/cv.json ## COMP= NAME= | blend runs with cross-fitted weights
pseudo: runs/$(RUN)/cv.json ## COMP= NAME= | labels for test rows, by models blind to the fold whose student they train
tag: runs/$(RUN)/cv.json ## COMP= NAME= | difficulty: easy, ambiguous, hard, suspect; a list to review
lb: runs/$(RUN)/cv.json ## COMP= NAME= | predicted score of every row and of the submission; post-processing by it
full: runs/$(RUN)/cv.json ## COMP= NAME= | the same models on all labelled rows, for the test set only
ablate: runs/$(RUN)/cv.json ## COMP= NAME= | which changes to a run help, each alone, over folds and seeds
tune: runs/$(RUN)/cv.json ## COMP= NAME= | search for better settings; the best is confirmed, and written as a config
audit: runs/$(RUN)/cv.json ## COMP= NAME= | prove from row ids and hashes that nothing saw its own fold
	@$(PY) -m pipeline.stages.audit $(RUN)
submit: submissions/$(RUN).csv ## COMP= NAME= | the file for Kaggle, checked, with a ledger row; builds all it needs
ledger: | $(SETUP) ## [COMP= [NAME= PUBLIC= PRIVATE=]] | every submission: what was believed and what came
	@$(PY) -m pipeline.stages.ledger $(if $(NAME),"$(RUN)",$(COMP))
status: | $(SETUP) ## [COMP=] | what is done, stale, half-way, broken
	@$(PY) -m pipeline.stages.status $(COMP)
demo: runs/$(DEMO)/tags/cv.json submissions/$(DEMO)/final.csv ## [COMP=digits] | the whole chain on a built-in competition, then its scores
	@$(PY) -m pipeline.stages.audit $(DEMO)/final && $(PY) -m pipeline.stages.ledger $(DEMO)
test: | $(SETUP) ## [ARGS='-k masks'] | the suite
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)
proofs: | $(SETUP) ## the proofs of all techniques (docs/TECHNIQUES.md), the heavy ones that `make test` leaves out too
	proofs=$$($(PY) -m pipeline.store.register proofs) && $(PY) -m pytest -n 2 --dist worksteal -m "" $(ARGS) $$proofs
bench: | $(SETUP) ## ours beside the peers, on this machine; writes the table in README
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(PY) benchmarks/bench.py
lint: | $(SETUP) ## ruff and mypy
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy
