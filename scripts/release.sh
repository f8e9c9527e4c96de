#!/usr/bin/env bash
# usage: [VERSION=v1.2.3] scripts/release.sh [OS/ARCH]...
#
# Builds the plugin and snowplow-exec for each platform, or for those named, and
# writes to dist/VERSION, which it replaces:
#
#   PROGRAM_VERSION_OS_ARCH/          the program, as it is in the archive
#   PROGRAM_VERSION_OS_ARCH.tar.gz    the archive; .zip for Windows
#   PROGRAM_VERSION_OS_ARCH.cdx.json  its SBOM, in CycloneDX's format; also in the archive
#   SHA256SUMS                        of the archives, the programs in them, and the SBOMs
#
# The same commit and the same version of Go give the same bytes. The commit and
# its date come from git, whose work tree must have no changes, or from COMMIT
# and SOURCE_DATE_EPOCH where there is no git. Needs GNU tar, and Info-ZIP's zip
# for Windows.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export LC_ALL=C # files are sorted alike everywhere
cd "$root"
platforms=("$@")
if ((${#platforms[@]} == 0)); then
	platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64 freebsd/amd64)
fi
choose_version
choose_source
tar=$(type -P gtar || type -P tar)
[[ $("$tar" --version) == *"GNU tar"* ]] || fail "making the archives needs GNU tar; on macOS: brew install gnu-tar"
if [[ ${platforms[*]} == *windows* ]]; then
	type -P zip >/dev/null || fail "making the archives for Windows needs zip"
fi

# What a user may have set and a program shows.
unset GOEXPERIMENT
export GOWORK=off GOFLAGS=-mod=readonly GOAMD64=v1 GOARM64=v8.0 GOFIPS140=off

make_work_folder
umask 022
say "$VERSION of commit $COMMIT with $(go env GOVERSION); a platform that Go has not built before takes some minutes"
# As the programs are built: an SBOM names the checksum of the tool that made it.
(cd tools/sbom && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$work/" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod)

# pack makes the archive of a folder: the same bytes from the same files.
pack() {
	local archive=("$tar" --format=ustar --sort=name "--mtime=@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$1")
	if [[ $1 == *_windows_* ]]; then
		"${archive[@]}" | tar -xf - -C "$work" # with their times, which zip takes over
		(cd "$work" && TZ=UTC zip -q -X -9 "$dist/$1.zip" "$1"/*)
	else
		"${archive[@]}" | gzip -9n >"$1.tar.gz"
	fi
}

dist=$root/dist/$VERSION
rm -rf "$dist"
mkdir -p "$dist"
cd "$dist"
for platform in "${platforms[@]}"; do
	os=${platform%/*} arch=${platform#*/}
	GOOS=$os GOARCH=$arch "$root/scripts/build.sh" "$work/$os-$arch"
	for file in "$work/$os-$arch"/*; do
		program=$(basename "$file" .exe)
		name=${program%"_$VERSION"}_${VERSION}_${os}_$arch
		mkdir "$name"
		mv "$file" "$name/"
		# Neither the time nor a random number, by which no two would be the same.
		"$work/cyclonedx-gomod" bin -json -std -notimestamp -noserial -version "$VERSION" \
			-output "$name.cdx.json" "$name/$(basename "$file")"
		cp "$name.cdx.json" "$name/"
		pack "$name"
		rm "$name/$name.cdx.json"
	done
	say "$platform is built"
done
shopt -s nullglob # a release of one platform may have no .zip, or nothing else
sha256 -- *.tar.gz *.zip *.cdx.json */* >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" .
say "$dist is ready"
