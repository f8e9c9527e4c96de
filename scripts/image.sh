#!/usr/bin/env bash
# usage: [VERSION=v1.2.3] scripts/image.sh
#
# Builds one image for all architectures from build/Containerfile and the plugin's
# Linux programs in dist/VERSION, and writes it to
# dist/vault-plugin-secrets-snowplow_VERSION.oci.tar, an archive to copy to a
# registry:
#
#   skopeo copy --all oci-archive:FILE docker://REGISTRY/NAME:TAG
#
# Needs buildah, which needs neither a daemon nor root.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
choose_version
type -P buildah >/dev/null || fail "there is no buildah on PATH to build the image with"
choose_source
[[ -f dist/$VERSION/SHA256SUMS ]] || fail "dist/$VERSION/SHA256SUMS is missing: run make release VERSION=$VERSION first"

make_work_folder
umask 022
# Its own storage, so that nothing is left in the user's. It has files of the image's users.
trap 'buildah_here unshare rm -rf "$work/storage" "$work/run" 2>/dev/null || true; clean_up' EXIT
buildah_here() {
	buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}

mkdir -p "$work/context"
architectures=()
for folder in "dist/$VERSION/${plugin}_${VERSION}_linux_"*/; do
	[[ -d $folder ]] || fail "dist/$VERSION has no Linux program to put into an image"
	name=$(basename "$folder")
	file=$name/${plugin}_$VERSION
	(cd "dist/$VERSION" && grep -F "  $file" SHA256SUMS | sha256 -c --quiet) || fail "$file is not what SHA256SUMS says"
	architecture=${name##*_}
	mkdir "$work/context/linux_$architecture"
	cp "dist/$VERSION/$file" "$work/context/linux_$architecture/$plugin"
	architectures+=("$architecture")
done
(cd tools/cacerts && GOWORK=off go run . >"$work/context/ca-certificates.crt")

for architecture in "${architectures[@]}"; do
	say "building for linux/$architecture"
	buildah_here build --quiet --platform "linux/$architecture" --manifest image --timestamp "$SOURCE_DATE_EPOCH" \
		--build-arg "VERSION=$VERSION" --build-arg "COMMIT=$COMMIT" --file build/Containerfile "$work/context" >/dev/null
done

# Not written in place: half an archive must not pass for one.
archive=dist/${plugin}_$VERSION.oci.tar
rm -f "$archive"
buildah_here manifest push --quiet --all image "oci-archive:$work/image.tar"
mv "$work/image.tar" "$archive"
say "$archive is ready, for ${architectures[*]}"
