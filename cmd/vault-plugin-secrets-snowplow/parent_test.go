//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// orphanOf makes this program a plugin. Its value is empty, or the ID of a parent that has to go first.
const orphanOf = "TEST_PLUGIN_ORPHAN_OF"

func TestMain(m *testing.M) {
	gone, isPlugin := os.LookupEnv(orphanOf)
	if !isPlugin {
		os.Exit(m.Run())
	}
	for strconv.Itoa(os.Getppid()) == gone {
		time.Sleep(time.Millisecond)
	}
	endWithVault()
	time.Sleep(2*parentPoll + parentPoll/2)
	fmt.Println("still runs")
	if gone == "" {
		time.Sleep(10 * time.Second)
	}
}

// startPlugin has a shell start the plugin, and waits until that has looked for its parent twice.
func startPlugin(t *testing.T, script string) (shell *exec.Cmd, printed *os.File) {
	t.Helper()
	printed, stdout, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = printed.Close() })
	require.NoError(t, printed.SetReadDeadline(time.Now().Add(30*time.Second)))
	shell = exec.Command("sh", "-c", script, os.Args[0])
	shell.Stdout, shell.Stderr = stdout, os.Stderr
	require.NoError(t, shell.Start())
	require.NoError(t, stdout.Close())
	line, err := bufio.NewReader(printed).ReadString('\n')
	require.NoError(t, err, "the plugin has ended")
	require.Equal(t, "still runs\n", line)
	return shell, printed
}

func TestEndsWithAKilledVault(t *testing.T) {
	t.Parallel()
	vault, printed := startPlugin(t, orphanOf+`= "$0" & wait`)
	require.NoError(t, vault.Process.Kill())
	assert.Error(t, vault.Wait(), "it was killed")
	require.NoError(t, printed.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err := io.Copy(io.Discard, printed)
	require.NoError(t, err, "the plugin runs on, and holds its standard output open")
}

// Where Vault is the first process of a container, its plugins have the parent that orphans have elsewhere.
func TestRunsUnderTheParentOfOrphans(t *testing.T) {
	t.Parallel()
	shell, _ := startPlugin(t, orphanOf+`=$$ "$0" &`)
	require.NoError(t, shell.Wait())
}
