//go:build !linux

package vaulttest

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// endWithParent does nothing where no system call does it: such a program must be ended by hand.
func endWithParent(*exec.Cmd) {}

// commandLines returns the command line of each process that runs now, by its ID.
func commandLines() (map[int]string, error) {
	listed, err := exec.Command("ps", "-A", "-o", "pid=", "-o", "args=").Output()
	if err != nil {
		return nil, fmt.Errorf("listing processes with ps: %w", err)
	}
	running := map[int]string{}
	for line := range strings.Lines(string(listed)) {
		number, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("reading the output of ps: %w", err)
		}
		running[pid] = strings.TrimSpace(args)
	}
	return running, nil
}
