#!/usr/bin/env bash
# usage: [VERSION=v1.2.3] [COMMIT=0123abc] scripts/build.sh [FOLDER]
#
# Builds the plugin and snowplow-exec into FOLDER (bin), for GOOS and GOARCH if
# they are set. The flags of every build, "make build" and a release, are here.
#
# If VERSION is given, the plugin's file is named after it: an upgrade must not
# overwrite the file whose checksum Vault's catalog has. COMMIT is the commit that
# the programs report, by default git's HEAD.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
folder=${1:-$root/bin}
suffix=${VERSION+_$VERSION}
choose_version

if [[ -z ${COMMIT:-} ]]; then
	COMMIT=$(git -C "$root" describe --always --exclude='*' --abbrev=12 --dirty 2>/dev/null) || COMMIT=unknown
	if [[ -n $suffix ]] && { [[ $COMMIT == *-dirty ]] || ! git -C "$root" tag --points-at HEAD 2>/dev/null | grep -qxF -- "$VERSION"; }; then
		printf 'build.sh: warning: commit %s is not the tag %s: another build of %s will have another checksum; check out the tag first\n' \
			"$COMMIT" "$VERSION" "$VERSION" >&2
	fi
fi

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$root"
export GOWORK=off CGO_ENABLED=0
module=$(go list -m)
for program in "$plugin" snowplow-exec; do
	file=$folder/$program
	[[ $program != "$plugin" ]] || file+=$suffix
	[[ $(go env GOOS) != windows ]] || file+=.exe
	# Nothing of the machine gets into the program: neither paths (-trimpath), nor what git says of the folder
	# (-buildvcs), nor a C library. -race=false, in case GOFLAGS says otherwise.
	go build -race=false -trimpath -buildvcs=false -o "$file" -ldflags "-s -w -X $module.Version=$VERSION -X $module.Commit=$COMMIT \
		-X main.version=$VERSION -X main.commit=$COMMIT" "./cmd/$program"
done
