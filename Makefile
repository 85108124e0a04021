# gpuherd: build, test and install. `make help` lists the targets.

GO        ?= go
DESTDIR   ?=
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOLANGCI  ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK ?= golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME  ?= 60s
SOAKTIME  ?= 30m
TORTURE   ?= 20000
# Of `make package`: for which machines, as which packages, who is named as the maintainer, and the
# file with the secret OpenPGP key that signs (passphrase in NFPM_PASSPHRASE).
ARCHES      ?= amd64 arm64
FORMATS     ?= deb rpm
PACKAGER    ?= The gpuherd authors <gpuherd@gpuherd.invalid>
SIGNING_KEY ?=

BIN       := bin
TREE      := $(BIN)/tree
TOOLS     := bin/tools
# NVML is C.
STATIC    := gpuherd gpuherd-generator redis-worker
CGO       := gpuherd-setup gpuherd-monitor
LDFLAGS   := -s -w -buildid= -X gpuherd/generator/version.version=$(VERSION)
# go-nvml's symbols resolve when NVML is loaded, not when the program starts.
CGOFLAGS  := -extldflags=-Wl,-z,lazy
export CGO_CFLAGS ?= -g -O2 -Wno-deprecated-declarations

# Each program that is built with -race would sleep for a second at its end, and
# tests run some hundreds of them.
export GORACE ?= atexit_sleep_ms=0

.DEFAULT_GOAL := build
.PHONY: help build run test test-machines test-pm2 test-pages test-packages check soak torture lint vulncheck fuzz bench install uninstall package container release clean dependencies test-dependencies package-dependencies tree image lay package-tools package-one

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

# What tests alone need, too.
test-dependencies:
	@packaging/machine/install-dependencies test

# And a C compiler for the other architecture.
package-dependencies:
	@packaging/machine/install-dependencies package

# Written by the program itself, which has to be the host's.
COMPLETIONS := bash-completion/completions zsh/vendor-completions fish/vendor_completions.d
COMPLETER   ?= $(BIN)/gpuherd

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

test: test-dependencies tree ## run every test: units, then acceptance in disposable machines
	@$(MAKE) --no-print-directory package ARCHES=$(HOSTARCH)
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags acceptance,machine ./packaging/...
	$(GO) vet -tags browser ./cmd/gpuherd-monitor
	$(GO) test -race -timeout 10m ./...
	@# One after the other: of a single package go shows the tests as they end.
	$(GO) test -tags machine -timeout 15m -v ./packaging/machine
	$(GO) test -tags machine -timeout 20m -parallel $$(( $$(nproc) + 1 )) -v ./packaging/acceptance

test-machines: test-dependencies tree ## run the acceptance tests, in the machines that make test has no time for, too
	@$(MAKE) --no-print-directory package ARCHES=$(HOSTARCH)
	$(GO) test -tags machine -timeout 60m -count=1 -parallel $$(( $$(nproc) + 1 )) -v ./packaging/acceptance -long

test-pm2: dependencies tree ## have the herd run, in machines, what a real PM2, installed by npm, ran and saved there
	$(GO) test -tags machine -timeout 30m -count=1 -v -run '^TestMachines$$/^pm2-' ./packaging/acceptance -pm2

test-pages: dependencies ## look at the web pages in Chromium, which it installs
	@command -v chromium >/dev/null || apt-get install -y --no-install-recommends chromium
	$(GO) test -tags browser -count=1 -v -run InABrowser ./cmd/gpuherd-monitor

test-packages: package-dependencies ## build every package twice, from nothing, compare and check them, and run those of the other architecture by QEMU
	$(GO) test -tags machine -timeout 60m -count=1 -v -run '^TestPackagesAreTheSame$$' ./packaging/acceptance -twice

check: ## run the tests that need neither root nor a machine
	$(GO) vet ./...
	$(GO) test -race ./...

soak: dependencies tree ## do harm to a herd in a machine for SOAKTIME, and hold what was told against the journal
	$(GO) test -tags machine -timeout 0 -v -run '^TestMachines$$/^loss-trixie$$' ./packaging/acceptance -soak $(SOAKTIME)

torture: dependencies ## run TORTURE jobs while workers and Redis are killed and stopped, and account for each
	$(GO) test -timeout 0 -v -run '^TestTorture$$' ./cmd/redis-worker -torture $(TORTURE)

lint: ## run golangci-lint
	$(GO) run $(GOLANGCI) run --build-tags machine,acceptance,browser ./...

vulncheck: ## look for known vulnerabilities that our code reaches (asks vuln.go.dev)
	$(GO) run $(GOVULNCHECK) ./...

fuzz: ## fuzz every parser for FUZZTIME each
	@for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for name in $$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' $$dir | awk '{print $$2}' | sort -u); do \
			echo "$$dir $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$dir || exit 1; \
		done; done

bench: dependencies tree ## measure against systemd's own tools, PM2, asynq and BullMQ, in one run
	@mkdir -p $(TOOLS)
	@$(GOBUILD) -o $(TOOLS)/ ./packaging/bench
	@cd packaging/bench/peers && $(GOBUILD) -o $(CURDIR)/$(TOOLS)/bench-asynq .
	@$(TOOLS)/bench -tree $(TREE)

install: build ## install into DESTDIR (default: this machine)
	@$(MAKE) --no-print-directory lay

# What there is to remove is what install would lay down: with empty programs,
# as nothing needs to be built for it.
uninstall: ## remove from DESTDIR what install put there; configuration and data stay
	@laid=$$(mktemp -d) && trap 'rm -rf "$$laid"' EXIT && \
		mkdir "$$laid/bin" && (cd "$$laid/bin" && touch $(STATIC) $(CGO)) && \
		$(MAKE) --no-print-directory lay BIN="$$laid/bin" COMPLETER=true DESTDIR="$$laid/root" && \
		find "$$laid/root" -mindepth 1 -depth -printf '%y %P\n' >"$$laid/list" && packaging/uninstall '$(DESTDIR)' <"$$laid/list"

# Lays down what is built in BIN.
lay:
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
	@install -D -m 0644 -t $(DESTDIR)/usr/share/doc/gpuherd README.md
	@install -D -m 0644 -t $(DESTDIR)/usr/share/doc/gpuherd/examples units/redisworker/examples/*.md units/redisworker/examples/*.py units/redisworker/examples/*.mjs
	@install -D -m 0644 -t $(DESTDIR)/usr/share/doc/gpuherd/examples/comfyui units/redisworker/examples/comfyui/*
	@install -D -m 0644 packaging/service-file.example $(DESTDIR)/usr/share/doc/gpuherd/example.service
	@# The operator's own is never written over.
	@[ -e $(DESTDIR)/etc/gpuherd/gpuherd.conf ] || install -D -m 0644 packaging/gpuherd.conf $(DESTDIR)/etc/gpuherd/gpuherd.conf
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man1 packaging/man/*.1
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man5 packaging/man/*.5
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man7 packaging/man/*.7
	@install -D -m 0644 -t $(DESTDIR)/usr/share/man/man8 packaging/man/*.8
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/prometheus packaging/prometheus/gpuherd.rules.yml
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/grafana packaging/grafana/gpuherd.json
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/journald packaging/journald/gpuherd.conf
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/apparmor packaging/apparmor/gpuherd-monitor
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/selinux packaging/selinux/gpuherd.cil
	@install -D -m 0644 -t $(DESTDIR)/usr/share/gpuherd/redis packaging/redis/*.rights
	@install -D -m 0644 -t $(DESTDIR)/usr/lib/systemd/system-preset packaging/preset/50-gpuherd.preset
	@install -d -m 0755 $(COMPLETIONS:%=$(DESTDIR)/usr/share/%)
	@umask 022; $(COMPLETER) completion bash >$(DESTDIR)/usr/share/bash-completion/completions/gpuherd
	@umask 022; $(COMPLETER) completion zsh >$(DESTDIR)/usr/share/zsh/vendor-completions/_gpuherd
	@umask 022; $(COMPLETER) completion fish >$(DESTDIR)/usr/share/fish/vendor_completions.d/gpuherd.fish
	@install -d -m 0755 $(DESTDIR)/etc/gpuherd/gpuherd.conf.d $(DESTDIR)/etc/gpuherd/services $(DESTDIR)/etc/gpuherd/setup.d
	@install -d -m 0700 $(DESTDIR)/etc/credstore
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemd-sysusers gpuherd.conf && systemd-tmpfiles --create gpuherd.conf && systemctl daemon-reload && \
		echo "installed; now: systemctl enable --now gpuherd.target"; fi

# Everything in a package has the time of the commit.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
HOSTARCH        := $(shell $(GO) env GOARCH)
PACKAGE_VERSION  = $(shell $(TOOLS)/release -version '$(VERSION)' -date $(SOURCE_DATE_EPOCH) version)
# A C compiler for the other architecture, as Debian names it.
CROSS_amd64     := x86_64-linux-gnu-gcc
CROSS_arm64     := aarch64-linux-gnu-gcc

package: build package-tools ## make dist/: deb, rpm, tar.gz and bill of materials for ARCHES, the same bytes each time
	@rm -rf dist && mkdir -p dist
	@umask 022; for arch in $(ARCHES); do \
		bin=bin; \
		if [ $$arch != $(HOSTARCH) ]; then \
			bin=bin/$$arch; \
			GOARCH=$$arch $(MAKE) --no-print-directory build BIN=$$bin CC=$(CROSS_$(filter-out $(HOSTARCH),$(ARCHES))) || exit 1; \
		fi; \
		$(MAKE) --no-print-directory package-one ARCH=$$arch BIN=$$bin || exit 1; \
	done
	@cd dist && sha256sum -- *.* >SHA256SUMS && ls -sh1

# podman or docker, whichever is there. Debian comes from where the engine gets its
# images; the health check needs the format of docker's.
ENGINE ?= $(shell command -v podman || command -v docker)
IMAGE  ?= gpuherd
DEBIAN ?= trixie
container: ## make the container image IMAGE (default gpuherd) of DEBIAN (default trixie) by podman or docker
	@[ -n '$(ENGINE)' ] || { echo "container: neither podman nor docker is here" >&2; exit 1; }
	@$(MAKE) --no-print-directory package ARCHES=$(HOSTARCH)
	$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker) --build-arg DEBIAN=$(DEBIAN) -t $(IMAGE) -f packaging/container/Containerfile .

release: ## make dist/ for the tag at HEAD: packages, their sums and bill of materials, and NOTES.md
	@case '$(VERSION)' in v[0-9]*-dirty | v[0-9]*-g*) false;; v[0-9]*.[0-9]*.[0-9]*) true;; *) false;; esac || \
		{ echo "release: HEAD is no clean commit with a tag vX.Y.Z, but $(VERSION)" >&2; exit 1; }
	@$(MAKE) --no-print-directory package-tools
	@$(TOOLS)/release -version '$(VERSION)' notes >/dev/null
	@$(MAKE) --no-print-directory package
	@$(TOOLS)/release -version '$(VERSION)' notes >dist/NOTES.md
	@if [ -n '$(SIGNING_KEY)' ]; then packaging/release/sign '$(SIGNING_KEY)' dist/SHA256SUMS; fi

package-tools:
	@mkdir -p $(TOOLS)
	@$(GOBUILD) -o $(TOOLS)/ ./packaging/release
	@cd packaging/nfpm && $(GOBUILD) -o $(CURDIR)/$(TOOLS)/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm

# The packages of one architecture, whose programs are in BIN.
package-one: stage = dist/tree-$(ARCH)
package-one: programs = $(STATIC:%=$(BIN)/%) $(CGO:%=$(BIN)/%)
package-one: said = $(TOOLS)/release -version '$(VERSION)' -date $(SOURCE_DATE_EPOCH) -arch $(ARCH)
package-one: name = gpuherd_$(PACKAGE_VERSION)-1_$(ARCH)
package-one: nfpm = SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) PACKAGE_ARCH=$(ARCH) PACKAGE_VERSION=$(PACKAGE_VERSION) \
	PACKAGE_TREE=$(stage)/root PACKAGE_DOC=$(stage)/doc PACKAGE_GLIBC=$$($(said) glibc $(programs)) PACKAGER='$(PACKAGER)' \
	SIGNING_KEY='$(SIGNING_KEY)' $(TOOLS)/nfpm package --config packaging/nfpm/nfpm.yaml --target dist/
package-one:
	@$(MAKE) --no-print-directory lay BIN=$(BIN) COMPLETER=bin/gpuherd DESTDIR=$(CURDIR)/$(stage)/root
	@gzip -9n $(stage)/root/usr/share/man/man*/*
	@mkdir -p $(stage)/doc
	@$(said) -maintainer '$(PACKAGER)' changelog | gzip -9n >$(stage)/doc/changelog.Debian.gz
	@gzip -9nc CHANGELOG.md >$(stage)/doc/changelog.gz
	@$(said) copyright $(programs) >$(stage)/doc/copyright
	@$(said) sbom $(programs) >dist/$(name).cdx.json
	@find $(stage) -exec touch -h -d @$(SOURCE_DATE_EPOCH) {} +
	@tar --sort=name --owner=0 --group=0 --numeric-owner -C $(stage)/root -c . | gzip -9n >dist/$(name).tar.gz
	@case " $(FORMATS) " in *" deb "*) $(nfpm) --packager deb >/dev/null;; esac
	@# Where Fedora's zsh looks.
	@cd $(stage)/root/usr/share/zsh && mv vendor-completions site-functions && touch -d @$(SOURCE_DATE_EPOCH) . site-functions
	@case " $(FORMATS) " in *" rpm "*) $(nfpm) --packager rpm >/dev/null;; esac
	@rm -rf $(stage)

clean: ## remove what was built
	rm -rf $(BIN) dist
