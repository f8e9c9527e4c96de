//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// orphanOf makes this program a plugin, which waits until the parent with this ID has gone.
const orphanOf = "TEST_PLUGIN_ORPHAN_OF"

func TestMain(m *testing.M) {
	parent, isPlugin := os.LookupEnv(orphanOf)
	if !isPlugin {
		os.Exit(m.Run())
	}
	for strconv.Itoa(os.Getppid()) == parent {
		time.Sleep(time.Millisecond)
	}
	endWithVault()
	time.Sleep(2*parentPoll + parentPoll/2)
	fmt.Println("still runs")
}

// Where Vault is the first process of a container, its plugins have the parent that orphans have elsewhere. That a plugin
// ends with a Vault that was killed, acceptance/process_test.go shows.
func TestRunsUnderTheParentOfOrphans(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("sh", "-c", orphanOf+`=$$ "$0" &`, os.Args[0]).Output()
	require.NoError(t, err)
	require.Equal(t, "still runs\n", string(out))
}
