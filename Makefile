# gpuherd: build, test and install. `make help` lists the targets.

GO        ?= go
DESTDIR   ?=
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOLANGCI  ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME  ?= 60s
SOAKTIME  ?= 30m
TORTURE   ?= 20000

BIN       := bin
TREE      := $(BIN)/tree
TOOLS     := $(BIN)/tools
# NVML is C.
STATIC    := gpuherd gpuherd-generator redis-worker
CGO       := gpuherd-setup gpuherd-monitor
LDFLAGS   := -s -w -buildid= -X gpuherd/generator/version.version=$(VERSION)
# go-nvml's symbols resolve when NVML is loaded, not when the program starts.
CGOFLAGS  := -extldflags=-Wl,-z,lazy
export CGO_CFLAGS ?= -g -O2 -Wno-deprecated-declarations

.DEFAULT_GOAL := build
.PHONY: help build run test test-pm2 test-pages check soak torture lint fuzz bench install package clean dependencies tree image

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One set of flags for all that is built and vetted: the toolchain compiles each
# package anew for every other set, and that is most of a first run. The version
# comes by the linker, so git is not asked again.
export GOFLAGS := -trimpath -buildvcs=false
GOBUILD   := CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)'

build: ## build the programs into bin/
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/ $(STATIC:%=./cmd/%)
	CGO_ENABLED=1 $(GO) build -ldflags '$(LDFLAGS) $(CGOFLAGS)' -o $(BIN)/ $(CGO:%=./cmd/%)

dependencies: ## install what building and testing need (Debian, as root)
	@packaging/machine/install-dependencies

# What `make install` lays down, for the disposable machines to boot.
tree:
	@rm -rf $(TREE)
	@$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/$(TREE)

run: dependencies ## boot a disposable machine with two simulated GPUs and run jobs in it
	@mkdir -p $(TOOLS)
	@$(GOBUILD) -o $(TOOLS)/ ./packaging/machine/cmd/gpuherd-machine
	@$(MAKE) --no-print-directory -j2 image tree
	@$(GOBUILD) -o $(TOOLS)/ ./packaging/demo
	@$(TOOLS)/demo -tree $(TREE)

# The base image of `make run`, made once: beside the build, as both take long.
image:
	@$(TOOLS)/gpuherd-machine image trixie >/dev/null

test: dependencies tree ## run every test: units, then acceptance in disposable machines
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags acceptance,machine ./packaging/...
	$(GO) vet -tags browser ./cmd/gpuherd-monitor
	$(GO) test -race -timeout 10m ./...
	@# One after the other: of a single package go shows the tests as they end.
	$(GO) test -tags machine -timeout 15m -v ./packaging/machine
	$(GO) test -tags machine -timeout 20m -parallel $(shell nproc) -v ./packaging/acceptance

test-pm2: dependencies ## import what a real PM2, installed by npm, has saved
	$(GO) test -tags machine -count=1 -v -run ImportedFromPM2 ./packaging/bench

test-pages: dependencies ## look at the web pages in Chromium, which it installs
	@command -v chromium >/dev/null || apt-get install -y --no-install-recommends chromium
	$(GO) test -tags browser -count=1 -v -run InABrowser ./cmd/gpuherd-monitor

check: ## run the tests that need neither root nor a machine
	$(GO) vet ./...
	$(GO) test -race ./...

soak: dependencies tree ## do harm to a herd in a machine for SOAKTIME, and hold what was told against the journal
	$(GO) test -tags machine -timeout 0 -v -run '^TestMachines$$/^loss-trixie$$' ./packaging/acceptance -soak $(SOAKTIME)

torture: dependencies ## run TORTURE jobs while workers and Redis are killed and stopped, and account for each
	$(GO) test -timeout 0 -v -run '^TestTorture$$' ./cmd/redis-worker -torture $(TORTURE)

lint: ## run golangci-lint
	$(GO) run $(GOLANGCI) run ./...

fuzz: ## fuzz every parser for FUZZTIME each
	@for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for name in $$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' $$dir | awk '{print $$2}' | sort -u); do \
			echo "$$dir $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) $$dir || exit 1; \
		done; done

bench: dependencies tree ## measure against systemd's own tools, PM2, asynq and BullMQ, in one run
	@mkdir -p $(TOOLS)
	@$(GOBUILD) -o $(TOOLS)/ ./packaging/bench
	@cd packaging/bench/peers && $(GOBUILD) -o $(CURDIR)/$(TOOLS)/bench-asynq .
	@$(TOOLS)/bench -tree $(TREE)

install: build ## install into DESTDIR (default: this machine)
	@install -D -m 0755 -t $(DESTDIR)/usr/bin $(BIN)/gpuherd
	@install -D -m 0755 -t $(DESTDIR)/usr/lib/systemd/system-generators $(BIN)/gpuherd-generator
	@install -D -m 0755 -t $(DESTDIR)/usr/lib/gpuherd $(BIN)/gpuherd-monitor $(BIN)/gpuherd-setup $(BIN)/redis-worker
	@install -D -m 0755 -t $(DESTDIR)/usr/lib/gpuherd/jobs units/redisworker/jobs/echo
	@install -D -m 0644 -t $(DESTDIR)/usr/lib/gpuherd/services units/services/*.service
	@install -D -m 0644 -t $(DESTDIR)/usr/lib/systemd/system packaging/systemd/*
	@install -D -m 0644 -t $(DESTDIR)/usr/lib/udev/rules.d packaging/udev/60-gpuherd.rules
	@install -D -m 0644 packaging/sysusers/gpuherd.conf $(DESTDIR)/usr/lib/sysusers.d/gpuherd.conf
	@install -D -m 0644 packaging/tmpfiles/gpuherd.conf $(DESTDIR)/usr/lib/tmpfiles.d/gpuherd.conf
	@install -D -m 0644 packaging/gpuherd.conf $(DESTDIR)/usr/share/doc/gpuherd/gpuherd.conf
	@install -D -m 0644 packaging/service-file.example $(DESTDIR)/usr/share/doc/gpuherd/example.service
	@# The operator's own is never written over.
	@[ -e $(DESTDIR)/etc/gpuherd/gpuherd.conf ] || install -D -m 0644 packaging/gpuherd.conf $(DESTDIR)/etc/gpuherd/gpuherd.conf
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man1 packaging/man/*.1
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man5 packaging/man/*.5
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man7 packaging/man/*.7
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man8 packaging/man/*.8
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/prometheus packaging/prometheus/gpuherd.rules.yml
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/grafana packaging/grafana/gpuherd.json
	@install -d -m 0755 $(DESTDIR)/etc/gpuherd/gpuherd.conf.d $(DESTDIR)/etc/gpuherd/services $(DESTDIR)/etc/gpuherd/setup.d
	@install -d -m 0700 $(DESTDIR)/etc/credstore
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemd-sysusers gpuherd.conf && systemd-tmpfiles --create gpuherd.conf && systemctl daemon-reload && \
		echo "installed; now: systemctl enable --now gpuherd.target"; fi

package: build ## make dist/gpuherd-VERSION-linux-ARCH.tar.gz, byte for byte the same each time
	@rm -rf dist/tree && mkdir -p dist
	@$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/dist/tree
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$$(git log -1 --format=%ct)" -C dist/tree -c . | gzip -n > dist/gpuherd-$(VERSION)-linux-$$($(GO) env GOARCH).tar.gz
	@rm -rf dist/tree

clean: ## remove what was built
	rm -rf $(BIN) dist
