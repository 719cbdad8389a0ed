# make demo            the whole path on synthetic radiographs   (DATA=<folder> for MURA or knee-oa, STORE=file for no object store)
# make test            all tests but whole trainings              make test-all   every test that this machine can run
#                      (DATA=<folder> adds those on published scans: knee_mri_dicom, lumbar_t2)
# make test-cluster    three hosts with Ray and one with the object store, as namespaces of this machine: work, faults
#                      (needs root; ARGS="-m 'not long'" for a short look)
# make system          the Debian packages that some tests use
# make lint            ruff, mypy, import-linter
# make bench           how fast, beside peers: build/bench/bench.html, bench.json (ARGS="ingest feeding" for some areas)
# make bench-gpu       the same on a GPU                          make quality  what models find, what a server endures: hours
# make fuzz            damaged requests against the server (COUNT=20000 in all, more than that of files)
# make infra-check     the files of infra/ against schemas and rules: images, compose, Kubernetes, AWS, monitoring
# make audit           known holes in the locked packages, risky patterns in our code
# make sbom            what all of it is made of: build/sbom.json and build/sbom-page.json (CycloneDX)
# make page            the reading page that the server gives at /, built with npm; `make install` does it where npm is there
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SYSTEM_PACKAGES := iproute2 gcc libc6-dev chromium dcmtk dicom3tools orthanc orthanc-dicomweb prometheus docker-compose

.PHONY: page demo test test-all test-fast test-cluster lint format lock system install bench bench-gpu quality fuzz clean

install: $(STAMP)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory page || echo "The server works without its page: make page says why it is not built." >&2; fi

PAGE := mskray/serving/page/index.html
page: $(PAGE)

$(PAGE): $(shell find serve/page -name node_modules -prune -o -type f ! -name '*.png' -print)
	@command -v npm >/dev/null || { echo "The page is built with npm (Node.js 20 or newer): install it first" >&2; exit 1; }
	cd serve/page && npm ci --silent --no-audit --no-fund && npm run --silent build

# Reinstalls only when the lock or the project's metadata changed.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"mskray needs Python 3.11, 3.12 or 3.13, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.11 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No venv could be made: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --config-setting editable_mode=compat --editable .
	@touch $@

demo: $(STAMP)
	@exec $(BIN)/python jobs/demo.py $(if $(DATA),--data "$(DATA)") $(if $(STORE),--store $(STORE))

# Two processes: all tests that share the Ray cluster in one, everything else in the other.
PYTEST := $(if $(DATA),MSKRAY_DATA="$(abspath $(DATA))" )$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder
test: $(STAMP)
	$(PYTEST) -m "not long" $(ARGS)

test-all: $(STAMP)
	$(PYTEST) $(ARGS)

# Without the tests that start Ray, train or serve.
test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

# Also a part of test and test-all. A fault costs a minute or two.
test-cluster: $(STAMP)
	$(BIN)/python -m pytest tests/cluster $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra mlflow --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate --quiet --output-file requirements.lock $(ARGS)

# The peers that it compares with are installed for it alone.
BENCH_STAMP := $(VENV)/.bench
$(BENCH_STAMP): $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --requirement pyproject.toml --extra bench
	@touch $@

bench: $(BENCH_STAMP)
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

# Needs no Ray. ARGS="--only resnet50 --compile on"
bench-gpu: $(STAMP)
	@mkdir -p build
	$(BIN)/python tests/benchmarks/bench_gpu.py --json build/bench-gpu.json $(ARGS)

# Each prints its figures; other studies of tests/benchmarks need data or hours of their own, which they tell.
quality: $(STAMP)
	$(BIN)/python tests/benchmarks/phantom_difficulty.py
	$(BIN)/python tests/benchmarks/localisation.py
	$(BIN)/python tests/benchmarks/small_lesions.py
	$(BIN)/python tests/benchmarks/flags.py
	$(BIN)/python tests/benchmarks/svm_memory.py
	$(BIN)/python tests/benchmarks/serving_chaos.py
	$(BIN)/python tests/benchmarks/serving_memory.py

# Prints the answers by route and class of status.
COUNT ?= 20000
fuzz: $(STAMP)
	MSKRAY_FUZZ=$(COUNT) $(BIN)/python -m pytest tests/fuzz $(ARGS)

.PHONY: infra-check audit sbom
# CRDS=<folder> adds KubeRay's own definitions (ray.io_rayclusters.yaml, ray.io_rayjobs.yaml, ray.io_rayservices.yaml).
infra-check: $(STAMP)
	$(if $(CRDS),MSKRAY_KUBERAY_CRDS="$(abspath $(CRDS))" )$(BIN)/python -m pytest tests/infra -m "not slow" $(ARGS)

audit: $(STAMP)
	@$(BIN)/python infra/audit.py

sbom: $(STAMP)
	@mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json $(BIN)/python
	@if command -v npm >/dev/null; then cd serve/page && npm sbom --package-lock-only --omit dev --sbom-format cyclonedx >../../build/sbom-page.json && echo "made build/sbom.json and build/sbom-page.json"; \
	else echo "made build/sbom.json; npm, which lists the page's packages, is not here" >&2; fi

# RUNLEVEL=1: servers that come with a package (prometheus) are not started, here they are only tools.
system:
	@command -v apt-get >/dev/null || { echo "make system knows Debian only; install by hand: $(SYSTEM_PACKAGES)"; exit 1; }
	@missing=""; for p in $(SYSTEM_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi; \
	echo "present: $(SYSTEM_PACKAGES)"

clean:
	rm -rf $(VENV) demo-out build
