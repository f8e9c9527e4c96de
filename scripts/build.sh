#!/usr/bin/env bash
# Builds one of the programs: the flags of every build, "make build" and a release, are here.
set -euo pipefail

usage() {
	cat <<-END
		usage: VERSION=v1.2.3 COMMIT=0123abc scripts/build.sh PROGRAM FILE

		Builds cmd/PROGRAM (vault-plugin-secrets-snowplow or snowplow-exec) into FILE, for GOOS and GOARCH
		if they are set. VERSION and COMMIT are what the program says of itself.
	END
}

case ${1:-} in
-h | --help)
	usage
	exit
	;;
esac
if (($# != 2)); then
	usage >&2
	exit 2
fi
program=$1
file=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$(scripts/version.sh "${VERSION:-}")

case $program in
vault-plugin-secrets-snowplow)
	module=$(GOWORK=off go list -m)
	variables="-X $module.Version=$version -X $module.Commit=${COMMIT:-unknown}"
	;;
snowplow-exec)
	variables="-X main.version=$version -X main.commit=${COMMIT:-unknown}"
	;;
*)
	usage >&2
	exit 2
	;;
esac

# Nothing of the machine gets into the program: neither paths (-trimpath), nor what git says of the folder
# (-buildvcs), nor a C library. -race=false, in case GOFLAGS says otherwise.
GOWORK=off CGO_ENABLED=0 go build -race=false -trimpath -buildvcs=false \
	-ldflags "-s -w $variables" -o "$file" "./cmd/$program"
