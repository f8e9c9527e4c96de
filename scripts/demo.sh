#!/usr/bin/env bash
# usage: scripts/demo.sh [-keep]
#
# Shows the engine at work on a Vault dev server: each command as a user would
# type it, then its output. Fails if anything is not as it should be. With -keep,
# only sets up the server, and leaves it running until Ctrl-C. Console is a fake
# one, or Snowplow's own if SNOWPLOW_CONSOLE_ORG_ID, SNOWPLOW_CONSOLE_API_KEY_ID
# and SNOWPLOW_CONSOLE_API_KEY are set.

# Commands are shown before they are expanded, and use variables that only they use.
# shellcheck disable=SC2016,SC2034
set -euo pipefail
if [[ $# -gt 1 || ${1:--keep} != @(-keep|-h|--help) ]]; then
	printf 'demo.sh: -keep is the only option; see -h\n' >&2
	exit 2
fi
# shellcheck source=scripts/dev-server.sh
. "$(dirname "${BASH_SOURCE[0]}")/dev-server.sh"

if [[ ${1:-} == -keep ]]; then
	trap 'exit 0' INT # the way to end it
	say "Ready. In another shell:"
	printf '\nexport PATH=%q:$PATH\n' "$work/bin"
	for name in VAULT_ADDR VAULT_TOKEN SNOWPLOW_CONSOLE_URL SNOWPLOW_ORGANIZATION_ID \
		API_KEY_ID API_KEY_FILE TEAM_API_KEY_ID TEAM_API_KEY_FILE NEW_API_KEY_ID NEW_API_KEY_FILE; do
		if [[ -n ${!name:-} ]]; then
			printf 'export %s=%q\n' "$name" "${!name}"
		fi
	done
	printf '\nvault read snowplow/token\n\nLog of Vault: %s. Ctrl-C ends all of it.\n' "$work/server.log"
	wait "$server_pid" || true
	tail -n 20 server.log >&2
	fail "Vault's dev server ended (its last lines are above)"
fi

run "vault read snowplow/config"
if grep -qF "$(<api-key)" output; then
	fail "the configuration shows the API key"
fi

say "Reading a token: a JWT with a lease that ends when the JWT expires"
run "vault read snowplow/token"
if type -P curl >/dev/null; then
	run 'JWT=$(vault read -field=access_token snowplow/token)'
	run 'curl -sS --fail-with-body -H "Authorization: Bearer $JWT" "$SNOWPLOW_CONSOLE_URL/api/msc/v1/organizations"'
fi

if [[ $console == fake ]]; then
	say "A team gets a role with its own API key"
	run 'vault write snowplow/roles/analytics api_key_id="$TEAM_API_KEY_ID" api_key=@"$TEAM_API_KEY_FILE"'
else
	say "A team gets a role; without another API key, its tokens are those of the key above"
	run "vault write snowplow/roles/analytics ttl=1h"
fi
run "cat examples/policies/team.hcl"
run "vault policy write snowplow-analytics examples/policies/team.hcl"
run 'TEAM_TOKEN=$(vault token create -policy=snowplow-analytics -field=token)'
run 'VAULT_TOKEN=$TEAM_TOKEN vault read snowplow/token/analytics'
run 'JWT=$(VAULT_TOKEN=$TEAM_TOKEN vault read -field=access_token snowplow/token/analytics)'
refused 'VAULT_TOKEN=$TEAM_TOKEN vault read snowplow/token'
refused 'VAULT_TOKEN=$TEAM_TOKEN vault write snowplow/config api_key_id=another'

say "Vault Agent keeps a JWT in a file for an application"
printf '%s' "$TEAM_TOKEN" >agent-token
cat >agent.hcl <<-'END'
	exit_after_auth = true # in the demo only; without it, Agent keeps the file fresh

	auto_auth {
	  method "token_file" {
	    config = { token_file_path = "agent-token" }
	  }
	}

	template {
	  contents    = "{{ with secret \"snowplow/token/analytics\" }}{{ .Data.access_token }}{{ end }}"
	  destination = "app/snowplow-token"
	  perms       = "0600"
	}
END
run "cat agent.hcl"
printf '\n$ vault agent -config=agent.hcl\n'
VAULT_TOKEN='' HOME=$work/home "$vault_bin" agent -config=agent.hcl >agent.log 2>&1 &
started+=("$!")
await "Vault Agent wrote no file" "$!" test -s app/snowplow-token
run "cat app/snowplow-token && echo"
[[ $(<app/snowplow-token) == "$JWT" ]] || fail "the file does not contain the JWT that other readers get"

say "Snowplow's own tools need an API key: snowplow-exec gives them a key pair that opens a port of this machine only"
tool="snowplow-cli status"
if ! type -P snowplow-cli >/dev/null; then
	tool="console-status.sh"
	PATH=$PATH:$root/scripts
	printf '\n(snowplow-cli is not installed: console-status.sh does what "snowplow-cli status" does)\n'
fi
run "VAULT_TOKEN=\$TEAM_TOKEN snowplow-exec -role=analytics -- $tool"
grep -q "$SNOWPLOW_ORGANIZATION_ID" output || fail "the tool has not reached Console"

say "The tool sees neither the API key, nor the JWT, nor Vault's login"
run "VAULT_TOKEN=\$TEAM_TOKEN snowplow-exec -role=analytics -- env | grep -E '^(SNOWPLOW_CONSOLE|VAULT)_'"
if grep -qF -e "$JWT" -e "$(<api-key)" -e VAULT_ output; then
	fail "the tool's environment contains a secret of Vault's"
fi
grep -q '^SNOWPLOW_CONSOLE_API_KEY=' output || fail "the tool has no key pair"

# reader reads tokens until it is stopped: what each read returned, and whether it began before the new key was written
# or after that write had returned.
reader() {
	local phase jwt
	while [[ ! -e stop ]]; do
		phase=$([[ -e rotated ]] && echo after || echo before)
		# No retries: they would hide a failure.
		jwt=$(VAULT_MAX_RETRIES=0 vault read -field=access_token snowplow/token 2>>readers.log) || jwt=failed
		printf '%s %s\n' "$phase" "$jwt" >>"reads.$1"
	done
}
count() { cat reads.* 2>/dev/null | grep -c "$1"; }
has_read() { (($(count "^$1 ") >= 12)); }

if [[ $console == fake ]]; then
	say "A new API key takes the old one's place while four readers read without a pause"
	old=$(vault read -field=access_token snowplow/token)
	for i in 1 2 3 4; do
		reader "$i" &
		started+=("$!")
	done
	await "the readers got nowhere" "$!" has_read before
	run 'vault write snowplow/config api_key_id="$NEW_API_KEY_ID" api_key=@"$NEW_API_KEY_FILE"'
	touch rotated
	await "the readers got nowhere" "$!" has_read after
	touch stop
	wait "${started[@]: -4}"
	run 'JWT=$(vault read -field=access_token snowplow/token)'
	printf '\n%s reads, %s failed. %s began after the write: %s got a JWT of the old key, %s one of the new.\n' "$(count .)" \
		"$(count ' failed$')" "$(count '^after ')" "$(count "^after $old\$")" "$(count "^after $JWT\$")"
	[[ $JWT != "$old" && $(count "^after $JWT\$") == "$(count '^after ')" && $(count ' failed$') == 0 ]] ||
		fail "not every read succeeded, the later ones with the new key: $(tail -n 20 readers.log)"
fi

say "What the engine knows, without a call to Console and without a secret"
run "vault read snowplow/status"
[[ $console == real ]] || grep -q "api_key_id *$NEW_API_KEY_ID\$" output || fail "the status does not name the new key"
say "All of it went as it should, in $SECONDS s. Vault, Console and their files are removed now."
