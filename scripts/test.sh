#!/usr/bin/env bash
# usage: [VAULT_BIN=/path/of/vault] scripts/test.sh
#
# Runs every test: first those that need only Go, then the acceptance tests on a
# real server, VAULT_BIN (bao, for example) or the one that scripts/vault.sh finds.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
forget_vault_variables

# The race detector needs a working C compiler, as nothing else here does. Only a trial shows whether it works; what
# that builds is used again.
race=-race
export CGO_ENABLED=1
if ! reason=$(go test -race -run '^$' errors 2>&1); then
	race=-race=false
	export CGO_ENABLED=0
fi
say_race() {
	if [[ $race == -race=false ]]; then
		printf '\nWITHOUT THE RACE DETECTOR: it does not work here, so data races go unnoticed.\n'
		printf 'It needs a C compiler (for example gcc with libc6-dev). The trial said:\n%s\n\n' "$reason"
	fi
} >&2
say_race

say "unit tests"
go test "$race" ./...

say "acceptance tests"
vault=$(scripts/vault.sh) || fail "the acceptance tests need a Vault, and there is none (see above)"
make_work_folder
VAULT_ACC=1 VAULT_BIN=$vault ACCEPTANCE_NOT_RUN=$work/not-run \
	go test "$race" -count=1 -timeout=20m ./acceptance/... ./internal/vaulttest/...
if [[ -s $work/not-run ]]; then
	say "NOT RUN, because a program is missing"
	sort "$work/not-run"
fi
say_race
if ! type -P prometheus promtool >/dev/null; then
	printf '\nWITHOUT THE MONITORING TESTS: prometheus or promtool is not on PATH. Run them with make test-monitoring.\n\n' >&2
fi
