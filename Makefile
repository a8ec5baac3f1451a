SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
NODE := node_modules/node/bin/node
BIOME := node_modules/.bin/biome
TSC := node_modules/.bin/tsc
STAMP := node_modules/.stamp
VERSION = $(shell sed -n 's/^  "version": "\(.*\)",/\1/p' package.json)
IMAGE ?= outrider:$(VERSION)

.PHONY: help install run demo test lint fmt types generate verify tools cluster bundle image image-archive cover bench bench-operator bench-webhook soak fuzz clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## install the packages of package-lock.json, Node 24 among them

# npm may be told not to run install scripts; the one of the package `node` fetches its binary from the npm registry.
$(STAMP): package-lock.json
	npm ci
	test -x $(NODE) || (cd node_modules/node && node installArchSpecificPackage)
	$(NODE) --version
	touch $@

run: install ## start the proxy with examples/acl.yaml and an echo server, and print curl lines to try
	$(NODE) examples/run.ts

demo: install ## helm install, kubectl apply, annotate on a real cluster of its own (as root), or DEMO_CONTEXT=yours (DEMO_IMAGE=…); DEMO_EXIT=1
	$(NODE) test/cluster/demo.ts

test: install types lint ## install, check types and style, run all tests (FILES="test/policy/*.test.ts": some)
	$(NODE) test/run.ts $(FILES)

types: install ## check the types
	$(TSC) -p .

lint: install ## check style and lint rules
	$(BIOME) check --error-on-warnings .

fmt: install ## format and mend what can be mended
	$(BIOME) check --write .

generate: install ## make types and docs/crd.md of crds/egresspolicies.yaml, the chart's README and its copy of the CRD
	$(NODE) crds/generate.ts
	$(NODE) charts/generate.ts

verify: install ## check that what `make generate` makes is up to date
	$(NODE) crds/generate.ts --verify
	$(NODE) charts/generate.ts --verify

tools: install ## get the programs of the test cluster, as `make demo` and `make test` do: KUBEBUILDER_ASSETS, ~/.cache, or a build with Go (once, 10 to 25 minutes)
	$(NODE) test/cluster/make-tools.ts

cluster: install ## start a real control plane with two simulated nodes, print its KUBECONFIG, end with Ctrl-C
	$(NODE) test/cluster/up.ts

bundle: install ## make dist/: operator and proxy without node_modules, their licences, an SBOM
	$(NODE) bin/image/bundle.ts

# docker has a command line even where no engine runs.
image: ## build the image of the Dockerfile with docker or buildah (IMAGE=outrider:TAG, BASE=a base with Node.js 24)
	@if docker info >/dev/null 2>&1; then engine="docker build"; \
	elif command -v buildah >/dev/null; then engine="buildah build"; \
	else echo "make image needs docker (with its engine running) or buildah; make image-archive needs neither" >&2; exit 2; fi; \
	$$engine $(if $(BASE),--build-arg BASE=$(BASE)) --build-arg VERSION=$(VERSION) -t $(IMAGE) .

image-archive: install ## make the image as an OCI archive, without an engine or a registry (IMAGE=outrider:TAG, ARGS="--out FILE")
	$(NODE) bin/image/archive.ts --name $(IMAGE) $(ARGS)

cover: install ## run all tests with coverage of proxy/
	$(NODE) --test --test-concurrency=1 --test-force-exit --experimental-test-coverage --test-coverage-include='proxy/**' 'test/**/*.test.ts'

bench: install ## measure CPU, memory and latency beside squid, tinyproxy, nginx (Debian packages; as root): docs/performance.md
	$(NODE) --expose-gc test/bench/main.ts $(ARGS)

bench-operator: install ## measure 500 policies at once on a real API server: docs/performance.md
	$(NODE) test/bench/operator/main.ts $(ARGS)

bench-webhook: install ## measure admissions on a real API server (ARGS="PODS_PER_SECOND SECONDS"): docs/performance.md
	$(NODE) test/bench/webhook/main.ts $(ARGS)

soak: install ## 15 minutes of load on a real node, as root: memory must not grow (ARGS=MINUTES): docs/performance.md
	$(NODE) test/e2e/soak.ts $(ARGS)

fuzz: install ## send hostile traffic through one proxy for minutes (SEED=… MINUTES=… ARGS="--without KIND"; ARGS=--help)
	$(NODE) test/fuzz/main.ts $(ARGS)

clean: ## remove what the other targets made
	rm -rf node_modules coverage dist outrider-*.tar .cache
