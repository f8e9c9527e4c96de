#!/usr/bin/env bash
# Does what "snowplow-cli status" does, where that is not installed: exchanges
# the API key pair in the environment for a JWT, and lists the organizations
# that the JWT opens. Over plain HTTP only, as snowplow-exec serves it.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
	echo "usage: snowplow-exec -- console-status.sh"
	exit
fi

host=${SNOWPLOW_CONSOLE_HOST#http://}
organizations=/api/msc/v1/organizations

# get prints the body of a path's answer; the other arguments are headers. Not every machine has curl.
get() {
	local status line
	exec 3<>"/dev/tcp/${host%:*}/${host##*:}"
	printf '%s\r\n' "GET $1 HTTP/1.0" "Host: $host" "${@:2}" '' >&3
	IFS= read -r status <&3
	while IFS= read -r line && [[ $line != $'\r' ]]; do :; done <&3
	cat <&3
	if [[ $status != *' 200 '* ]]; then
		printf 'console-status.sh: Console answered %s\n' "${status%$'\r'}" >&2
		return 1
	fi
}

answer=$(get "$organizations/$SNOWPLOW_CONSOLE_ORG_ID/credentials/v3/token" \
	"X-API-Key-ID: $SNOWPLOW_CONSOLE_API_KEY_ID" "X-API-Key: $SNOWPLOW_CONSOLE_API_KEY")
get "$organizations" "Authorization: Bearer $(sed -n 's/.*"accessToken": *"\([^"]*\)".*/\1/p' <<<"$answer")"
