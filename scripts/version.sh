#!/usr/bin/env bash
# Prints the version it is given if that is a semantic one, and fails otherwise.
set -euo pipefail
export LC_ALL=C # [A-Z] means ASCII

usage() {
	cat <<-END
		usage: scripts/version.sh VERSION

		Prints VERSION if it is vMAJOR.MINOR.PATCH[-PRERELEASE][+BUILD] (semver.org, with the v that Vault
		and Go modules use), and fails with one line otherwise.
	END
}

case ${1:-} in
-h | --help)
	usage
	exit
	;;
esac
if (($# != 1)); then
	usage >&2
	exit 2
fi

number='(0|[1-9][0-9]*)'
# A numeric identifier of a pre-release has no leading zero.
identifier="($number|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
build='[0-9A-Za-z-]+'
pattern="^v$number\.$number\.$number(-$identifier(\.$identifier)*)?(\+$build(\.$build)*)?\$"
if [[ ! $1 =~ $pattern ]]; then
	printf 'VERSION=%q is not a semantic version: it must be vMAJOR.MINOR.PATCH[-PRERELEASE][+BUILD], for example v1.2.3 or v1.2.3-rc.1\n' "$1" >&2
	exit 1
fi
printf '%s\n' "$1"
