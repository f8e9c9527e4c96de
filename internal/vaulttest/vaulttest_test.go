package vaulttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

// script writes a program that runs these lines of a shell.
func script(t *testing.T, lines string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	// A program that another test starts meanwhile would inherit the open file, and "text file busy" be the result.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+lines), 0o700))
	return path
}

func TestFindTellsWhatAProgramIs(t *testing.T) {
	t.Parallel()
	for printed, want := range map[string]string{
		"Vault v1.21.2 (e5f2a7b), built 2026-01-02T03:04:05Z":   "Vault 1.21.2",
		"Vault v1.16.3, built 2024-05-29T14:04:05Z":             "Vault 1.16.3",
		"OpenBao v2.5.5 (0123456789abcdef), built 2026-01-02":   "OpenBao 2.5.5",
		"OpenBao v2.6.0-beta20260622, built 2026-01-02T03:04:0": "OpenBao 2.6.0-beta20260622",
	} {
		path := script(t, "echo '"+printed+"'\n")
		found, err := Find(t.Context(), path)
		require.NoError(t, err, printed)
		assert.Equal(t, want, found.String())
		assert.Equal(t, path, found.Path)
	}
	for name, path := range map[string]string{
		"another program":   script(t, "echo git version 2.47.3\n"),
		"a failing program": script(t, "echo 'Vault v1.21.2'; exit 1\n"),
		"no program":        filepath.Join(t.TempDir(), "vault"),
		"a relative path":   "vault",
	} {
		_, err := Find(t.Context(), path)
		assert.Error(t, err, name)
	}
}

func TestProgramsDoNotSeeTheUsersServer(t *testing.T) {
	for _, variable := range os.Environ() {
		if aboutServer(variable) {
			name, value, _ := strings.Cut(variable, "=")
			t.Setenv(name, value) // other tests get back what this one makes the process forget
		}
	}
	t.Setenv("VAULT_TOKEN", "of-the-user")
	t.Setenv("BAO_ADDR", "https://of-the-user.example.com")
	t.Setenv("UNRELATED", "kept")
	cmd := Program{Path: script(t, "env"), Product: Vault}.command("/nowhere")
	out, err := cmd.Output()
	require.NoError(t, err)
	assert.NotContains(t, string(out), "of-the-user")
	assert.Contains(t, string(out), "UNRELATED=kept")
	assert.Contains(t, string(out), "HOME=/nowhere")

	require.NoError(t, ForgetEnvironment())
	assert.Empty(t, os.Getenv("VAULT_TOKEN")+os.Getenv("BAO_ADDR"))
	assert.Equal(t, "kept", os.Getenv("UNRELATED"))
}

func TestProcessThatDoesNotStopIsKilled(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	p, err := StartProcess(exec.Command(script(t, "echo started; echo '[TRACE] detail'; sleep 0.1; exec sleep 600\n")), log)
	require.NoError(t, err)
	require.True(t, p.Running())
	eventually(t, "the log has the program's output", func() bool { return p.Tail() != "" })
	assert.Equal(t, "started", p.Tail(), "the end of the log, without TRACE")
	p.Kill()
	assert.False(t, p.Running())
	p.Stop() // does nothing to what has ended
}

// childVariable makes this program a test that starts a process, prints its PID, and then hangs.
const childVariable = "VAULTTEST_CHILD"

func child() {
	p, err := StartProcess(exec.Command("sleep", "600"), os.DevNull)
	if err != nil {
		panic(err)
	}
	fmt.Println(p.cmd.Process.Pid)
	select {}
}

func TestProcessEndsWithTheTestThatStartedIt(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: other systems do not tell a process that its parent has ended")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), childVariable+"=1")
	stdout, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	var pid int
	_, err = fmt.Fscanln(stdout, &pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, 0), "the process runs as long as its parent does")

	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait() // that it was killed
	eventually(t, "the process has ended", func() bool {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		return err != nil || strings.Contains(string(status), "State:\tZ")
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(pollEvery) {
		require.True(t, time.Now().Before(deadline), what)
	}
}

// realServer starts a server with the baseline's plugin mounted at baseline/.
func realServer(t *testing.T) *Server {
	t.Helper()
	if os.Getenv("VAULT_ACC") == "" {
		t.Skip("needs a real server: 'make test' runs it")
	}
	program, err := Find(t.Context(), os.Getenv("VAULT_BIN"))
	require.NoError(t, err)
	s, err := Start(t.Context(), Options{Program: program, Dir: t.TempDir(), Raft: true, Audit: true})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })

	plugin := filepath.Join(t.TempDir(), "plugin")
	build := exec.Command("go", "build", "-o", plugin, "github.com/snowplow-vault/vault-plugin-secrets-snowplow/bench/baselineplugin")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, s.RegisterPlugin(t.Context(), Plugin{Name: "baseline", Program: plugin, Command: "baseline-1"}))
	require.NoError(t, s.Client.Sys().Mount("baseline", &api.MountInput{Type: "baseline"}))
	return s
}

func TestServerIsUsedAndLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := realServer(t)
	pids, err := s.PluginPIDs("baseline-1")
	require.NoError(t, err)
	require.Len(t, pids, 1)
	other, err := s.PluginPIDs("another")
	require.NoError(t, err)
	require.Empty(t, other)

	token, err := s.CreateToken(t.Context(), "reader", `path "baseline/token" { capabilities = ["read"] }`)
	require.NoError(t, err)
	client, err := s.NewClient(token)
	require.NoError(t, err)
	secret, err := client.Logical().Read("baseline/token")
	require.NoError(t, err)
	_, err = client.Logical().List("sys/policies/acl")
	require.ErrorContains(t, err, "403", "the token's policy does not allow it")

	printed, err := s.CLI(token, "read", "-field=access_token", "baseline/token")
	require.NoError(t, err)
	require.Equal(t, secret.Data["access_token"], printed)
	_, err = s.CLI(token, "policy", "list")
	require.ErrorContains(t, err, "permission denied")

	audit, err := os.ReadFile(s.AuditLog())
	require.NoError(t, err)
	require.Contains(t, string(audit), `"path":"baseline/token"`)

	require.NoError(t, s.Close())
	require.False(t, s.Running())
	require.NoDirExists(t, s.Dir())
	pids, err = s.PluginPIDs("")
	require.NoError(t, err)
	require.Empty(t, pids)
}

func TestServerComesBackWithWhatItHad(t *testing.T) {
	t.Parallel()
	s := realServer(t)
	for name, step := range map[string]func(context.Context) error{
		"sealed": func(ctx context.Context) error {
			if err := s.Seal(ctx); err != nil {
				return err
			}
			status, err := s.Client.Sys().SealStatusWithContext(ctx)
			if err != nil {
				return err
			}
			assert.True(t, status.Sealed)
			return s.Unseal(ctx)
		},
		"stopped": s.Restart,
		"killed": func(ctx context.Context) error {
			if err := s.Kill(); err != nil {
				return err
			}
			assert.False(t, s.Running())
			eventually(t, "no process of the plugin is left", func() bool {
				pids, err := s.PluginPIDs("")
				return err == nil && len(pids) == 0
			})
			return s.Restart(ctx)
		},
	} {
		address := s.Address()
		require.NoError(t, s.Client.Sys().PutPolicy(name, "# "+name))
		require.NoError(t, step(t.Context()), name)
		rules, err := s.Client.Sys().GetPolicy(name)
		require.NoError(t, err)
		require.Equal(t, "# "+name, rules, "storage after the server was %s", name)
		require.Equal(t, address, s.Address())
		_, err = s.Client.Logical().Read("baseline/token")
		require.NoError(t, err, "the plugin after the server was %s", name)
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := Program{Path: script(t, "echo 'no such storage: punch cards' >&2; exit 1\n"), Product: Vault}
	_, err := Start(t.Context(), Options{Program: program, Dir: dir})
	require.ErrorContains(t, err, "punch cards")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "files of a server that did not start")
}
