package vaulttest

import (
	"os/exec"
	"syscall"
)

// endWithParent has a program told to end when this process dies without having stopped it: a test that runs into
// its time limit, for example.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
