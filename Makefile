# make run      set everything up, then the main job (ARGS="--steps 2" goes to it)
# make test     set everything up, then run the tests (ARGS="-k wire" goes to pytest)
# make setup | nat | atropos | verifiers | tinker-server | trl | lint | types | layers | coverage | clean
# PYTHON=/path/to/python3.12 picks the interpreter

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := setup
.PHONY: run test setup nat atropos verifiers tinker-server trl bubblewrap lint types layers coverage clean

ARGS ?=
PIP_INSTALL = bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-input

# A stamp counts only while its environment stands where it was made and its interpreter starts.
stands = $(shell grep -qsF '$(CURDIR)/$(1)' $(1)/bin/activate && { $(1)/bin/python -c ''; } 2>/dev/null && echo yes)
$(foreach venv,.venv .venv-nat .venv-atropos .venv-verifiers .venv-tinker-server .venv-trl,$(if $(filter yes,$(call stands,$(venv))),,$(shell rm -f $(venv)/.ready)))

# Without a stamp the environment is half made: it is made anew, after an interpreter was found.
make_venv = test -e $@ || { python=$$(.ci/python) && rm -rf $(@D) && "$$python" -m venv $(@D); }

run: setup
	.venv/bin/natgym up $(ARGS)

test: setup
	.venv/bin/python -m pytest $(ARGS)

setup: .venv/.ready .venv-nat/.ready bubblewrap

nat: .venv-nat/.ready

.venv/.ready: requirements/torch.txt requirements/natgym.txt requirements/dev.txt pyproject.toml
	@$(make_venv)
	@echo "natgym: installing PyTorch and natgym's packages into .venv (minutes)"
	@.venv/$(PIP_INSTALL) -r requirements/torch.txt -c requirements/natgym.txt
	@.venv/$(PIP_INSTALL) -r requirements/natgym.txt -r requirements/dev.txt
	@.venv/$(PIP_INSTALL) --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

.venv-nat/.ready: requirements/nat.txt
	@$(make_venv)
	@echo "natgym: installing the NAT runtime into .venv-nat (minutes)"
	@sh backends/images/nat/install.sh .venv-nat requirements/nat.txt
	@touch $@

# only for the tests that have Atropos's own clients talk to natgym; they are skipped without it
atropos: .venv-atropos/.ready

.venv-atropos/.ready: requirements/atropos.txt
	@$(make_venv)
	@echo "natgym: installing Atropos's clients into .venv-atropos (a minute)"
	@.venv-atropos/$(PIP_INSTALL) --no-compile --no-deps -r requirements/atropos.txt
	@touch $@

# only for the test that has verifiers play environments of ours; it is skipped without it
verifiers: .venv-verifiers/.ready

.venv-verifiers/.ready: requirements/verifiers.txt
	@$(make_venv)
	@echo "natgym: installing verifiers into .venv-verifiers (a minute)"
	@.venv-verifiers/$(PIP_INSTALL) --no-compile --no-deps -r requirements/verifiers.txt
	@touch $@

# only for the tests that train at a Tinker server; they are skipped without it
tinker-server: .venv-tinker-server/.ready

.venv-tinker-server/.ready: requirements/torch.txt requirements/tinker-server.txt
	@$(make_venv)
	@echo "natgym: installing a Tinker server into .venv-tinker-server (minutes)"
	@.venv-tinker-server/$(PIP_INSTALL) --no-compile -r requirements/torch.txt -c requirements/tinker-server.txt
	@.venv-tinker-server/$(PIP_INSTALL) --no-compile --no-deps --ignore-requires-python -r requirements/tinker-server.txt
	@touch $@

# only for the tests and the benchmark that compare with TRL; it sees .venv's packages, so that torch is installed once
trl: .venv-trl/.ready

.venv-trl/.ready: requirements/trl.txt .venv/.ready
	@echo "natgym: installing TRL into .venv-trl (seconds)"
	@rm -rf .venv-trl && .venv/bin/python -m venv --without-pip .venv-trl
	@for site in .venv-trl/lib/python*/site-packages; do echo "../../../../$${site/-trl/}" >"$$site/natgym.pth"; done
	@PIP_PYTHON=.venv-trl/bin/python .venv/$(PIP_INSTALL) --no-compile --no-deps -r requirements/trl.txt
	@touch $@

bubblewrap:
	@command -v bwrap >/dev/null || .ci/apt bubblewrap || echo "natgym: going on; sandboxes will not start without bubblewrap"

lint: .venv/.ready
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

types: .venv/.ready
	.venv/bin/python -m pyright

layers: .venv/.ready
	.venv/bin/python -m pytest -q tests/test_layers.py tests/test_slim_import.py

coverage: setup
	.venv/bin/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

clean:
	rm -rf .venv .venv-nat .venv-atropos .venv-verifiers .venv-tinker-server .venv-trl build dist *.egg-info .coverage .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
