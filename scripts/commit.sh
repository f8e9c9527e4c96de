#!/usr/bin/env bash
# Prints which commit a release is of, and its date.
set -euo pipefail

usage() {
	cat <<-END
		usage: scripts/commit.sh

		Prints the commit and its date in seconds since 1970: COMMIT and SOURCE_DATE_EPOCH if both are set, for
		builds without git, else what git says of HEAD, if the work tree has no changes.
	END
}

fail() {
	printf 'commit.sh: %s\n' "$*" >&2
	exit 1
}

case ${1:-} in
-h | --help)
	usage
	exit
	;;
esac
if (($#)); then
	usage >&2
	exit 2
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z ${COMMIT:-} || -z ${SOURCE_DATE_EPOCH:-} ]]; then
	if ! changes=$(git status --porcelain 2>&1); then
		fail "asking git for the commit failed; set COMMIT and SOURCE_DATE_EPOCH to build without git: $changes"
	fi
	if [[ -n $changes ]]; then
		fail "the work tree has changes; commit or stash them, since a release is of a commit: ${changes//$'\n'/, }"
	fi
	# Of a fixed length: how short git cuts it on its own depends on the clone.
	COMMIT=$(git rev-parse --short=12 HEAD)
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct HEAD)
fi
if [[ ! $COMMIT =~ ^[0-9a-f]+$ ]]; then
	fail "COMMIT=$COMMIT is not the hexadecimal hash of a commit"
fi
if [[ ! $SOURCE_DATE_EPOCH =~ ^[0-9]+$ ]]; then
	fail "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH is not a number of seconds since 1970"
fi
printf '%s %s\n' "$COMMIT" "$SOURCE_DATE_EPOCH"
