#!/usr/bin/env bash
# Puts load on the engine, on a real Vault, and fails if the plugin's memory,
# threads or open files are more at the end than in the middle. The argument is
# how long: 20m if it is left out. "make soak" builds the engine and calls this.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

duration=${1:-20m}
forget_vault_variables
[[ -x $root/bin/$plugin ]] || fail "bin/$plugin is missing: run make build first"
vault_bin=$("$root/scripts/vault.sh") || fail "there is no Vault to use (see above)"
make_work_folder

say "Building the load"
(cd "$root" && CGO_ENABLED=0 go build -race=false -trimpath -o "$work/load" ./bench/load)

say "Load for $duration"
# In the background, since bash acts on a signal only between commands.
TMPDIR=$work "$work/load" -vault "$vault_bin" -engine "$root/bin/$plugin" -soak "$duration" &
started+=("$!")
wait "$!"
