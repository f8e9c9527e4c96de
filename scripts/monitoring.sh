#!/usr/bin/env bash
# Runs the acceptance tests of examples/monitoring with a real Prometheus, some
# 2 minutes. They use the prometheus and promtool on PATH; where these are
# missing and apt-get is there, Debian's package is unpacked into the user's
# cache folder, which installs and starts nothing. Vault is the one that
# scripts/vault.sh finds. "make test-monitoring" builds the plugin and calls this.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
forget_vault_variables

# unpack_prometheus puts the programs of Debian's package into the folder $1.
unpack_prometheus() {
	say "Unpacking Debian's package prometheus into $1 (20 MB to download, 100 MB unpacked)"
	make_work_folder
	if ! (cd "$work" && apt-get download prometheus); then
		((EUID == 0)) || fail "apt-get cannot download prometheus: run apt-get update as root, or install prometheus and promtool"
		apt-get update
		(cd "$work" && apt-get download prometheus) || fail "apt-get cannot download prometheus"
	fi
	dpkg-deb --extract "$work"/prometheus_*.deb "$work/unpacked"
	mkdir -p "$1"
	mv "$work"/unpacked/usr/bin/prometheus "$work"/unpacked/usr/bin/promtool "$1"
}

if ! type -P prometheus promtool >/dev/null; then
	programs=${XDG_CACHE_HOME:-$HOME/.cache}/$plugin/prometheus
	if [[ ! -x $programs/prometheus || ! -x $programs/promtool ]]; then
		type -P apt-get dpkg-deb >/dev/null || fail "there is no prometheus or no promtool on PATH, and no apt-get to get them with: install Prometheus"
		unpack_prometheus "$programs"
	fi
	PATH=$programs:$PATH
fi
prometheus --version 2>&1 | sed -n 1p

vault=$(scripts/vault.sh) || fail "there is no Vault to use (see above)"
say "monitoring tests"
MONITORING_ACC=1 VAULT_ACC=1 VAULT_BIN=$vault go test -count=1 -timeout=15m -v -run '^(TestMonitoringExample|TestMonitoring)$' ./acceptance
