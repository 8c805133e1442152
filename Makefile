# What a newcomer types: make demo, make test. Both install the homeservers that they start, once, below e2e/.venv.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB      := https://vuln.go.dev
FUZZTIME    := 30s
HOMESERVER  := synapse-1.163.2
PYTHON      := python3

ifeq ($(HOMESERVER),dendrite)
override HOMESERVER := dendrite-0.15.2
endif

RECIPES := e2e/testdata
VENVS   := e2e/.venv
PIP     := bin/pip --disable-pip-version-check --quiet install

.PHONY: build demo test test-dendrite test-chain test-deploy release check fuzz vuln venvs dendrite bench bench-homeservers bench-short bench-postgres clean soak

build:
	go build -buildvcs=auto -o matrix-regservice .

demo: $(VENVS)/$(HOMESERVER)/.installed
	go run ./e2e/demo -homeserver $(HOMESERVER)

test: check venvs
	go test -race -count=1 -timeout 30m ./...

test-dendrite: dendrite
	E2E_DENDRITE=1 go test -race -count=1 -timeout 15m -run TestDendrite ./e2e

# Admission by balance, on a real Ethereum chain, which takes a minute to build the first time.
test-chain: $(VENVS)/synapse-1.163.2/.installed
	cd e2e/chain && go vet . && go mod tidy -diff && go run $(STATICCHECK) .
	E2E_CHAIN=1 go test -race -count=1 -timeout 15m -run TestAdmission ./e2e

# Kill after kill under load, in front of a real Synapse. A run is repeated with the SOAK_SEED that it prints; only the
# clients and the moments come from it, not what the machine makes of them.
SOAK_KILLS := 5000

soak: $(VENVS)/synapse-1.163.2/.installed
	E2E_REQUIRED=1 SOAK_KILLS=$(SOAK_KILLS) go test -count=1 -v -timeout 6h -run '^TestSoak$$' ./e2e

# What operators install. It needs systemd-analyze, promtool and groff, and root to try the package.
test-deploy: build
	deploy/test-unit
	deploy/test-alerts
	deploy/test-man ./matrix-regservice
	deploy/test-release
	deploy/test-deb

# Binaries and packages for amd64 and arm64, in dist/.
release:
	deploy/release

check:
	@unformatted=$$(gofmt -l *.go bench e2e); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	go vet ./...
	go mod tidy -diff
	go run $(STATICCHECK) ./...

# Every fuzz target, one after another: make fuzz FUZZTIME=10m for longer. What fails is kept below testdata/fuzz.
fuzz:
	@targets=$$(go test -list '^Fuzz' . | grep '^Fuzz') || exit 1; for target in $$targets; do \
		echo "fuzzing $$target for $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -parallel 2 . || exit 1; \
	done

# Known vulnerabilities of what is linked in.
vuln:
	@curl --silent --fail --location --max-time 20 --output /dev/null $(VULNDB)/index/db.json || { \
		echo "nothing was checked: the vulnerability database $(VULNDB) cannot be reached; run this where it can, or give VULNDB= a copy of it"; exit 1; }
	go run $(GOVULNCHECK) -db $(VULNDB) ./...

# The figures of docs/performance.md, written there: some minutes on a machine that does nothing else.
bench:
	go run ./bench

bench-homeservers: venvs
	go run ./bench -homeservers

# Each benchmark once, to see that it works.
bench-short:
	go run ./bench -short

# The figures of docs/scaling.md. 10 million rows take some minutes and 8 GB of disk.
bench-postgres:
	go test -run '^$$' -bench Gateways -benchtime 5000x -timeout 30m .
	BENCH_ROWS=10000,1000000,10000000 go test -run '^$$' -bench PostgresGrowth -benchtime 2000x -timeout 60m -v .

venvs: $(VENVS)/synapse-1.163.2/.installed $(VENVS)/synapse-0.34.0/.installed

$(VENVS)/synapse-1.163.2/.installed: $(RECIPES)/synapse-1.163.2/requirements.txt
	@echo "installing Synapse 1.163.2 (once)"
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/$(PIP) --requirement $<
	@touch $@

# Its setup.py needs an old setuptools, and the mend in build/ while it runs.
$(VENVS)/synapse-0.34.0/.installed: $(RECIPES)/synapse-0.34.0/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))' || { echo "Synapse 0.34.0 needs Python 3.11 or older: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "installing Synapse 0.34.0 (once)"
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/$(PIP) setuptools==65.5.0 wheel
	$(@D)/$(PIP) --requirement $<
	PYTHONPATH=$(CURDIR)/$(RECIPES)/synapse-0.34.0/build $(@D)/$(PIP) --no-build-isolation --no-deps matrix-synapse==0.34.0
	@touch $@

dendrite: $(VENVS)/dendrite-0.15.2/.installed

# Its module is apart from the product's. Python is for the tests, which count accounts with it.
$(VENVS)/dendrite-0.15.2/.installed: e2e/dendrite/go.mod e2e/dendrite/go.sum
	@echo "building Dendrite 0.15.2 (once, some minutes)"
	rm -rf $(@D)
	$(PYTHON) -m venv --without-pip $(@D)
	go build -C e2e/dendrite -o $(abspath $(@D))/bin/ $(addprefix github.com/element-hq/dendrite/cmd/,dendrite generate-keys generate-config)
	@touch $@

clean:
	rm -rf $(VENVS) matrix-regservice dist
