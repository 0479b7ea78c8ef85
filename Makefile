# Each command installs the Debian or Ubuntu packages it needs and can be repeated at any time.
# `run` and `test` share the dev profile, so RocksDB and Pingora are compiled once for both.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test fuzz bench bench-gateway bench-scale images lint deps clean-run

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

run: deps ## build and start a registry here; prints the docker commands to use it
	@scripts/run

test: ## lints, every test, and real docker, skopeo and podman clients
	@scripts/deps test
	@scripts/announce-build debug
	@scripts/lint
	cargo build --workspace --bins
	BERTH_TEST_PYTHON=$$(scripts/test-python) cargo test --workspace

fuzz: ## each fuzz target for a minute (BERTH_FUZZ_S); what they find lies in fuzz/artifacts
	@scripts/deps fuzz
	@scripts/fuzz

bench: ## speed beside nginx + docker-registry; writes docs/performance-table.md
	@scripts/deps bench
	@scripts/bench

bench-gateway: ## what the gateway costs beside nginx; writes docs/gateway-overhead.md
	@scripts/deps bench
	@scripts/bench-gateway

bench-scale: ## the same requests with up to a million tags and V1 images; writes docs/scale-table.md
	@scripts/deps bench
	@scripts/bench-scale

images: ## container images of both services, by docker or podman
	@scripts/images

lint: deps ## formatting, clippy, shellcheck and cargo-deny where installed
	@scripts/lint

deps: ## install what a build needs
	@scripts/deps build

clean-run: ## forget what `make run` keeps: configuration, certificates and all data
	@scripts/clean-run
