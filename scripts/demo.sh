#!/usr/bin/env bash
# Shows the engine at work on a Vault dev server: each command as a user would
# type it, then what it says. Ends with an error if anything is not as it should be.
#
# Commands are shown before they are expanded, and use variables that only they use.
# shellcheck disable=SC2016,SC2034

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

use_policies() {
	ln -s "$root/examples" examples

	say "A second reader: its policy lets it read snowplow/token, and nothing else"
	run "vault policy write snowplow-ci examples/policies/ci.hcl"
	run "cat examples/policies/ci.hcl"
	run 'CI_TOKEN=$(vault token create -policy=snowplow-ci -field=token)'
	run 'VAULT_TOKEN=$CI_TOKEN vault read snowplow/token'
	refused 'VAULT_TOKEN=$CI_TOKEN vault read snowplow/config'
	refused 'VAULT_TOKEN=$CI_TOKEN vault write snowplow/config api_key_id=another'
}

use_agent() {
	say "Vault Agent keeps a JWT in a file for an application"
	printf '%s' "$CI_TOKEN" >agent-token
	cat >agent.hcl <<-END
		exit_after_auth = true # in the demo only; without it, Agent keeps the file fresh

		auto_auth {
		  method "token_file" {
		    config = { token_file_path = "agent-token" }
		  }
		}

		template {
		  contents    = "{{ with secret \"snowplow/token\" }}{{ .Data.access_token }}{{ end }}"
		  destination = "app/snowplow-token"
		  perms       = "0600"
		}
	END
	run "cat agent.hcl"

	printf '\n$ vault agent -config=agent.hcl\n'
	# Not the function, so that $! is Agent itself.
	VAULT_TOKEN='' HOME=$work/home "$vault_bin" agent -config=agent.hcl >agent.log 2>&1 &
	local pid=$! deadline=$((SECONDS + 60))
	started+=("$pid")
	until [[ -s app/snowplow-token ]]; do
		if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
			tail -n 20 agent.log | mask >&2
			fail "Vault Agent rendered no file (its last lines are above)"
		fi
		sleep 0.2
	done
	run "cat app/snowplow-token && echo"
	[[ $(<app/snowplow-token) == "$JWT" ]] || fail "the file does not hold the JWT that other readers get"
}

use_roles() {
	say "Two teams, each with an API key of its own scope and a token path of its own"
	run "vault write snowplow/roles/analytics api_key_id=analytics-key api_key=@analytics-api-key"
	run "vault write snowplow/roles/ingest api_key_id=ingest-key api_key=@ingest-api-key"
	run "vault policy write snowplow-analytics examples/policies/team.hcl"
	run "sed s/analytics/ingest/ examples/policies/team.hcl | vault policy write snowplow-ingest -"
	run "vault list snowplow/roles"
	run 'ANALYTICS_TOKEN=$(vault token create -policy=snowplow-analytics -field=token)'
	run 'INGEST_TOKEN=$(vault token create -policy=snowplow-ingest -field=token)'
	run 'VAULT_TOKEN=$ANALYTICS_TOKEN vault read snowplow/token/analytics'
	refused 'VAULT_TOKEN=$ANALYTICS_TOKEN vault read snowplow/token/ingest'
	run 'VAULT_TOKEN=$INGEST_TOKEN vault read snowplow/token/ingest'
	refused 'VAULT_TOKEN=$INGEST_TOKEN vault read snowplow/token/analytics'
	refused 'VAULT_TOKEN=$INGEST_TOKEN vault read snowplow/token'
}

use_tools() {
	say "Snowplow's own tools want an API key: snowplow-exec gives them a key pair that opens a port of this machine only"
	local tool="snowplow-cli status" role='' login=''
	if ! type -P snowplow-cli >/dev/null; then
		tool=consoletool
		printf '\n(snowplow-cli is not installed: consoletool does what "snowplow-cli status" does)\n'
	fi
	if [[ $console == fake ]]; then
		role=' -role=analytics' login='VAULT_TOKEN=$ANALYTICS_TOKEN '
	fi
	run "${login}snowplow-exec$role -- $tool"
	grep -q "$organization_id" "$work/output" || fail "the tool has not reached Console"

	say "The tool sees neither the API key, nor the JWT, nor Vault's login"
	run "${login}snowplow-exec$role -- env | grep -E 'SNOWPLOW|VAULT'"
	if grep -qF -e "$JWT" -e "$(<api-key)" -e VAULT_ "$work/output"; then
		fail "the tool's environment holds a secret of Vault's"
	fi
	grep -q '^SNOWPLOW_CONSOLE_API_KEY=' "$work/output" || fail "the tool has no key pair"
}

# reader reads tokens until told to stop. A line tells whether the read began
# before or after the write of the new key had returned, and the JWT.
reader() {
	local phase jwt
	while [[ ! -e stop ]]; do
		phase=before
		if [[ -e rotated ]]; then
			phase=after
		fi
		# No retries: they would hide a failure.
		if ! jwt=$(VAULT_TOKEN=$CI_TOKEN VAULT_MAX_RETRIES=0 vault read -field=access_token snowplow/token 2>>readers.log); then
			jwt=failed
		fi
		printf '%s %s\n' "$phase" "$jwt" >>"reads.$1"
	done
}

count() { cat reads.* 2>/dev/null | grep -c "$1" || true; }

# await_reads waits until the readers have done so many reads of a phase.
await_reads() {
	local deadline=$((SECONDS + 60))
	until (($(count "^$1 ") >= $2)); do
		((SECONDS < deadline)) || fail "the readers got nowhere within a minute"
		sleep 0.2
	done
}

rotate_key() {
	local old i pid readers=()
	say "A new API key takes the old one's place while four readers read without a pause"
	old=$(vault read -field=access_token snowplow/token)
	for i in 1 2 3 4; do
		reader "$i" &
		readers+=($!)
	done
	started+=("${readers[@]}")
	await_reads before 12
	run "vault write snowplow/config api_key_id=demo-key-2 api_key=@api-key-2"
	touch rotated
	await_reads after 12
	touch stop
	for pid in "${readers[@]}"; do
		wait "$pid"
	done
	run 'JWT=$(vault read -field=access_token snowplow/token)'

	local reads failed stale
	reads=$(count .)
	failed=$(count ' failed$')
	stale=$(count "^after $old\$")
	printf '\n%s reads, %s failed. %s of them began after the write: %s got a JWT of the old key, %s one of the new.\n' \
		"$reads" "$failed" "$(count '^after ')" "$stale" "$(count "^after $JWT\$")"
	if ((failed > 0)); then
		tail -n 20 readers.log >&2
		fail "reads failed during the rotation (see above)"
	fi
	((stale == 0)) || fail "a read after the rotation got a JWT of the old key"
	[[ $JWT != "$old" && $(count "^after $JWT\$") == $(count '^after ') ]] || fail "not every later read got the new key's JWT"
	[[ $(count "^before $old\$") -gt 0 ]] || fail "no reader had read with the old key"
}

show_status() {
	say "What the engine knows, without a call to Console and without a secret"
	run "vault read snowplow/status"
	[[ $console == real ]] || grep -q 'api_key_id *demo-key-2$' "$work/output" || fail "the status does not name the new key"
}

forget_vault_variables
make_work_folder
find_programs
choose_console
start_vault
set_up_engine
run "vault read snowplow/config"
if grep -qF "$(<api-key)" "$work/output"; then
	fail "the configuration shows the API key"
fi

say "Reading a token: a JWT with a lease that ends when the JWT expires"
run "vault read snowplow/token"
run 'JWT=$(vault read -field=access_token snowplow/token)'

say "Using it: what curl would do with -H \"Authorization: Bearer \$JWT\""
run "JWT=\$JWT callconsole $console_url/api/msc/v1/organizations"

use_policies
use_agent
if [[ $console == real ]]; then
	say "Left out: roles with keys of their own, and a rotation. They need further API keys, which only the fake Console gives away."
else
	use_roles
fi
use_tools
if [[ $console == fake ]]; then
	rotate_key
fi
show_status
say "All of it went as it should, in $SECONDS s. Vault, Console and their files are removed now."
