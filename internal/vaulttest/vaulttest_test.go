package vaulttest

import (
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
