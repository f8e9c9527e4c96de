#!/usr/bin/env bash
# A Vault dev server with the plugin set up, left running until Ctrl-C.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

forget_vault_variables
make_work_folder
trap 'exit 0' INT # the way to end this script
find_programs
choose_console
start_vault
set_up_engine

say "Ready. In another shell:"
printf '\nexport VAULT_ADDR=%s\nexport VAULT_TOKEN=%s\n' "$VAULT_ADDR" "$VAULT_TOKEN"
if [[ $(type -P vault || true) != "$vault_bin" ]]; then
	printf 'alias vault=%q\n' "$vault_bin"
fi
printf 'vault read snowplow/token\n%q -- snowplow-cli status\n\nConsole:' "$root/bin/snowplow-exec"
printf ' %s. Log of Vault: %s. Ctrl-C ends all of it.\n' "$console_url" "$work/server.log"

wait "$server_pid" || true
tail -n 20 server.log >&2
fail "Vault's dev server ended (its last lines are above)"
