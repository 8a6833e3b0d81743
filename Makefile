# The commands of daily life. `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-test run test test-deploy sim soak chaos catalogue verify fix bench bench-compare

# RocksDB's C++ takes long to compile: ccache keeps the results over target folders and profiles.
ifneq (,$(shell command -v ccache))
export CC := ccache gcc
export CXX := ccache g++
endif

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing on this machine to build (apt)
	@scripts/setup

setup-test: ## Install what is missing on this machine to test (apt)
	@scripts/setup test

run: setup ## Build, start three nodes in one process with their data in data/demo, import a sample
	cargo build --release
	cargo run --release --quiet -- demo --nodes 3 --shards 64 --data data/demo --sample deploy/sample.ndjson

test: setup-test ## Run all tests
	cargo test --workspace

test-deploy: ## Start what is in deploy/ for real: image, three containers, manifests, unit (needs root)
	@BINARY="$(BINARY)" scripts/test-deploy

SEEDS ?= 500
FROM ?= 1
sim: ## Run simulated clusters: make sim SEEDS=500 FROM=1
	cargo run --release --quiet -p flotilla-sim -- --seeds $(SEEDS) --from $(FROM)

MINUTES ?= 30
soak: ## Run simulated clusters for as long as wanted, and say what was covered: make soak MINUTES=30
	cargo run --release --quiet -p flotilla-sim -- --minutes $(MINUTES) --from $(FROM)

chaos: MINUTES = 5
chaos: setup-test ## Run a real cluster under fire and write a report with a picture: make chaos MINUTES=5 SEED=1 NODES=5
	MINUTES="$(MINUTES)" SEED="$(SEED)" NODES="$(NODES)" FAULTS="$(FAULTS)" cargo test -p flotilla --test chaos -- --ignored --nocapture

catalogue: MINUTES =
catalogue: setup-test ## Run what covers the catalogue of how stores break, tests/CATALOGUE.md, and say what came of each row
	MINUTES="$(MINUTES)" SEED="$(SEED)" NODES="$(NODES)" cargo test -p flotilla --test catalogue -- --ignored --nocapture

verify: setup ## Check format, lints, documentation and dependencies; changes nothing
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	@scripts/setup deny
	cargo fetch --locked --quiet
	cargo deny --offline --log-level error check bans licenses sources
	@echo "verify: advisories were not checked (their database is fetched over the network): cargo deny check advisories"

fix: ## Do what verify would complain about, as far as tools can
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all
	FLOTILLA_BLESS=1 cargo test -p flotilla-metrics
	FLOTILLA_BLESS=1 cargo test -p flotilla --test watch agree

bench: setup ## Run the benchmarks
	cargo bench --workspace

ROUNDS ?= 5
SECONDS ?= 20
bench-compare: setup ## Hold Flotilla against etcd in alternating rounds: make bench-compare ROUNDS=5 SECONDS=20 ROWS=unary,stream
	@scripts/setup etcd
	cargo run --release --quiet -- bench compare --rounds $(ROUNDS) --seconds $(SECONDS) $(if $(ROWS),--rows $(ROWS)) \
		--folder "$${CARGO_TARGET_DIR:-target}/bench-compare"
