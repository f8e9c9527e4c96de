#!/usr/bin/env bash
# usage: scripts/vault.sh
#
# Prints the path of a vault program: $VAULT_BIN, which may be any version of
# Vault or OpenBao's bao, else the one on PATH, else one built from tools/vault
# and kept in the user's cache folder.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
exec 3>&1 >&2 # the path alone goes to standard output

# found prints an absolute path, since callers change folders.
found() {
	printf '%s/%s\n' "$(cd "$(dirname "$1")" && pwd)" "$(basename "$1")" >&3
	exit
}

if [[ -n ${VAULT_BIN:-} ]]; then
	[[ -f $VAULT_BIN && -x $VAULT_BIN ]] || fail "VAULT_BIN=$VAULT_BIN is not an executable file"
	found "$VAULT_BIN"
fi
if on_path=$(type -P vault); then
	found "$on_path"
fi
type -P go >/dev/null || fail "there is no vault program, and no Go to build one; install either, or set VAULT_BIN"

cd "$root/tools/vault"
version=$(awk '$1 == "github.com/hashicorp/vault" { print $2 }' go.mod)
# What decides the program's content is in its name, so that a change builds anew.
key=$(cat go.mod go.sum | git hash-object --stdin | cut -c1-12)
os=$(go env GOHOSTOS)
arch=$(go env GOHOSTARCH)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/$plugin
target=$cache/vault-$version-$os-$arch-$key
[[ ! -x $target ]] || found "$target"
mkdir -p "$cache"
[[ -w $cache ]] || fail "$cache, where the built program would be kept, is not writable; set XDG_CACHE_HOME or VAULT_BIN"

# The lock is a symbolic link to the process that holds it: made in one step,
# and a dead holder shows.
lock=$target.lock
until ln -s $$ "$lock" 2>/dev/null; do
	holder=$(readlink "$lock" || true)
	if [[ -n $holder ]] && ! kill -0 "$holder" 2>/dev/null; then
		rm -f "$lock"
		continue
	fi
	say "Process ${holder:-?} is building Vault already; waiting for it"
	for _ in {1..30}; do
		sleep 1
		[[ -L $lock ]] || break
	done
done
# In the cache folder, since the rename has to stay within one file system.
TMPDIR=$cache make_work_folder
trap 'clean_up; rm -f "$lock"' EXIT
umask 022
[[ ! -x $target ]] || found "$target" # built while this one waited

say "No vault program is on PATH and VAULT_BIN is not set: building Vault $version from source
(1,900 packages of 360 modules, downloaded first; about 5 GB in Go's caches). This takes some minutes,
once: the program is kept as $target"

# GOTMPDIR, so that an interrupted build leaves nothing behind. GOOS and GOARCH,
# since the program has to run here. -race=false, in case GOFLAGS says otherwise.
env GOWORK=off GOTMPDIR="$work" GOOS="$os" GOARCH="$arch" CGO_ENABLED=0 \
	go build -mod=readonly -race=false -tags minimal -trimpath -ldflags "-s -w" \
	-o "$work/vault" github.com/hashicorp/vault &
builder=$!
started+=("$builder")
start=$SECONDS
next=30
while kill -0 "$builder" 2>/dev/null; do
	sleep 1
	if ((SECONDS - start >= next)); then
		say "Still building, $next s so far"
		next=$((next + 30))
	fi
done
wait "$builder" || fail "building Vault failed; install a vault program (1.21 is what this is tested with) or set VAULT_BIN"
"$work/vault" version
mv "$work/vault" "$target"
say "Done after $((SECONDS - start)) s"
found "$target"
