#!/usr/bin/env bash
# A client of Snowplow Console that takes its JWT from Vault. It asks Console
# for each path that it reads from standard input, and prints the answers.
# Needs curl and jq.
#
#   export VAULT_ADDR=https://vault.example.com:8200 VAULT_TOKEN=...
#   echo /api/msc/v1/organizations | ./client.sh snowplow/token/analytics
set -euo pipefail

if [[ $# != 1 || $1 == -* ]]; then
	echo "usage: client.sh <path of the token, for example snowplow/token/analytics>" >&2
	exit 2
fi
token_path=$1

# Secrets go to curl on its standard input: others can see a program's arguments.

# read_token reads a JWT. It may be the same as before: Vault hands out one to many readers.
read_token() {
	local answer
	answer=$(printf 'X-Vault-Token: %s' "$VAULT_TOKEN" |
		curl --silent --show-error --fail-with-body --max-time 90 --header @- "$VAULT_ADDR/v1/$token_path") || {
		echo "error: cannot read $token_path: $(printf '%s' "$answer" | jq --raw-output '.errors | join("; ")' 2>/dev/null)"
		return 1
	}
	printf '%s' "$answer" | jq --raw-output '.warnings[]? | "Vault warns: " + .' >&2
	jwt=$(printf '%s' "$answer" | jq --raw-output .data.access_token)
	console_url=$(printf '%s' "$answer" | jq --raw-output .data.console_url)
	# The lease cannot be renewed. Two thirds of it leave time for a Vault that is away.
	read_again_at=$((SECONDS + $(printf '%s' "$answer" | jq .lease_duration) * 2 / 3))
}

# send sets status and body.
send() {
	body=$(printf 'Authorization: Bearer %s' "$jwt" |
		curl --silent --show-error --max-time 30 --header @- --write-out '\n%{http_code}' "$console_url$1") || return
	status=${body##*$'\n'}
	body=${body%$'\n'*}
}

get() {
	if ((SECONDS >= read_again_at)); then
		# A third of the lease is left. Try again in a minute.
		read_token >&2 || read_again_at=$((SECONDS + 60))
	fi
	send "$1" || return
	if [[ $status == 401 ]]; then
		# The key may have been replaced, or the cached JWT dropped. If Vault still has the same JWT, it is the key that
		# has to be looked at, and asking again would not help.
		local refused=$jwt
		read_token || return
		if [[ $jwt == "$refused" ]]; then
			echo "error: the JWT is refused, and Vault has no other: see vault read snowplow/status"
			return
		fi
		send "$1" || return
	fi
	echo "$status ${body%$'\n'}"
}

read_token >&2 || exit 1
while read -r path; do
	get "$path" || echo "error: Console cannot be reached"
done
