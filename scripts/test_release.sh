#!/usr/bin/env bash
# usage: scripts/test_release.sh [-cold] [OS/ARCH]
#
# Copies the work tree into two folders, makes a release for one platform
# (linux/amd64) in each, fails if they differ in a byte, and checks what the
# release says of itself. With -cold, each has an empty build cache, so that
# neither can take a file that the other one made: some minutes instead of one.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
cold=
if [[ ${1:-} == -cold ]]; then
	cold=yes
	shift
fi
platform=${1:-linux/amd64}
make_work_folder

# Before anything is built, which takes minutes where Go has not built before.
for version in '' 1.2.3 v1.2 v1.2.3.4 v01.2.3 v1.2.3-01 v1.2.3-a..b v1.2.3+a+b v1.2.3-ü v1.2.3/../v 'v1.2.3;id' $'v1.2.3\nv1.2.3'; do
	if said=$(VERSION=$version scripts/build.sh "$work/refused" 2>&1) || [[ $said != *"is not a semantic version"* ]]; then
		fail "VERSION=$version is not refused: $said"
	fi
done

export VERSION=v1.2.3-rc.1 COMMIT=0123456789ab SOURCE_DATE_EPOCH=1700000000

# Copied before anything is built, so that work can go on here. The folders' names differ in length, the files in
# their times and, by the umask, in their modes.
for folder in one another/one; do
	mkdir -p "$work/$folder"
	# shellcheck disable=SC2016 # another shell's
	git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
		xargs -0 tar -cf - | tar -xmf - -C "$work/$folder"
done
umask 022
for folder in one another/one; do
	say "Making a release in the folder $folder"
	if [[ -n $cold ]]; then
		export GOCACHE=$work/cache/$folder
	fi
	"$work/$folder/scripts/release.sh" "$platform"
	umask 077
done
cd "$work/one/dist/$VERSION"
diff -r . "$work/another/one/dist/$VERSION" || fail "two releases of the same source differ"

say "Checking what is in them"
sha256 -c SHA256SUMS
# Two programs, each with its archive and its SBOM.
[[ $(find . -type f ! -name SHA256SUMS | wc -l) -eq 6 && $(wc -l <SHA256SUMS) -eq 6 ]] || fail "SHA256SUMS is not of six files"
mkdir "$work/unpacked"
for name in "${plugin}_${VERSION}_${platform/\//_}" "snowplow-exec_${VERSION}_${platform/\//_}"; do
	program=$name/$(ls "$name")
	grep -qF '"name": "github.com/hashicorp/vault/' "$name.cdx.json" || fail "the SBOM $name.cdx.json does not name Vault's modules"
	grep -qF "$(sha256 "$program" | cut -d' ' -f1)" "$name.cdx.json" || fail "the SBOM $name.cdx.json is not of $program"
	if grep -qaF -e "$work" -e "$root" "$program" "$name.cdx.json"; then
		fail "$name shows a folder of the machine that it was built on"
	fi
	if [[ $platform == windows/* ]]; then
		unzip -q "$name.zip" -d "$work/unpacked"
	else
		tar -xzf "$name.tar.gz" -C "$work/unpacked"
	fi
	cmp "$work/unpacked/$program" "$program"
	cmp "$work/unpacked/$name/$name.cdx.json" "$name.cdx.json"
	if [[ $platform == "$(go env GOHOSTOS)/$(go env GOHOSTARCH)" ]]; then
		said=$("$work/unpacked/$program" --version)
		[[ $said == *" $VERSION (commit $COMMIT)" ]] || fail "$program says that it is $said"
	fi
done
say "Both are the same"

[[ $platform == "$(go env GOHOSTOS)/$(go env GOHOSTARCH)" ]] || exit 0
say "Checking what a build says that is not of the version's tag"
cd "$work/one"
unset COMMIT
export GIT_CONFIG_GLOBAL=/dev/null
git init -q .
git add README.md
git -c user.name=test -c user.email=test@example.com commit -qm test
git tag "$VERSION"
build() { scripts/build.sh "$work/built" 2>&1 && "$work/built/${plugin}_$VERSION" --version; }
said=$(build)
[[ $said == *"(commit $(git rev-parse --short=12 HEAD))" && $said != *warning* ]] || fail "a build of the tag says: $said"
said=$(VERSION=v1.2.4 build)
[[ $said == *"is not the tag v1.2.4"* && $said != *-dirty* ]] || fail "a build of another version than the tag says: $said"
echo >>README.md
said=$(build)
[[ $said == *"is not the tag $VERSION"*"-dirty)" ]] || fail "a build of a changed work tree says: $said"
