package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// process is what the system shows of a plugin's process. It does not show goroutines: one that never ends shows as
// memory, an open file or a thread.
type process struct {
	rss     int // KiB
	threads int // Linux only, else 0
	files   int // Linux only, else 0
}

// plugin looks at the process that runs a program of the plugin folder.
func (v *vault) plugin(command string) (process, error) {
	pids, err := v.PluginPIDs(command)
	if err != nil {
		return process{}, err
	}
	if len(pids) != 1 {
		return process{}, fmt.Errorf("looking for one process of the plugin %s: found %v", command, pids)
	}
	memory, err := rss(pids[0])
	return process{
		rss:     memory,
		threads: entries(fmt.Sprintf("/proc/%d/task", pids[0])),
		files:   entries(fmt.Sprintf("/proc/%d/fd", pids[0])),
	}, err
}

// rss is the memory of a process in KiB.
func rss(pid int) (int, error) {
	printed, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, fmt.Errorf("asking ps for the memory of process %d: %w", pid, err)
	}
	memory, err := strconv.Atoi(strings.TrimSpace(string(printed)))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	return memory, nil
}

// entries counts what is in a folder, which is not there on every system.
func entries(folder string) int {
	names, _ := os.ReadDir(folder)
	return len(names)
}
