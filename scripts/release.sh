#!/usr/bin/env bash
# Makes a release: both programs for each platform, archives, SBOMs and checksums. "make release" calls this.
set -euo pipefail
export LC_ALL=C # files are sorted alike everywhere
umask 022

platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64)

usage() {
	cat <<-END
		usage: scripts/release.sh VERSION [OS/ARCH]...

		Builds vault-plugin-secrets-snowplow and snowplow-exec for each platform (${platforms[*]},
		if none is named) and writes to dist/VERSION, which it replaces:

		  <program>_<version>_<os>_<arch>/         the program, as it is in the archive
		  <program>_<version>_<os>_<arch>.tar.gz   the archive; .zip for Windows
		  <program>_<version>_<os>_<arch>.cdx.json its SBOM, in CycloneDX's format; in the archive, too
		  SHA256SUMS                               of the archives, the programs in them, and the SBOMs

		The same commit and the same version of Go give the same bytes. The commit and its date come from git,
		whose work tree must have no changes, or from COMMIT and SOURCE_DATE_EPOCH where there is no git.
	END
}

say() { printf 'release.sh: %s\n' "$*" >&2; }

case ${1:-} in
-h | --help)
	usage
	exit
	;;
'' | -*)
	usage >&2
	exit 2
	;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VERSION=$(scripts/version.sh "$1")
export VERSION
shift
if (($#)); then
	platforms=("$@")
fi

source=$(scripts/commit.sh)
read -r COMMIT epoch <<<"$source"
export COMMIT

# What a user may have set and a program shows.
unset GOEXPERIMENT
export GOWORK=off GOFLAGS=-mod=readonly GOAMD64=v1 GOARM64=v8.0 GOFIPS140=off

sha256() {
	if type -P sha256sum >/dev/null; then
		sha256sum "$@"
	else
		shasum -a 256 "$@"
	fi
}

work=$(mktemp -d "${TMPDIR:-/tmp}/release.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

go=$(go env GOVERSION)
say "$VERSION of commit $COMMIT with $go, for ${platforms[*]}"
say "building takes some minutes for each platform that Go has not built before"
# As the programs are built: an SBOM names the checksum of the tool that made it.
(
	cd tools/sbom
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$work/" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
)
go build -o "$work/archive" ./tools/archive

dist=dist/$VERSION
rm -rf "$dist"
mkdir -p "$dist"
for platform in "${platforms[@]}"; do
	os=${platform%/*}
	arch=${platform#*/}
	extension=
	suffix=.tar.gz
	if [[ $os == windows ]]; then
		extension=.exe
		suffix=.zip
	fi
	for program in vault-plugin-secrets-snowplow snowplow-exec; do
		name=${program}_${VERSION}_${os}_$arch
		file=$program$extension
		if [[ $program == vault-plugin-secrets-snowplow ]]; then
			# One file for each version: Vault's catalog has the checksum of the old one until it is deregistered.
			file=${program}_$VERSION$extension
		fi
		mkdir "$dist/$name"
		GOOS=$os GOARCH=$arch scripts/build.sh "$program" "$dist/$name/$file"
		# Neither the time nor a random number, by which no two would be the same.
		"$work/cyclonedx-gomod" bin -json -std -notimestamp -noserial -version "$VERSION" \
			-output "$dist/$name.cdx.json" "$dist/$name/$file"
		cp "$dist/$name.cdx.json" "$dist/$name/"
		"$work/archive" -time "$epoch" -o "$dist/$name$suffix" "$dist/$name"
		rm "$dist/$name/$name.cdx.json"
	done
	say "$platform is built"
done

(
	cd "$dist"
	shopt -s nullglob # a release of one platform may have no .zip, or nothing else
	sha256 -- *.tar.gz *.zip *.cdx.json */* >"$work/SHA256SUMS"
	mv "$work/SHA256SUMS" .
)
say "$dist is ready"
