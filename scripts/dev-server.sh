# Sets up a Vault dev server with the plugin and a Console, in a temporary
# folder that is then the current one. Sourced by demo.sh.
# shellcheck shell=bash disable=SC2034

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# vault runs with its own home folder: the user's ~/.vault-token stays as it is.
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
	grep -q 'permission denied' output || fail "the command above failed, but not because permission was denied"
}

attempt() {
	printf '\n$ %s\n' "$1"
	status=0
	eval "$1" >output 2>&1 || status=$?
	mask <output
}

# mask hides the JWTs of Snowplow's Console; those of the fake one open nothing.
mask() {
	if [[ $console == real ]]; then
		sed -E -e 's/^(access_token +)[^ ]+$/\1(masked)/' -e "s/${JWT:-no JWT yet}/(masked)/g" \
			-e 's/eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*/(masked)/g'
	else
		cat
	fi
}

find_programs() {
	say "Building the fake Console and finding a Vault"
	mkdir -p "$work/home" "$work/plugins" "$work/bin"
	cp "$root/bin/$plugin" "$work/plugins/"
	cp "$root/bin/snowplow-exec" "$work/bin/"
	(cd "$root" && CGO_ENABLED=0 go build -race=false -trimpath -o "$work/bin/" ./internal/consoletest/fakeconsole)
	vault_bin=$("$root/scripts/vault.sh") || fail "there is no Vault to use (see above)"
	ln -s "$vault_bin" "$work/bin/vault"
	PATH=$work/bin:$PATH
	printf '%s\n' "$("$work/plugins/$plugin" --version)" "$(snowplow-exec -version)" "$(vault version)"
	ln -s "$root/examples" "$work/examples"
	cd "$work" || exit
}

# choose_console sets the variables that say where Console is and what opens it.
choose_console() {
	if [[ -n ${SNOWPLOW_CONSOLE_ORG_ID:-}${SNOWPLOW_CONSOLE_API_KEY_ID:-}${SNOWPLOW_CONSOLE_API_KEY:-} ]]; then
		console=real
		SNOWPLOW_ORGANIZATION_ID=${SNOWPLOW_CONSOLE_ORG_ID:?must be set, too}
		API_KEY_ID=${SNOWPLOW_CONSOLE_API_KEY_ID:?must be set, too}
		API_KEY_FILE=$work/api-key
		printf '%s' "${SNOWPLOW_CONSOLE_API_KEY:?must be set, too}" >api-key
		unset SNOWPLOW_CONSOLE_API_KEY # no program that is started from here on needs it
		SNOWPLOW_CONSOLE_URL=${SNOWPLOW_CONSOLE_HOST:-console.snowplowanalytics.com}
		if [[ $SNOWPLOW_CONSOLE_URL != *://* ]]; then
			SNOWPLOW_CONSOLE_URL=https://$SNOWPLOW_CONSOLE_URL
		fi
		say "Using Snowplow's Console at $SNOWPLOW_CONSOLE_URL"
		return
	fi

	console=fake
	SNOWPLOW_ORGANIZATION_ID=11111111-2222-4333-8444-555555555555
	API_KEY_ID=demo-key API_KEY_FILE=$work/api-key
	NEW_API_KEY_ID=demo-key-2 NEW_API_KEY_FILE=$work/new-api-key
	TEAM_API_KEY_ID=analytics-key TEAM_API_KEY_FILE=$work/team-api-key
	local name id file
	# A delay, so that readers have time to come in between.
	local arguments=(-organization "$SNOWPLOW_ORGANIZATION_ID" -delay 300ms)
	for name in API_KEY NEW_API_KEY TEAM_API_KEY; do
		id=${name}_ID file=${name}_FILE
		arguments+=(-api-key-id "${!id}" -api-key "fake-${!id}")
		printf '%s' "fake-${!id}" >"${!file}"
	done
	fakeconsole "${arguments[@]}" >console.out 2>console.log &
	started+=("$!")
	await "the fake Console did not start" "$!" grep -q '^listening on ' console.out
	SNOWPLOW_CONSOLE_URL=$(sed -n 's/^listening on //p' console.out)
	say "Started a fake Snowplow Console at $SNOWPLOW_CONSOLE_URL"
}

# start_vault starts a dev server on a port that nothing listens on.
start_vault() {
	say "Starting a Vault dev server"
	local port
	until port=$((20000 + RANDOM % 10000)) && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
	VAULT_ADDR=http://127.0.0.1:$port
	# In the environment, since other users can read arguments.
	VAULT_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	export VAULT_ADDR VAULT_TOKEN
	VAULT_DEV_ROOT_TOKEN_ID=$VAULT_TOKEN HOME=$work/home "$vault_bin" server -dev -dev-no-store-token \
		-dev-plugin-dir="$work/plugins" -dev-listen-address="127.0.0.1:$port" >server.log 2>&1 &
	server_pid=$!
	started+=("$server_pid")
	VAULT_CLIENT_TIMEOUT=3 VAULT_MAX_RETRIES=0 \
		await "Vault's dev server did not start" "$server_pid" vault token lookup
}

# set_up_engine registers the plugin, mounts it and writes its configuration.
set_up_engine() {
	say "Registering the plugin and mounting it at snowplow/"
	run "vault plugin register -sha256=$(sha256 "plugins/$plugin" | cut -d' ' -f1) secret $plugin"
	run "vault secrets enable -path=snowplow $plugin"

	say "Writing the connection and its API key, which Vault tries before it stores them"
	# shellcheck disable=SC2016 # shown before it is expanded
	run 'vault write snowplow/config organization_id="$SNOWPLOW_ORGANIZATION_ID" \
    api_key_id="$API_KEY_ID" api_key=@"$API_KEY_FILE" console_url="$SNOWPLOW_CONSOLE_URL"'
}

forget_vault_variables
make_work_folder
find_programs
choose_console
start_vault
set_up_engine
