#!/usr/bin/env bash
# Builds the container image of a release. "make image" calls this.
set -euo pipefail
umask 022

plugin=vault-plugin-secrets-snowplow

usage() {
	cat <<-END
		usage: scripts/image.sh VERSION

		Puts the plugin's Linux programs of the release in dist/VERSION into one image for their architectures,
		as Containerfile says, and writes dist/${plugin}_VERSION.oci.tar: an archive to copy to a registry.

		  skopeo copy --all oci-archive:FILE docker://REGISTRY/NAME:TAG

		Needs buildah, which needs neither a daemon nor root, and Go for the list of root certificates.
	END
}

say() { printf 'image.sh: %s\n' "$*" >&2; }

fail() {
	say "$*"
	exit 1
}

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
version=$(scripts/version.sh "$1")
type -P buildah >/dev/null || fail "there is no buildah on PATH to build the image with"
source=$(scripts/commit.sh)
read -r commit epoch <<<"$source"
[[ -f dist/$version/SHA256SUMS ]] || fail "dist/$version/SHA256SUMS is missing: run make release VERSION=$version first"

work=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX")
# The storage of its own has files of the image's users.
trap 'buildah_here unshare rm -rf "$work/storage" "$work/run" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# With a storage of its own, so that nothing is left in the user's.
buildah_here() {
	buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}

mkdir -p "$work/context"
architectures=()
for folder in "dist/$version/${plugin}_${version}_linux_"*/; do
	[[ -d $folder ]] || fail "dist/$version has no Linux program to put into an image"
	name=$(basename "$folder")
	file=$name/${plugin}_$version
	(cd "dist/$version" && grep -F "  $file" SHA256SUMS | sha256sum -c --quiet) || fail "$file is not what SHA256SUMS says"
	architecture=${name##*_}
	mkdir "$work/context/linux_$architecture"
	cp "dist/$version/$file" "$work/context/linux_$architecture/$plugin"
	architectures+=("$architecture")
done
(cd tools/cacerts && GOWORK=off go run . >"$work/context/ca-certificates.crt")

for architecture in "${architectures[@]}"; do
	say "building for linux/$architecture"
	buildah_here build --quiet --platform "linux/$architecture" --manifest image --timestamp "$epoch" \
		--build-arg "VERSION=$version" --build-arg "COMMIT=$commit" --file Containerfile "$work/context" >/dev/null
done

# Not written in place: half an archive must not pass for one.
archive=dist/${plugin}_$version.oci.tar
rm -f "$archive"
buildah_here manifest push --quiet --all image "oci-archive:$work/image.tar"
mv "$work/image.tar" "$archive"
say "$archive is ready, for ${architectures[*]}"
