PLUGIN := vault-plugin-secrets-snowplow

BIN      ?= bin
FUZZTIME ?= 30s
SEEDS    ?= 20000
MINCOVER ?= 97
FROM     ?= 0
STORAGE  ?= raft
SOAK     ?= 20m
VULNDB   ?= https://vuln.go.dev

# A go.work of the user's in a parent folder is none of ours.
export GOWORK := off

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

build: ## Build the plugin and snowplow-exec into bin/; with VERSION=v1.2.3, the plugin's file is named after it
	scripts/build.sh "$(BIN)"

# What the tests and the demo run, always under the same names.
programs:
	@unset VERSION; scripts/build.sh

release: ## Build VERSION (the tag of HEAD) for every platform into dist/, with archives, SBOMs and checksums
	scripts/release.sh

test-release: ## Build a release twice, in two folders, and compare the bytes
	scripts/test_release.sh

image: ## Build the container image of the release VERSION in dist/
	scripts/image.sh

test: programs ## Run every test; the acceptance tests on a real Vault
	scripts/test.sh

test-clients: programs ## Run the example clients, with hvac and node-vault installed, and the Terraform recipe
	@vault=$$(scripts/vault.sh) && export VAULT_ACC=1 VAULT_BIN=$$vault && \
		ACCEPTANCE_CLIENTS=1 go test -count=1 -v -run '^TestExampleClients' ./acceptance && \
		ACCEPTANCE_DOWNLOADS=1 go test -count=1 -v -run '^TestTerraform' ./acceptance

test-monitoring: programs ## Test the alert rules and the dashboard, with prometheus and promtool on PATH
	@vault=$$(scripts/vault.sh) && \
		VAULT_ACC=1 VAULT_BIN=$$vault MONITORING_ACC=1 go test -count=1 -timeout=15m -v -run '^TestMonitoring' ./acceptance

docs-test: programs ## Run the commands of README and docs/ on a Vault in production mode; needs curl, jq and libcap2-bin
	@vault=$$(scripts/vault.sh) && \
		VAULT_ACC=1 VAULT_BIN=$$vault DOCS_ACC=1 go test -count=1 -timeout=20m -v -run '^TestCommandsOfThePages$$' ./acceptance

demo: programs ## Show the engine at work, on a Vault dev server and a fake Console
	scripts/demo.sh

dev: programs ## The demo's Vault and Console, left running until Ctrl-C
	scripts/demo.sh -keep

lint: export CGO_ENABLED := 0
lint: ## gofmt, go vet (snowplow-exec for each system), golangci-lint, the scripts (shellcheck if there) and the workflows
	@unformatted=$$(gofmt -l .) || exit 1; \
		if [ -n "$$unformatted" ]; then echo "gofmt -w these: $$unformatted" >&2; exit 1; fi
	go vet ./...
	@for os in darwin windows; do GOOS=$$os go vet ./cmd/snowplow-exec || exit 1; done
	go tool -modfile=tools/lint/go.mod golangci-lint run --allow-serial-runners ./...
	go tool -modfile=tools/actionlint/go.mod actionlint -shellcheck= -pyflakes=
	go tool -modfile=tools/actionlint/go.mod actionlint -shellcheck= -pyflakes= examples/ci/github-actions.yml
	@for script in .ci/run scripts/*.sh examples/clients/curl/*.sh; do bash -n "$$script" || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck -x .ci/run scripts/*.sh; \
		else echo "shellcheck is not installed: the scripts were checked for their syntax only" >&2; fi

vulncheck: ## Look for known vulnerabilities in what the programs call; VULNDB names another database
	go tool -modfile=tools/vulncheck/go.mod govulncheck -db "$(VULNDB)" ./...

# Without what launches a real Vault: only the acceptance tests run it.
cover: ## Measure how much of the root and internal/ the tests run, in cover.out; fail below MINCOVER (97) percent
	@packages=$$(go list . ./internal/... | grep -v '/internal/vaulttest$$' | paste -sd, -) && \
		go test -covermode=atomic -coverpkg="$$packages" -coverprofile=cover.out ./... && \
		total=$$(go tool cover -func=cover.out | awk '/^total:/ { print $$NF }') && \
		echo "covered: $$total of statements; the minimum is $(MINCOVER)%" && \
		awk -v total="$$total" 'BEGIN { exit total + 0 < $(MINCOVER) }'

fuzz: ## Run each fuzz target for FUZZTIME (30s)
	@for package in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		targets=$$(go test -list '^Fuzz' "$$package") || { echo "$$targets" >&2; exit 1; }; \
		for target in $$(echo "$$targets" | grep '^Fuzz'); do \
			echo "== $$target of $$package"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x -parallel "$$(getconf _NPROCESSORS_ONLN)" "$$package" || exit 1; \
		done; \
	done

model: ## Hold SEEDS (20000) random schedules from number FROM (0) against the contract, about 25 a second
	MODEL_SEEDS=$(SEEDS) MODEL_FROM=$(FROM) go test -race -count=1 -timeout=0 -v -run '^TestNoScheduleBreaksTheContract$$' .

bench: programs ## Measure what a read costs on a Vault with STORAGE (raft, with TLS and an audit log; or inmem)
	@vault=$$(scripts/vault.sh) && go run -race=false ./bench/load -vault "$$vault" -storage "$(STORAGE)" reads

bench-growth: programs ## Measure what leases, mounts, roles and a failover cost
	@vault=$$(scripts/vault.sh) && go run -race=false ./bench/load -vault "$$vault" leases mounts roles failover

soak: programs ## Put load on the engine for SOAK (20m)
	@vault=$$(scripts/vault.sh) && go run -race=false ./bench/load -vault "$$vault" -storage inmem -soak "$(SOAK)" soak

clean: ## Remove what was built; the Vault kept in the user's cache folder stays
	rm -rf bin dist cover.out

.PHONY: help build programs release test-release image test test-clients test-monitoring docs-test cover demo dev lint vulncheck fuzz model bench bench-growth soak clean
