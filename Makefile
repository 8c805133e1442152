# What a newcomer types: make test.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build test check bench

build:
	go build -buildvcs=auto -o matrix-regservice .

test: check
	go test -race .

check:
	@unformatted=$$(gofmt -l *.go); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	go vet .
	go mod tidy -diff
	go run $(STATICCHECK) .

bench:
	go test -run '^$$' -bench . -benchmem .
