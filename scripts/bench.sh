#!/usr/bin/env bash
# Measures the engine against the baseline (bench/baseline), a plugin that does
# nothing, on one real Vault, and prints one table. Arguments go to bench/load:
# -rounds N, -seconds N. "make bench" builds the engine and calls this.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

forget_vault_variables
[[ -x $root/bin/$plugin ]] || fail "bin/$plugin is missing: run make build first"
vault_bin=$("$root/scripts/vault.sh") || fail "there is no Vault to use (see above)"
make_work_folder

say "Building the baseline and the load" >&2
(
	cd "$root" || exit
	# As the Makefile builds the engine: the two binaries are compared.
	CGO_ENABLED=0 go build -race=false -trimpath -ldflags '-s -w' -o "$work/baseline" ./bench/baselineplugin
	CGO_ENABLED=0 go build -race=false -trimpath -o "$work/load" ./bench/load
)

say "Measuring. This takes about five minutes, and wants a machine that does nothing else" >&2
# In the background, since bash acts on a signal only between commands.
TMPDIR=$work "$work/load" -vault "$vault_bin" -engine "$root/bin/$plugin" -baseline "$work/baseline" "$@" &
started+=("$!")
wait "$!"
