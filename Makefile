# What a newcomer types: make demo, make test, make test-all. They install the homeservers that they start, once, below e2e/.venv,
# and nothing into the system.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
VULNDB      := https://vuln.go.dev
FUZZTIME    := 15s
HOMESERVER  := synapse-1.163.2
PYTHON      := python3

ifeq ($(HOMESERVER),dendrite)
override HOMESERVER := dendrite-0.15.2
endif

RECIPES := e2e/testdata
VENVS   := e2e/.venv
PIP     := bin/pip --disable-pip-version-check --quiet --retries 1 install

export PYTHON

.PHONY: build demo test test-all test-busy mutate test-dendrite test-chain test-failover test-deploy cover release check fuzz vuln check-chain cgo venvs nodes dendrite \
	bench bench-homeservers bench-short bench-postgres clean soak model needs-go

build:
	go build -buildvcs=auto -o matrix-regservice .

demo: needs-go $(VENVS)/$(HOMESERVER)/.installed
	go run ./e2e/demo -homeserver $(HOMESERVER)

needs-go:
	@command -v go >/dev/null || { echo "Go is missing: install Go 1.26 or later from https://go.dev/dl"; exit 1; }

# All that this machine has what it takes for. It ends with a table of what did not run, and the line that would make it run.
# Three packages at a time: the tests of two wait, for homeservers above all, about a third of their time.
test: needs-go check venvs
	go run ./e2e/notrun -also "fuzzing, the packages, known vulnerabilities, benchmarks: make test-all" -race -count=1 -timeout 30m -p 3 ./...

# Everything, at its longer length. What is missing is a failure. As root it takes some 40 minutes.
test-all: export E2E_REQUIRED = 1
test-all: export TEST_LONG = 1
test-all: needs-go check $(VENVS)/synapse-1.163.2/.installed $(VENVS)/synapse-0.34.0/.installed nodes dendrite check-chain cgo test-deploy fuzz bench-short
	@set --; if $(reach-vulndb); then $(govulncheck) || exit 1; \
		else set -- -also "known vulnerabilities: make vuln, where $(VULNDB) can be reached"; fi; \
		go run ./e2e/notrun "$$@" -race -count=1 -timeout 75m ./...

# On a machine that has no time: three times beside four busy loops, then once on one core.
test-busy:
	e2e/busy

# What of the code the tests run, and which functions that keep a promise of SECURITY.md no test enters.
cover: needs-go venvs
	go run ./e2e/cover

# Which changes of the code no test notices. All of it takes hours: make mutate MUTATE=verify.go for one file.
MUTATE :=

mutate: needs-go
	go run ./e2e/mutate $(MUTATE)

test-dendrite: dendrite
	TEST_LONG=1 go test -race -count=1 -timeout 15m -run TestDendrite ./e2e

# Admission by balance, on a real Ethereum chain, which takes a minute to build the first time.
test-chain: check-chain $(VENVS)/synapse-1.163.2/.installed
	TEST_LONG=1 go test -race -count=1 -timeout 15m -run TestAdmission ./e2e

# Three gateways on PostgreSQL while it fails over: by hand, through PgBouncer, and under Patroni.
test-failover:
	E2E_REQUIRED=1 TEST_LONG=1 go test -race -count=1 -v -timeout 30m \
		-run '^(TestLinearizable|TestLinearizablePooled|TestAsynchronousFailover|TestPatroni)$$' ./e2e

check-chain:
	cd e2e/chain && go vet . && go mod tidy -diff && go run $(STATICCHECK) .

# Kill after kill under load, in front of a real Synapse. A run is repeated with the SOAK_SEED that it prints; only the
# clients and the moments come from it, not what the machine makes of them.
SOAK_KILLS := 5000

soak: $(VENVS)/synapse-1.163.2/.installed
	E2E_REQUIRED=1 SOAK_KILLS=$(SOAK_KILLS) go test -count=1 -v -timeout 6h -run '^TestSoak$$' ./e2e

# Random runs of the program against a model of what is true. One that fails prints the line that draws its steps again.
MODEL_RUNS := 200

model: needs-go
	E2E_REQUIRED=1 MODEL_RUNS=$(MODEL_RUNS) go test -race -count=1 -v -timeout 6h -run '^TestModel$$' ./proof

# What operators install. It needs systemd-analyze, promtool, groff and lintian, and root to try the package; debootstrap and
# systemd-nspawn to try it on a Debian of its own, with systemd as pid 1.
test-deploy: build $(VENVS)/synapse-1.163.2/.installed
	deploy/test-unit
	deploy/test-alerts
	deploy/test-man ./matrix-regservice
	deploy/test-release
	deploy/test-deb
	deploy/test-debian

# Binaries and packages for amd64 and arm64, in dist/.
release:
	deploy/release

check:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	go vet ./...
	go mod tidy -diff
	go run $(STATICCHECK) ./...

# Every fuzz target of every package, one after another: make fuzz FUZZTIME=10m for longer. What fails is kept below the
# package's testdata/fuzz.
fuzz:
	@listed=$$(go test -list '^Fuzz' ./...) || { echo "$$listed"; exit 1; }; \
	targets=$$(echo "$$listed" | awk '/^Fuzz/ { names[n++] = $$1 } $$1 == "ok" { for (i = 0; i < n; i++) print $$2, names[i]; n = 0 }'); \
	test -n "$$targets" || { echo "go test -list names no fuzz target"; exit 1; }; \
	echo "$$targets" | while read -r package target; do \
		echo "fuzzing $$target of $$package for $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -parallel 2 "$$package" </dev/null || exit 1; \
	done

# Known vulnerabilities of what is linked in.
vuln:
	@$(reach-vulndb) || { echo "nothing was checked: the vulnerability database $(VULNDB) cannot be reached; run this where it can, or give VULNDB= a copy of it"; exit 1; }
	$(govulncheck)

reach-vulndb = curl --silent --fail --location --max-time 20 --output /dev/null $(VULNDB)/index/db.json
govulncheck  = go run $(GOVULNCHECK) -db $(VULNDB) ./...

# Both builds, and the verification under each.
cgo:
	for cgo in 0 1; do \
		CGO_ENABLED=$$cgo go build -o /dev/null . && CGO_ENABLED=$$cgo go test -run 'TestSign|TestVerify|TestRecoverSigner|TestVectors' . || exit 1; \
	done

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
	go test -run '^$$' -bench Gateways -benchtime 5000x -timeout 30m ./process
	BENCH_ROWS=10000,1000000,10000000 go test -run '^$$' -bench PostgresGrowth -benchtime 2000x -timeout 60m -v .

find-python = said=$$(e2e/python $(1) 2>&1) || { echo "$(1) needs $$said"; exit 1; }

# Installs what can be installed here. For what cannot, the tests say so.
venvs:
	@for name in synapse-1.163.2 synapse-0.34.0 nodes; do \
		$(MAKE) --no-print-directory $(VENVS)/$$name/.installed || echo "going on without $$name"; \
	done

$(VENVS)/synapse-1.163.2/.installed: $(RECIPES)/synapse-1.163.2/requirements.txt
	@$(call find-python,synapse-1.163.2)
	@echo "installing Synapse 1.163.2 (once)"
	rm -rf $(@D)
	$$(e2e/python synapse-1.163.2) -m venv $(@D)
	$(@D)/$(PIP) --requirement $<
	@touch $@

# Its setup.py needs an old setuptools, and the fix in build/ while it runs.
$(VENVS)/synapse-0.34.0/.installed: $(RECIPES)/synapse-0.34.0/requirements.txt
	@$(call find-python,synapse-0.34.0)
	@echo "installing Synapse 0.34.0 (once)"
	rm -rf $(@D)
	$$(e2e/python synapse-0.34.0) -m venv $(@D)
	$(@D)/$(PIP) setuptools==65.5.0 wheel
	$(@D)/$(PIP) --requirement $<
	PYTHONPATH=$(CURDIR)/$(RECIPES)/synapse-0.34.0/build $(@D)/$(PIP) --no-build-isolation --no-deps matrix-synapse==0.34.0
	@touch $@

nodes: $(VENVS)/nodes/.installed

# The libraries that nodes in Python and JavaScript sign with, and a linter of OpenAPI.
$(VENVS)/nodes/.installed: $(RECIPES)/nodes/requirements.txt $(RECIPES)/nodes/package-lock.json
	@$(call find-python,nodes)
	@command -v npm >/dev/null || { echo "nodes needs Node.js and npm: apt-get install nodejs npm"; exit 1; }
	@echo "installing the libraries of nodes in other languages (once)"
	rm -rf $(@D)
	$$(e2e/python nodes) -m venv $(@D)
	$(@D)/$(PIP) --requirement $<
	cp $(RECIPES)/nodes/package.json $(RECIPES)/nodes/package-lock.json $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

dendrite: $(VENVS)/dendrite-0.15.2/.installed

# Its module is apart from the product's. Python is for the tests, which count accounts with it.
$(VENVS)/dendrite-0.15.2/.installed: e2e/dendrite/go.mod e2e/dendrite/go.sum
	@$(call find-python,dendrite-0.15.2)
	@echo "building Dendrite 0.15.2 (once, some minutes)"
	rm -rf $(@D)
	$$(e2e/python dendrite-0.15.2) -m venv --without-pip $(@D)
	go build -C e2e/dendrite -o $(abspath $(@D))/bin/ $(addprefix github.com/element-hq/dendrite/cmd/,dendrite generate-keys generate-config)
	@touch $@

clean:
	rm -rf $(VENVS) matrix-regservice dist
