# What the scripts share: usage, messages, a work folder, and a Vault dev server
# with the plugin and a Console. To be sourced by a bash that has set -euo
# pipefail, with the script's own arguments.
# shellcheck shell=bash disable=SC2034

# -h prints what a script says of itself in its first lines.
case ${1:-} in
-h | --help)
	awk 'NR > 1 { if (!sub(/^# ?/, "")) exit; print }' "$0"
	exit
	;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
plugin=vault-plugin-secrets-snowplow

say() { printf '\n== %s\n' "$*"; }

fail() {
	printf '\n%s: FAILED: %s\n' "$(basename "$0" .sh)" "$*" >&2
	exit 1
}

# The user's own Vault must neither be used nor get in the way.
forget_vault_variables() {
	local name
	for name in $(compgen -e VAULT_ || true; compgen -e BAO_ || true); do
		if [[ $name != VAULT_BIN ]]; then
			unset "$name"
		fi
	done
}

# make_work_folder makes the temporary folder that everything happens in, and
# sees to it that nothing outlives the script.
make_work_folder() {
	umask 077
	work=$(mktemp -d "${TMPDIR:-/tmp}/$plugin.XXXXXX")
	started=()
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
}

clean_up() {
	local pid
	for pid in ${started[@]+"${started[@]}"}; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in ${started[@]+"${started[@]}"}; do
		wait "$pid" 2>/dev/null || true
	done
	chmod -R u+w "$work" && rm -rf "$work" # Go's files can be read-only
}

# vault is the program that scripts/vault.sh found, with a home of its own: the
# user's ~/.vault-token stays as it is.
vault() { HOME=$work/home "$vault_bin" "$@"; }

# run shows a command as a user would type it, runs it, and shows its output.
run() {
	attempt "$1"
	((status == 0)) || fail "the command above ended with status $status"
}

# refused is run for a command that Vault has to refuse.
refused() {
	attempt "$1"
	((status != 0)) || fail "the command above should have been refused"
	grep -q 'permission denied' "$work/output" || fail "the command above failed, but not for want of permission"
}

attempt() {
	printf '\n$ %s\n' "$1"
	status=0
	eval "$1" >"$work/output" 2>&1 || status=$?
	mask <"$work/output"
}

# mask hides the JWTs of a real Console; those of the fake one open nothing. It
# drops the blank lines at the end, too.
mask() {
	local text
	text=$(cat)
	if [[ $console == real ]]; then
		if [[ -n ${JWT:-} ]]; then
			text=${text//"$JWT"/(masked)}
		fi
		text=$(sed -E -e 's/^(access_token +)[^ ]+$/\1(masked)/' \
			-e 's/eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*/(masked)/g' <<<"$text")
	fi
	if [[ -n $text ]]; then
		printf '%s\n' "$text"
	fi
}

# find_programs builds what the set-up needs and finds a Vault.
find_programs() {
	say "Building the programs and finding a Vault"
	local program
	for program in "$plugin" snowplow-exec; do
		[[ -x $root/bin/$program ]] || fail "bin/$program is missing: run make build first"
	done
	mkdir -p "$work/home" "$work/plugins" "$work/bin"
	cp "$root/bin/$plugin" "$work/plugins/"
	cp "$root/bin/snowplow-exec" "$work/bin/"
	(
		cd "$root" || exit
		CGO_ENABLED=0 go build -race=false -trimpath -o "$work/bin/" ./internal/consoletest/fakeconsole ./scripts/callconsole ./scripts/consoletool
	)
	PATH=$work/bin:$PATH
	vault_bin=$("$root/scripts/vault.sh") || fail "there is no Vault to use (see above)"
	printf 'plugin: %s\n' "$("$work/plugins/$plugin" --version)"
	printf 'exec:   %s\n' "$(snowplow-exec -version)"
	printf 'vault:  %s\n' "$(vault version)"
	cd "$work" || exit
}

# choose_console sets where the Console is and what opens it: Snowplow's own
# if its environment variables are set, else a fake one, started here.
choose_console() {
	if [[ -n ${SNOWPLOW_CONSOLE_ORG_ID:-}${SNOWPLOW_CONSOLE_API_KEY_ID:-}${SNOWPLOW_CONSOLE_API_KEY:-} ]]; then
		local name
		for name in SNOWPLOW_CONSOLE_ORG_ID SNOWPLOW_CONSOLE_API_KEY_ID SNOWPLOW_CONSOLE_API_KEY; do
			[[ -n ${!name:-} ]] || fail "$name is not set; Snowplow's real Console needs all three of SNOWPLOW_CONSOLE_ORG_ID, SNOWPLOW_CONSOLE_API_KEY_ID, SNOWPLOW_CONSOLE_API_KEY"
		done
		console=real
		console_url=${SNOWPLOW_CONSOLE_HOST:-console.snowplowanalytics.com}
		if [[ $console_url != *://* ]]; then
			console_url=https://$console_url
		fi
		# Quoted, since they become parts of commands.
		console_url=$(printf '%q' "${console_url%/}")
		organization_id=$(printf '%q' "$SNOWPLOW_CONSOLE_ORG_ID")
		api_key_id=$(printf '%q' "$SNOWPLOW_CONSOLE_API_KEY_ID")
		printf '%s' "$SNOWPLOW_CONSOLE_API_KEY" >api-key
		unset SNOWPLOW_CONSOLE_API_KEY # the programs started from here on have no use for it
		say "Using Snowplow's Console at $console_url"
		return
	fi

	console=fake
	organization_id=11111111-2222-4333-8444-555555555555
	api_key_id=demo-key
	# A delay, so that readers have time to come in between.
	local arguments=(-organization "$organization_id" -delay 300ms) id
	for id in demo-key demo-key-2 analytics-key ingest-key; do
		arguments+=(-api-key-id "$id" -api-key "fake-$id")
	done
	printf 'fake-demo-key' >api-key
	printf 'fake-demo-key-2' >api-key-2
	printf 'fake-analytics-key' >analytics-api-key
	printf 'fake-ingest-key' >ingest-api-key

	fakeconsole "${arguments[@]}" >console.out 2>console.log &
	local pid=$! deadline=$((SECONDS + 30))
	started+=("$pid")
	until console_url=$(sed -n 's/^listening on //p' console.out) && [[ -n $console_url ]]; do
		if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
			cat console.log >&2
			fail "the fake Console did not start"
		fi
		sleep 0.1
	done
	say "Started a fake Snowplow Console at $console_url"
}

# start_vault starts a dev server on a free port and points vault to it.
start_vault() {
	say "Starting a Vault dev server"
	VAULT_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	export VAULT_ADDR VAULT_TOKEN
	local port pid deadline
	# Nothing tells a free port for sure but listening on it, so a taken one
	# shows as a server that ends, and the next is tried.
	for _ in 1 2 3 4 5; do
		port=$((20000 + RANDOM % 10000))
		VAULT_ADDR=http://127.0.0.1:$port
		# The token is in the environment, since others can read arguments.
		VAULT_DEV_ROOT_TOKEN_ID=$VAULT_TOKEN HOME=$work/home "$vault_bin" server -dev \
			-dev-plugin-dir="$work/plugins" -dev-listen-address="127.0.0.1:$port" \
			-dev-no-store-token >server.log 2>&1 &
		pid=$!
		started+=("$pid")
		deadline=$((SECONDS + 60))
		while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do
			if VAULT_CLIENT_TIMEOUT=3 VAULT_MAX_RETRIES=0 vault token lookup >/dev/null 2>&1; then
				server_pid=$pid
				printf '\n$ vault server -dev -dev-plugin-dir=plugins -dev-listen-address=127.0.0.1:%s &\n' "$port"
				return
			fi
			sleep 0.2
		done
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	tail -n 20 server.log >&2
	fail "Vault's dev server did not start (its last lines are above)"
}

sha256() {
	if type -P sha256sum >/dev/null; then
		sha256sum "$@"
	else
		shasum -a 256 "$@"
	fi
}

# set_up_engine registers the plugin, mounts it and writes its configuration.
set_up_engine() {
	local version
	version=$("plugins/$plugin" --version | cut -d' ' -f2)
	say "Registering the plugin and mounting it at snowplow/"
	run "vault plugin register -sha256=$(sha256 "plugins/$plugin" | cut -d' ' -f1) -version=$version secret $plugin"
	run "vault secrets enable -path=snowplow $plugin"

	say "Writing the connection and its API key, which Vault tries before it stores them"
	run "vault write snowplow/config organization_id=$organization_id api_key_id=$api_key_id api_key=@api-key console_url=$console_url"
}

# choose_version sets VERSION, unless it is given, to the tag of HEAD.
choose_version() {
	local LC_ALL=C number='(0|[1-9][0-9]*)' build='[0-9A-Za-z-]+' # [A-Z] means ASCII
	# A numeric identifier of a pre-release has no leading zero.
	local identifier="($number|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
	export VERSION=${VERSION-$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null || echo v0.0.0-dev)}
	[[ $VERSION =~ ^v$number\.$number\.$number(-$identifier(\.$identifier)*)?(\+$build(\.$build)*)?$ ]] ||
		fail "VERSION=$(printf %q "$VERSION") is not a semantic version: it must be vMAJOR.MINOR.PATCH[-PRERELEASE][+BUILD], for example v1.2.3 or v1.2.3-rc.1"
}

# choose_source sets COMMIT and SOURCE_DATE_EPOCH, the date of the commit,
# unless both are given for a build without git. A release is of a commit.
choose_source() {
	local changes
	if [[ -z ${COMMIT:-} || -z ${SOURCE_DATE_EPOCH:-} ]]; then
		changes=$(git status --porcelain) || fail "git does not know the commit; set COMMIT and SOURCE_DATE_EPOCH to build without git"
		[[ -z $changes ]] || fail "the work tree has changes; commit or stash them, since a release is of a commit: ${changes//$'\n'/, }"
		# The length is fixed: how short git cuts it otherwise depends on the clone.
		COMMIT=$(git rev-parse --short=12 HEAD)
		SOURCE_DATE_EPOCH=$(git log -1 --format=%ct HEAD)
	fi
	[[ $COMMIT =~ ^[0-9a-f]+$ ]] || fail "COMMIT=$COMMIT is not the hexadecimal hash of a commit"
	[[ $SOURCE_DATE_EPOCH =~ ^[0-9]+$ ]] || fail "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH is not a number of seconds since 1970"
	export COMMIT SOURCE_DATE_EPOCH
}
