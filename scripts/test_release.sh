#!/usr/bin/env bash
# Makes the same release in two folders and fails if they differ in a byte. "make test-release" calls this.
set -euo pipefail

platform=linux/amd64

usage() {
	cat <<-END
		usage: scripts/test_release.sh [-cold] [OS/ARCH]

		Copies what git knows of the work tree into two folders, makes a release for one platform ($platform
		unless another is named) in each, compares them, and checks what the release says of itself.

		  -cold  give each its own build cache, so that neither can take a file that the other one made;
		         some minutes instead of one
	END
}

say() { printf 'test_release.sh: %s\n' "$*"; }

fail() {
	say "FAILED: $*" >&2
	exit 1
}

cold=
if [[ ${1:-} == -cold ]]; then
	cold=yes
	shift
fi
case ${1:-} in
-*)
	usage
	[[ $1 == -h || $1 == --help ]] || exit 2
	exit
	;;
?*) platform=$1 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/test-release.XXXXXX")
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT # Go's files can be read-only
trap 'exit 130' INT
trap 'exit 143' TERM HUP
cd "$root"

version=v1.2.3-rc.1
export COMMIT=0123456789ab SOURCE_DATE_EPOCH=1700000000

# Copied before anything is built, so that work can go on here. The folders' names differ in length, the files in
# their times.
for folder in one another/one; do
	mkdir -p "$work/$folder"
	git ls-files -z --cached --others --exclude-standard |
		while IFS= read -r -d '' file; do
			if [[ -e $file ]]; then # not so if deleted and not yet committed
				printf '%s\0' "$file"
			fi
		done | xargs -0 tar -cf - | tar -xmf - -C "$work/$folder"
done
umask 022
for folder in one another/one; do
	say "making a release in the folder $folder"
	if [[ -n $cold ]]; then
		export GOCACHE=$work/cache/$folder
	fi
	(cd "$work/$folder" && scripts/release.sh "$version" "$platform" 2>&1 | sed 's/^/  /')
	umask 077
done

say "comparing them"
one=$work/one/dist/$version
two=$work/another/one/dist/$version
diff -r "$one" "$two" || fail "two releases of the same source differ"

say "checking what is in them"
cd "$one"
sums() { if type -P sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi; }
sums -c SHA256SUMS >"$work/checked" || fail "SHA256SUMS does not match the files"
missing=$(find . -type f ! -name SHA256SUMS | sed 's|^\./||' | while IFS= read -r file; do
	grep -qF "  $file" SHA256SUMS || echo "$file"
done)
[[ -z $missing ]] || fail "SHA256SUMS lacks $missing"

os=${platform%/*}
arch=${platform#*/}
plugin=vault-plugin-secrets-snowplow_${version}_${os}_$arch
exec=snowplow-exec_${version}_${os}_$arch
for name in "$plugin" "$exec"; do
	sbom=$name.cdx.json
	[[ -s $sbom ]] || fail "there is no $sbom"
	grep -qF '"name": "github.com/hashicorp/vault/' "$sbom" || fail "$sbom does not name Vault's modules"
	program=$(ls "$name")
	grep -qF "$(sums "$name/$program" | cut -d' ' -f1)" "$sbom" || fail "$sbom is not of $name/$program"
	if grep -qaF -e "$work" -e "$root" "$name/$program" "$sbom"; then
		fail "$name shows a folder of the machine that it was built on"
	fi
	if [[ $os == windows ]]; then
		unzip -q "$name.zip" -d "$work/unpacked"
	else
		mkdir -p "$work/unpacked"
		tar -xzf "$name.tar.gz" -C "$work/unpacked"
	fi
	cmp "$work/unpacked/$name/$program" "$name/$program"
	cmp "$work/unpacked/$name/$sbom" "$sbom"
	if [[ $platform == "$(go env GOHOSTOS)/$(go env GOHOSTARCH)" ]]; then
		said=$("$work/unpacked/$name/$program" --version)
		[[ $said == *" $version (commit $COMMIT)" ]] || fail "$program says that it is $said"
	fi
done
say "both are the same: $(wc -l <SHA256SUMS | tr -d ' ') files"
