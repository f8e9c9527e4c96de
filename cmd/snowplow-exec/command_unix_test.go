//go:build unix

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

// toolUnix is the part of the tests' command that has to do with processes and signals.
func toolUnix(args []string) int {
	switch args[0] {
	case "signals": // prints each that arrives, until standard input ends
		signals := make(chan os.Signal, 16)
		for _, s := range passedOn {
			if !signal.Ignored(s) {
				signal.Notify(signals, s)
			}
		}
		fmt.Println("ready", os.Getppid())
		go func() {
			for s := range signals {
				fmt.Println(s)
			}
		}()
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			fmt.Println("got", lines.Text())
		}
		return 0
	case "peek": // at what snowplow-exec was started with
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
		fmt.Println(err)
		return 0
	}
	return 99
}

func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	// Whatever starts the tests may ignore some, as nohup does; a signal that is handled here is not ignored there.
	for _, s := range passedOn {
		if signal.Ignored(s) {
			handled := make(chan os.Signal, 1)
			signal.Notify(handled, s)
			defer signal.Stop(handled)
		}
	}
	p := newProcess(t, new(vaultServer).start(t), "tool", "signals")
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
	p.start(t)
	require.Contains(t, p.line(t), "ready")
	for _, s := range passedOn {
		require.NoError(t, p.Process.Signal(s))
		require.Equal(t, s.String(), p.line(t))
	}
	_, err := fmt.Fprintln(p.stdin, "standard input")
	require.NoError(t, err)
	require.Equal(t, "got standard input", p.line(t), "no signal came twice, and the command reads the standard input")
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.Wait())
}

func TestASignalThatIsIgnoredStaysIgnored(t *testing.T) {
	t.Parallel()
	p := newProcess(t, new(vaultServer).start(t), "tool", "signals")
	p.Args = append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`, p.Path}, p.Args[1:]...)
	p.Path = "/bin/sh"
	p.start(t)
	require.Contains(t, p.line(t), "ready")
	require.NoError(t, p.Process.Signal(syscall.SIGHUP))
	require.NoError(t, p.Process.Signal(syscall.SIGUSR1))
	require.Equal(t, syscall.SIGUSR1.String(), p.line(t), "as with nohup")
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.Wait())
}

func TestServingWithoutACommand(t *testing.T) {
	t.Parallel()
	p := newProcess(t, new(vaultServer).start(t), "-listen=localhost:0")
	p.start(t)
	variables := map[string]string{}
	for range 6 {
		name, value, ok := strings.Cut(strings.TrimPrefix(p.line(t), "export SNOWPLOW_CONSOLE_"), "=")
		require.True(t, ok)
		variables[name] = value
	}
	require.Equal(t, consoletest.DefaultOrganizationID, variables["ORG_ID"])
	require.Equal(t, variables["HOST"]+"/api/msc", variables["API_URL"])
	require.True(t, strings.HasPrefix(variables["HOST"], "http://127.0.0.1:"), variables["HOST"])
	require.Equal(t, variables["TOKEN"], exchange(variables["HOST"], variables["API_KEY_ID"], variables["API_KEY"]))
	status, _ := get(variables["API_URL"]+"/v1/organizations", bearer(variables["TOKEN"]))
	require.Equal(t, 200, status)

	require.NoError(t, p.Process.Signal(os.Interrupt))
	require.NoError(t, p.Wait(), "Ctrl-C is how it ends")
	status, _ = get(variables["HOST"], nil)
	require.Equal(t, 0, status, "the port is closed")
}

func TestEnvironmentOfTheCommand(t *testing.T) {
	t.Parallel()
	console := []string{"SNOWPLOW_CONSOLE_HOST=http://127.0.0.1:1"}
	both := func(value string) []string { return []string{"NO_PROXY=" + value, "no_proxy=" + value} }
	for name, tt := range map[string]struct{ caller, want []string }{
		"Vault's":              {[]string{"A=1", "VAULT_ADDR=x", "vault_token=x", "BAO_TOKEN=x", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=x", "VAULTED=2"}, []string{"A=1", "VAULTED=2"}},
		"Console's":            {[]string{"SNOWPLOW_CONSOLE_HOST=x", "SNOWPLOW_CONSOLE_MANAGED_FROM=y"}, []string{"SNOWPLOW_CONSOLE_MANAGED_FROM=y"}},
		"a proxy":              {[]string{"http_proxy=x"}, append([]string{"http_proxy=x"}, both(loopbackHosts)...)},
		"no proxy":             {[]string{"HTTP_PROXY=", "NO_PROXY="}, []string{"HTTP_PROXY="}},
		"exceptions":           {[]string{"ALL_PROXY=x", "NO_PROXY=a,b"}, append([]string{"ALL_PROXY=x"}, both("a,b,"+loopbackHosts)...)},
		"in lower case":        {[]string{"no_proxy=a", "ALL_PROXY=x"}, append([]string{"ALL_PROXY=x"}, both("a,"+loopbackHosts)...)},
		"in both":              {[]string{"no_proxy=a", "NO_PROXY=a"}, both("a," + loopbackHosts)},
		"in both, not alike":   {[]string{"no_proxy=a", "NO_PROXY=b"}, both("a,b," + loopbackHosts)},
		"in lower case alone":  {[]string{"no_proxy=a", "NO_PROXY="}, both("a," + loopbackHosts)},
		"a proxy for nothing":  {[]string{"ALL_PROXY=x", "no_proxy=*"}, append([]string{"ALL_PROXY=x"}, both("*")...)},
		"for nothing, in both": {[]string{"no_proxy=a", "NO_PROXY=*"}, both("*")},
	} {
		assert.Equal(t, append(tt.want, console...), commandEnvironment(tt.caller, console), name)
	}
}
