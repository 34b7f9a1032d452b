# `make run` needs Python 3.13 and nothing else. All that is made stays in this folder: .venv, .aws-sam, .gateway.

BIN := .venv/bin
RUN := .venv/run.installed
DEV := .venv/dev.installed
STAGE ?= dev
ON_EACH_POSTGRES := tests/database tests/properties/test_ledger.py tests/properties/test_books.py \
	tests/local/test_schema.py tests/local/test_migrate.py
LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.13 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" --exclude-newer "7 days"

# Workers take the tests as they come (tests/conftest.py says how many); one that dies ends the run.
IN_PARALLEL := --progress --dist worksteal --max-worker-restart 0 --durations 10

export SAM_CLI_TELEMETRY := 0
# Every function and test is a process that would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run mail job operator openapi migrate logins restart check format types imports template architecture test quick versions sam-local-test clients bench cost scale chaos soak build lock deploy clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

run: $(RUN) ## the whole gateway on this machine; PORT=8080 and TRANSPORT=supabase choose
	@PYTHONPATH=shared $(BIN)/python -m local

mail: $(RUN) ## every mail that is sent to users, with invented data, to look at
	@PYTHONPATH=shared $(BIN)/python -m local.mail

job: $(RUN) ## run one scheduled job now, on the gateway that runs here; NAME=refresh_ranking, or another
	@PYTHONPATH=shared $(BIN)/python -m local.job "$(NAME)"

operator: $(RUN) ## an operator's user and key, for a database that has none; NAME=…
	@PYTHONPATH=shared $(BIN)/python -m local.operator "$(NAME)"

openapi: $(RUN) ## the whole API as an OpenAPI document, on standard output
	@STAGE=dev KEY_PEPPERS=v1:of-nobody-at-all STRIPE_SECRET_KEY=sk STRIPE_WEBHOOK_SECRET=wh DATABASE_URL=postgresql://nowhere PYTHONPATH=shared:functions $(BIN)/python -m local.openapi

migrate: $(RUN) ## bring the database of DATABASE_URL to this schema, whole or not at all; PLAN=1 only says what it would do
	@PYTHONPATH=shared $(BIN)/python -m local.migrate

logins: $(DEV) ## a password for each function's database role, anew; STAGE and DATABASE_URL say where
	@PYTHONPATH=shared $(BIN)/python -m local.logins $(STAGE)

restart: $(DEV) ## let every function of STAGE read its secrets anew
	@PYTHONPATH=shared $(BIN)/python -m local.restart $(STAGE)

check: $(DEV) ## everything that can be said without running it: format, types, imports, template
	@$(MAKE) --no-print-directory --jobs 2 architecture types format imports template

format types imports template architecture: $(DEV)

format:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

imports:
	PYTHONPATH=shared:functions $(BIN)/lint-imports

template:
	$(BIN)/sam validate --lint
	$(BIN)/cfn-lint template.yaml

architecture:
	$(BIN)/pytest -q -m "not process" tests/architecture

test: $(DEV) ## all tests, on a real Postgres and real Lambda processes
	$(BIN)/pytest -q $(IN_PARALLEL) --numprocesses auto

quick: $(DEV) ## the tests that start no process, no Postgres either: within a minute
	$(BIN)/pytest -q $(IN_PARALLEL) --numprocesses logical -m "not process and not clients and not sam_local"

versions: $(DEV) tests/versions/node_modules ## what concerns the database, on each Postgres that Supabase runs; needs Node and pgbouncer
	@for postgres in $(CURDIR)/tests/versions/node_modules/*/native/bin; do \
		POSTGRES_BIN=$$postgres $(BIN)/pytest -q $(ON_EACH_POSTGRES) || exit 1; done
	$(BIN)/pytest -q -m pooler tests/database

sam-local-test: $(DEV) ## the built functions under sam local; needs Docker, or to be root on a Debian, and some minutes
	$(BIN)/pytest -v -s -m sam_local tests/sam_local

clients: $(DEV) .venv/litellm.installed tests/clients/outside/node_modules ## what needs Node or another environment, on make run
	$(BIN)/pytest -q -m clients tests/clients

bench: $(DEV) ## processor time, latency and memory, beside the floor
	@PYTHONPATH=shared $(BIN)/python -m bench

cost: $(DEV) ## what a million requests and an idle month cost on AWS, from processor time measured here
	@PYTHONPATH=shared $(BIN)/python -m bench.cost

scale: $(DEV) ## whether a million users make an answer slower; takes half an hour and 20 GB of disk for a while
	@PYTHONPATH=shared $(BIN)/python -m bench.scale

chaos: $(DEV) ## the gateway while everything fails around it, its latency and its books; some six minutes
	@PYTHONPATH=shared $(BIN)/python -m chaos

soak: $(DEV) ## ten minutes of mixed traffic, and whether memory or descriptors grow
	@PYTHONPATH=shared $(BIN)/python -m chaos.soak

build: $(DEV) ## what is deployed, in .aws-sam/build; needs no Docker and no credentials
	$(BIN)/sam build

deploy: build ## build, then ask and deploy to your AWS account; STAGE=dev, staging or production
	$(BIN)/sam deploy --guided --config-env $(STAGE)

lock: $(BIN)/uv ## resolve pyproject.toml again, to releases at least a week old
	$(LOCK) pyproject.toml --group dev --output-file requirements/dev.txt
	$(LOCK) pyproject.toml --group run --constraint requirements/dev.txt --output-file requirements/run.txt
	$(LOCK) pyproject.toml --group container --constraint requirements/dev.txt --output-file requirements/container.txt
	$(LOCK) pyproject.toml --constraint requirements/dev.txt --output-file layers/dependencies/requirements.txt
	echo litellm | $(LOCK) - --output-file requirements/litellm.txt
	echo uv | $(LOCK) - --output-file requirements/uv.txt

clean: ## remove what can be made again; your local database in .gateway stays
	rm -rf .venv .aws-sam .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# ---------------------------------------------------------------------------------------------- the environment

.venv/%.installed: requirements/%.txt $(BIN)/uv
	@echo "Installing the packages of $< into .venv (once; some 100 MB) …"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement $<
	@touch $@

.venv/litellm.installed: requirements/litellm.txt $(BIN)/uv
	@$(BIN)/uv venv --quiet --python $(BIN)/python .venv/litellm
	@$(BIN)/uv pip install --quiet --python .venv/litellm --require-hashes --requirement $<
	@touch $@

# npm runs no scripts of packages; these make the links that a package cannot hold
tests/versions/node_modules: tests/versions/package-lock.json
	@cd tests/versions && npm ci --silent --ignore-scripts
	@for package in tests/versions/node_modules/*; do (cd $$package && node scripts/hydrate-symlinks.js); done
	@touch $@

tests/clients/outside/node_modules: tests/clients/outside/package-lock.json
	@cd tests/clients/outside && npm ci --silent --ignore-scripts
	@touch $@

$(BIN)/uv: requirements/uv.txt
	@python=$$($(FIND_PYTHON)) || { echo "$$NO_PYTHON" >&2; exit 1; }; "$$python" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

# A name on the PATH may be a pyenv shim that fails, so each candidate is run. Only Lambda's own version will do:
# bytecode is compiled for it. Where uv is at hand it may fetch a Python, into this folder.
define FIND_PYTHON
fits() { "$$1" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null && echo "$$1"; }; \
	fits python3.13 || fits "$$HOME"/.pyenv/versions/3.13*/bin/python3.13 \
	|| fits "$$(uv python find --system 3.13 2>/dev/null)" \
	|| { export UV_PYTHON_INSTALL_DIR="$(CURDIR)/.venv/python" UV_PYTHON_INSTALL_BIN=0; \
		uv python install --quiet 3.13 2>/dev/null && fits "$$(uv python find --system 3.13)"; }
endef

define NO_PYTHON
Python 3.13 was not found. Any one of these brings it:
  uv python install 3.13         (https://docs.astral.sh/uv)
  pyenv install 3.13             (https://github.com/pyenv/pyenv)
  brew install python@3.13       (macOS)
  https://www.python.org/downloads
endef
export NO_PYTHON
