#!/usr/bin/env bash
# Prints the path of a vault program: $VAULT_BIN, which may be any version of
# Vault or OpenBao's bao, else the one on PATH, else one built from tools/vault
# and kept in the user's cache folder.
set -euo pipefail

case ${1:-} in
-h | --help)
	printf 'usage: scripts/vault.sh\n\n'
	awk 'NR > 1 { if (!sub(/^# /, "")) exit; print }' "$0"
	exit
	;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf 'vault.sh: %s\n' "$*" >&2; }

if [[ -n ${VAULT_BIN:-} ]]; then
	if [[ ! -f $VAULT_BIN || ! -x $VAULT_BIN ]]; then
		say "VAULT_BIN=$VAULT_BIN is not an executable file"
		exit 1
	fi
	# Absolute, since callers change folders.
	printf '%s/%s\n' "$(cd "$(dirname "$VAULT_BIN")" && pwd)" "$(basename "$VAULT_BIN")"
	exit
fi
if on_path=$(type -P vault); then
	printf '%s/%s\n' "$(cd "$(dirname "$on_path")" && pwd)" "$(basename "$on_path")"
	exit
fi
if ! type -P go >/dev/null; then
	say "there is no vault program, and no Go to build one; install either, or set VAULT_BIN"
	exit 1
fi

cd "$root/tools/vault"
version=$(awk '$1 == "github.com/hashicorp/vault" { print $2 }' go.mod)
# What decides the program's content is in its name, so that a change builds anew.
key=$(cat go.mod go.sum | git hash-object --stdin | cut -c1-12)
os=$(go env GOHOSTOS)
arch=$(go env GOHOSTARCH)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vault-plugin-secrets-snowplow
target=$cache/vault-$version-$os-$arch-$key

if [[ -x $target ]]; then
	printf '%s\n' "$target"
	exit
fi

mkdir -p "$cache"
if [[ ! -w $cache ]]; then
	say "$cache, where the built program would be kept, is not writable; set XDG_CACHE_HOME or VAULT_BIN"
	exit 1
fi

# The lock is a symbolic link to the process that holds it: made in one step,
# and a dead holder shows.
lock=$target.lock
until ln -s $$ "$lock" 2>/dev/null; do
	holder=$(readlink "$lock" || true)
	if [[ -n $holder ]] && ! kill -0 "$holder" 2>/dev/null; then
		rm -f "$lock"
		continue
	fi
	say "process ${holder:-?} is building Vault already; waiting for it"
	for _ in {1..30}; do
		sleep 1
		if [[ ! -L $lock ]]; then
			break
		fi
	done
done

# In the cache folder, since the rename has to stay within one file system.
work=$(mktemp -d "$target.build.XXXXXX")
builder=
cleanup() {
	if [[ -n $builder ]]; then
		kill "$builder" 2>/dev/null || true
		wait "$builder" 2>/dev/null || true
	fi
	rm -rf "$work"
	rm -f "$lock"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [[ -x $target ]]; then # built while this one waited
	printf '%s\n' "$target"
	exit
fi

say "no vault program on PATH and VAULT_BIN is not set: building Vault $version from source"
say "(1,900 packages of 360 modules, downloaded first; about 5 GB in Go's caches). This takes some minutes,"
say "once: the program is kept as $target"

# GOTMPDIR, so that an interrupted build leaves nothing behind. GOOS and GOARCH,
# since the program has to run here. -race=false, in case GOFLAGS says otherwise.
env GOWORK=off GOTMPDIR="$work" GOOS="$os" GOARCH="$arch" CGO_ENABLED=0 \
	go build -mod=readonly -race=false -tags minimal -trimpath -ldflags "-s -w" \
	-o "$work/vault" github.com/hashicorp/vault >&2 &
builder=$!
start=$SECONDS
next=30
while kill -0 "$builder" 2>/dev/null; do
	sleep 1
	if ((SECONDS - start >= next)); then
		say "still building, ${next} s so far"
		next=$((next + 30))
	fi
done
status=0
wait "$builder" || status=$?
builder=
if ((status != 0)); then
	say "building Vault failed; install a vault program (1.21 is what this is tested with) or set VAULT_BIN"
	exit 1
fi
"$work/vault" version >&2
mv "$work/vault" "$target"
say "done after $((SECONDS - start)) s"
printf '%s\n' "$target"
