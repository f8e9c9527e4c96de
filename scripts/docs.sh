#!/usr/bin/env bash
# Runs the command blocks (```sh) of README.md and docs/, or of the pages given,
# in the order of the page, on a Vault in production mode: TLS, integrated
# storage, a user without privileges (if this is run by root), an audit log, the
# configuration file that docs/operations.md shows. A fake Snowplow Console
# answers for Snowplow's host names through a proxy. About two minutes.
#
# A block that ends with an error fails the run. Comments in front of a block say
# what else is to be known of it:
#   <!-- first: COMMAND -->   what has happened before, without the page saying so
#   <!-- shows: TEXT -->      its output has this text
#   <!-- fails: TEXT -->      it fails, and its output has this text
#   <!-- needs: root -->      left out, and said so, where this is not run by root
#   <!-- not run: REASON -->  left out, and said so
# A ```json block holds the answer to the sh block before it: below "data", the
# names of the fields and the types of their values have to be those that came.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$root"
pages=("$@")
if ((${#pages[@]} == 0)); then
	pages=(README.md docs/getting-started.md docs/api.md docs/operations.md)
fi
missing=()
for tool in openssl curl jq tar setcap; do
	PATH=$PATH:/usr/sbin:/sbin type -P "$tool" >/dev/null || missing+=("${tool/setcap/libcap2-bin}")
done
if ((${#missing[@]} > 0)) && ((EUID == 0)) && type -P apt-get >/dev/null; then
	say "Installing ${missing[*]}, which the pages call"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
	missing=()
fi
if ((${#missing[@]} > 0)); then
	if [[ ${CI:-} == true ]]; then # the tests themselves need none of these
		printf '\nTHE PAGES WERE NOT RUN: they call %s, and only root can install that here.\n' "${missing[*]}" >&2
		exit 0
	fi
	fail "${missing[*]} is needed and not installed"
fi

organization_id=11111111-2222-4333-8444-555555555555

# authority makes a CA, and certify a certificate of it for some host names.
authority() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" \
		-keyout "$1.key" -out "$1.pem" 2>>openssl.log
}
certify() {
	local ca=$1 file=$2 names=$3
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$file" \
		-keyout "$file.key" -out "$file.csr" 2>>openssl.log
	openssl x509 -req -in "$file.csr" -CA "$ca.pem" -CAkey "$ca.key" -CAcreateserial -days 2 \
		-extfile <(printf 'subjectAltName=%s\n' "$names") -out "$file.crt" 2>>openssl.log
}

# await runs a command until it succeeds.
await() {
	local what=$1 pid=$2 deadline=$((SECONDS + 60))
	shift 2
	until "$@" >await.out 2>&1; do
		if ((SECONDS > deadline)) || ! kill -0 "$pid" 2>/dev/null; then
			tail -n 20 await.out "$work"/*.log >&2 || true
			fail "$what"
		fi
		sleep 0.2
	done
}

start_console() {
	local arguments=() id
	for id in demo-key demo-key-2 analytics-key ingest-key; do
		arguments+=(-api-key-id "$id" -api-key "secret-of-$id")
	done
	fakeconsole -organization "$organization_id" "${arguments[@]}" -proxy-addr 127.0.0.1:0 \
		-tls-cert snowplow.crt -tls-key snowplow.key -tls-cert own.crt -tls-key own.key \
		>console.out 2>console.log &
	local pid=$!
	started+=("$pid")
	await "the fake Console did not start" "$pid" grep -q '^listening on' console.out
	proxy=$(sed -n 's/^proxy on //p' console.out)
}

# Words of the pages that are others here.
localized() {
	sed -e "s#https://vault\(-1\)\{0,1\}\.example\.com:8200#https://127.0.0.1:$port#g" \
		-e "s#https://vault\(-1\)\{0,1\}\.example\.com:8201#https://127.0.0.1:$((port + 1))#g" \
		-e "s#0\.0\.0\.0:8200#127.0.0.1:$port#g" \
		-e "s#http://proxy\.example\.com:3128#$proxy#g" \
		-e "s#/opt/vault#$work/opt/vault#g" -e "s#/etc/vault\.d#$work/etc#g" -e "s#/usr/bin/vault#$work/usr/bin/vault#g" \
		-e "s#/etc/ssl/private-ca#$work/tls#g" \
		-e "s#<UUID>#$organization_id#g" -e 's#<NEW ID>#demo-key-2#g' -e 's#<ID of the team.s key>#analytics-key#g' -e 's#<ID>#demo-key#g' \
		-e 's#<file with the key>#api-key#g' -e "s#<file with the team's key>#analytics-api-key#g"
}

# write_programs puts in front of the PATH what the pages call and a test has to do differently.
write_programs() {
	mkdir -p stubs
	cat >stubs/vault <<-END
		#!/usr/bin/env bash
		export HOME=$work/home
		if [[ "\$*" == "operator unseal" ]]; then
			set -- operator unseal "\$(cat $work/unseal-key)" # which the operator types
		fi
		exec $work/usr/bin/vault "\$@"
	END
	cat >stubs/sudo <<-'END'
		#!/usr/bin/env bash
		exec "$@"
	END
	# Tells the script, which has the server as its child, and waits.
	cat >stubs/systemctl <<-END
		#!/usr/bin/env bash
		[[ \$1 == restart && \$2 == vault ]] || { echo "systemctl: only 'restart vault' is known here" >&2; exit 1; }
		$work/stubs/server restart
	END
	cat >stubs/make <<-END
		#!/usr/bin/env bash
		exec $(type -P make) -s -C $root "\$@"
	END
	cat >stubs/server <<-END
		#!/usr/bin/env bash
		# The server is started here, by a user without privileges if there is a choice, and known by its process ID.
		set -euo pipefail
		cd $work
		if [[ -s server.pid ]]; then
			pid=\$(cat server.pid)
			kill "\$pid" 2>/dev/null || true
			for ((i = 0; i < 300; i++)); do
				kill -0 "\$pid" 2>/dev/null || break
				sleep 0.1
			done
			kill -9 "\$pid" 2>/dev/null || true
			rm server.pid
		fi
		[[ \$1 == restart ]] || exit 0
		export HOME=$work/home HTTPS_PROXY=$proxy SSL_CERT_FILE=$work/tls/public-ca.pem
		${unprivileged}$work/usr/bin/vault server -config=$work/etc/vault.hcl </dev/null >>server.log 2>&1 &
		echo \$! >server.pid
		for ((i = 0; i < 300; i++)); do
			status=0
			VAULT_MAX_RETRIES=0 $work/usr/bin/vault status >/dev/null 2>&1 || status=\$?
			if ((status != 1)); then exit 0; fi
			kill -0 "\$(cat server.pid)" 2>/dev/null || break
			sleep 0.2
		done
		echo "Vault did not start:" >&2
		tail -n 5 server.log >&2
		exit 1
	END
	if ((EUID != 0)); then
		# Only root may give a file to another user.
		cat >stubs/install <<-END
			#!/usr/bin/env bash
			kept=()
			while ((\$#)); do
				case \$1 in -o | -g) shift ;; *) kept+=("\$1") ;; esac
				shift
			done
			exec $(type -P install) "\${kept[@]}"
		END
	fi
	chmod +x stubs/*
}

# start_server starts a Vault that knows nothing yet, with the configuration of docs/operations.md.
start_server() {
	local tries
	stubs/server stop
	rm -rf opt etc home
	mkdir -p opt/vault/plugins opt/vault/data opt/vault/tls opt/vault/audit etc home
	cp tls/vault.crt tls/vault.key opt/vault/tls/
	cp tls/own-ca.pem opt/vault/tls/ca.pem
	if ((EUID == 0)); then
		chown -R 65534:65534 opt/vault/data opt/vault/tls opt/vault/audit home
	fi
	for tries in 1 2 3 4 5; do
		port=$((20000 + RANDOM % 5000 * 2))
		export VAULT_ADDR=https://127.0.0.1:$port
		awk '/^```hcl/ { hcl = 1; next } /^```/ { if (hcl) exit; next } hcl' "$root/docs/operations.md" | localized >etc/vault.hcl
		if stubs/server restart; then
			break
		fi
		((tries < 5)) || fail "Vault did not start (see above)"
	done
	vault operator init -key-shares=1 -key-threshold=1 -format=json >init.json
	jq -r '.unseal_keys_b64[0]' init.json >unseal-key
	VAULT_TOKEN=$(jq -r .root_token init.json)
	export VAULT_TOKEN
	vault operator unseal >/dev/null
	await "Vault did not become active" "$(<server.pid)" vault secrets list
	vault audit enable file file_path="$work/opt/vault/audit/audit.log" >/dev/null
}

# set_up_for gives a page a server, and a mount that is in use unless the page installs it itself.
set_up_for() {
	start_server
	rm -rf operator state
	mkdir operator
	: >state
	ln -s "$root/bin" "$root/examples" operator/
	printf 'secret-of-demo-key\n' >operator/api-key
	printf 'secret-of-demo-key-2\n' >operator/new-api-key
	printf 'secret-of-analytics-key\n' >operator/analytics-api-key
	printf 'secret-of-ingest-key\n' >operator/ingest-api-key
	case $1 in
	README.md | docs/operations.md | docs/setup.md) ;;
	*)
		install -m 0755 "$root/bin/$plugin" opt/vault/plugins/
		vault plugin register -sha256="$(sha256 "opt/vault/plugins/$plugin")" secret "$plugin" >/dev/null
		vault secrets enable -path=snowplow "$plugin" >/dev/null
		vault write snowplow/config organization_id="$organization_id" api_key_id=demo-key api_key=@operator/api-key >/dev/null
		;;
	esac
}

# in_shell runs commands in the operator's shell, whose variables outlast a block.
in_shell() {
	printf '%s\n' "$1" | localized >block
	(
		cd operator
		# shellcheck disable=SC2016 # expanded by the other shell
		HTTPS_PROXY=$proxy NO_PROXY=127.0.0.1 CURL_CA_BUNDLE=$work/tls/all-ca.pem \
			bash -c 'set -euo pipefail; . "$0/state"; set -a; . "$0/block"; export -p >"$0/state"' "$work"
	) >output 2>&1
}

# shape prints the names of all fields of an answer of Vault, and the types of what is no object.
shape() { jq -S '.data | [paths(type != "object" and type != "array") as $p | {p: ($p | map(tostring) | join(".")), t: (getpath($p) | type)}]'; }

run_page() {
	local page=$1 line text='' kind='' indent='' number=0 begun=0
	local first=() shows=() fails='' skip='' skipped='' blocks=0
	set_up_for "$page"
	while IFS= read -r line || [[ -n $line ]]; do
		number=$((number + 1))
		if [[ -n $kind ]]; then
			line=${line#"$indent"}
			if [[ $line == '```' ]]; then
				check_block
				kind='' text='' indent=''
			else
				text+=$line$'\n'
			fi
			continue
		fi
		# A block in a list is indented.
		if [[ $line =~ ^\ +(\`\`\`|\<!--\ ) ]]; then
			indent=${line%%[![:space:]]*} line=${line#"${line%%[![:space:]]*}"}
		else
			indent=''
		fi
		case $line in
		'<!-- first: '*) first+=("$(comment first)") ;;
		'<!-- shows: '*) shows+=("$(comment shows)") ;;
		'<!-- fails: '*) fails=$(comment fails) ;;
		'<!-- not run: '*) skip=$(comment 'not run') ;;
		'<!-- needs: root -->') ((EUID == 0)) || skip="this is not run by root" ;;
		'```'*) kind=${line#'```'} kind=${kind:-text} begun=$number ;;
		esac
	done <"$root/$page"
	[[ -z $kind ]] || fail "$page:$begun: the block does not end"
	((blocks > 0)) || fail "$page has no block that could be run"
	say "$page: $blocks blocks"
}

comment() {
	local value=${line#"<!-- $1: "}
	printf '%s' "${value%' -->'}"
}

# check_block does what is to be done with the block that ends in this line.
check_block() {
	local command status=0 part
	case $kind in
	sh)
		skipped=$skip
		if [[ -n $skip ]]; then
			printf '%s:%s: not run: %s\n' "$page" "$begun" "$skip"
		else
			printf '%s:%s\n' "$page" "$begun"
			for command in ${first[@]+"${first[@]}"}; do
				in_shell "$command" || { cat output >&2; fail "$page:$begun: what comes first failed: $command"; }
			done
			in_shell "$text" || status=$?
			if [[ -z $fails ]] && ((status != 0)); then
				printf '%s' "$text" >&2
				cat output >&2
				fail "$page:$begun: the block ended with status $status"
			fi
			if [[ -n $fails ]] && ((status == 0)); then
				fail "$page:$begun: the block should have failed: $fails"
			fi
			for part in ${fails:+"$fails"} ${shows[@]+"${shows[@]}"}; do
				part=$(localized <<<"$part")
				grep -qF -- "$part" output || { cat output >&2; fail "$page:$begun: the output does not show: $part"; }
			done
			blocks=$((blocks + 1))
		fi
		;;
	json)
		if [[ -z $skipped ]]; then
			printf '%s' "$text" | shape >expected || fail "$page:$begun: the block is not JSON"
			shape <output >got || { cat output >&2; fail "$page:$begun: the answer is not JSON"; }
			diff -u expected got >&2 || fail "$page:$begun: the answer has other fields"
		fi
		return # what was said of the sh block has been used already
		;;
	esac
	first=() shows=() fails='' skip=''
}

forget_vault_variables
vault_bin=$(scripts/vault.sh) || fail "there is no Vault to use (see above)"
[[ $("$vault_bin" version) == Vault* ]] || fail "$vault_bin is not Vault, for which the pages are written; make test runs on OpenBao, too"
make_work_folder
chmod 711 "$work"
umask 022
say "Building the programs, the certificates and a Vault for the documentation in $work"
make -s build
unprivileged=
if ((EUID == 0)); then
	unprivileged='setpriv --reuid=65534 --regid=65534 --clear-groups '
fi
mkdir -p "$work/usr/bin" "$work/bin" "$work/tls" "$work/home"
cp "$vault_bin" "$work/usr/bin/vault"
CGO_ENABLED=0 go build -race=false -trimpath -o "$work/bin/" ./internal/consoletest/fakeconsole
cd "$work/tls"
authority public-ca
authority own-ca
certify public-ca snowplow DNS:console.snowplowanalytics.com,DNS:id.snowplowanalytics.com
certify own-ca own DNS:console.example.com
certify own-ca vault IP:127.0.0.1
cat public-ca.pem own-ca.pem >all-ca.pem
PATH=$work/bin:$PATH
start_console
cd "$work"
export VAULT_CACERT=$work/tls/own-ca.pem
write_programs
PATH=$work/stubs:$work/bin:$PATH
vault() { stubs/vault "$@"; }
trap 'stubs/server stop || true; clean_up' EXIT

for page in "${pages[@]}"; do
	run_page "${page#"$root/"}"
done
say "Every block did what the pages say, after $SECONDS s"
