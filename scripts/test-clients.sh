#!/usr/bin/env bash
# The example clients and the Terraform recipe, on a real Vault. Installs what
# they need: Debian's python3-hvac, jq and curl if apt-get is there and this is
# root, node-vault into examples/clients/node/node_modules, Terraform's provider
# into a temporary folder. Takes some minutes. "make test-clients" builds the
# plugin and calls this.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
forget_vault_variables
make_work_folder

has_hvac() { python3 -c 'import hvac' 2>/dev/null || /usr/bin/python3 -c 'import hvac' 2>/dev/null; }

missing=()
has_hvac || missing+=(python3-hvac)
for program in curl jq; do
	type -P "$program" >/dev/null || missing+=("$program")
done
if ((${#missing[@]} > 0)); then
	if type -P apt-get >/dev/null && ((EUID == 0)); then
		say "installing ${missing[*]}"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
	else
		fail "these are missing, and apt-get cannot install them here: ${missing[*]}"
	fi
fi

type -P npm >/dev/null || fail "npm is missing: install Node.js 18 or later"
say "installing node-vault"
npm ci --prefix examples/clients/node --ignore-scripts --no-audit --no-fund

say "tests"
if ! vault=$(scripts/vault.sh); then
	fail "the tests need a Vault, and there is none (see above)"
fi
VAULT_ACC=1 VAULT_BIN=$vault ACCEPTANCE_DOWNLOADS=1 ACCEPTANCE_NOT_RUN=$work/not-run \
	go test -count=1 -timeout=10m -v -run '^(TestExampleClients|TestTerraform)' ./acceptance | tee "$work/output" |
	grep -E '^ *--- |^(ok|FAIL)' || {
	cat "$work/output"
	fail "see above"
}
if [[ -s $work/not-run ]]; then
	say "NOT RUN"
	sort "$work/not-run"
	if grep -q ^TestExampleClients "$work/not-run"; then
		fail "not every client was run (see above)"
	fi
fi
