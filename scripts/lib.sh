# What the scripts share. To be sourced by a bash that has set -euo pipefail,
# with the script's own arguments.
# shellcheck shell=bash disable=SC2034

# -h prints the comment at the head of the script.
case ${1:-} in
-h | --help)
	awk 'NR > 1 { if (!sub(/^# ?/, "")) exit; print }' "$0"
	exit
	;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
plugin=vault-plugin-secrets-snowplow

say() { printf '\n== %s\n' "$*"; }

fail() {
	printf '\n%s: FAILED: %s\n' "$(basename "$0" .sh)" "$*" >&2
	exit 1
}

# The user's own Vault must neither be used nor get in the way.
forget_vault_variables() {
	local name
	for name in $(compgen -e VAULT_ || true; compgen -e BAO_ || true; compgen -e SNOWPLOW_EXEC_ || true); do
		if [[ $name != VAULT_BIN ]]; then
			unset "$name"
		fi
	done
}

# make_work_folder makes a temporary folder, which is removed at the end, after
# the processes in started have been stopped.
make_work_folder() {
	umask 077
	work=$(mktemp -d "${TMPDIR:-/tmp}/$plugin.XXXXXX")
	started=()
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

clean_up() {
	local pid
	for pid in ${started[@]+"${started[@]}"}; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in ${started[@]+"${started[@]}"}; do
		wait "$pid" 2>/dev/null || true
	done
	chmod -R u+w "$work" && rm -rf "$work" # Go's files can be read-only
}

# await runs a command until it succeeds, for as long as the process $2 runs.
await() {
	local what=$1 pid=$2 deadline=$((SECONDS + 60))
	shift 2
	until "$@" >/dev/null 2>&1; do
		if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
			tail -n 20 "$work"/*.log >&2 || true
			fail "$what (the end of the logs is above)"
		fi
		sleep 0.2
	done
}

sha256() {
	if type -P sha256sum >/dev/null; then
		sha256sum "$@"
	else
		shasum -a 256 "$@"
	fi
}

# choose_version sets VERSION, unless it is given, to the tag of HEAD.
choose_version() {
	local LC_ALL=C number='(0|[1-9][0-9]*)' build='[0-9A-Za-z-]+' # [A-Z] means ASCII
	# A numeric identifier of a pre-release has no leading zero.
	local identifier="($number|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
	export VERSION=${VERSION-$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || echo v0.0.0-dev)}
	[[ $VERSION =~ ^v$number\.$number\.$number(-$identifier(\.$identifier)*)?(\+$build(\.$build)*)?$ ]] ||
		fail "VERSION=$(printf %q "$VERSION") is not a semantic version: it must be vMAJOR.MINOR.PATCH[-PRERELEASE][+BUILD], for example v1.2.3 or v1.2.3-rc.1"
}

# choose_source sets COMMIT and SOURCE_DATE_EPOCH, the date of the commit,
# unless both are given for a build without git. A release is of a commit.
choose_source() {
	local changes
	if [[ -z ${COMMIT:-} || -z ${SOURCE_DATE_EPOCH:-} ]]; then
		changes=$(git status --porcelain) || fail "git does not know the commit; set COMMIT and SOURCE_DATE_EPOCH to build without git"
		[[ -z $changes ]] || fail "the work tree has changes; commit or stash them, since a release is of a commit: ${changes//$'\n'/, }"
		# The length is fixed: how short git cuts it otherwise depends on the clone.
		COMMIT=$(git rev-parse --short=12 HEAD)
		SOURCE_DATE_EPOCH=$(git log -1 --format=%ct HEAD)
	fi
	[[ $COMMIT =~ ^[0-9a-f]+$ ]] || fail "COMMIT=$COMMIT is not the hexadecimal hash of a commit"
	[[ $SOURCE_DATE_EPOCH =~ ^[0-9]+$ ]] || fail "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH is not a number of seconds since 1970"
	export COMMIT SOURCE_DATE_EPOCH
}
