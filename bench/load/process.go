package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// process is what the system tells of a plugin's process. What it does not tell of a Go program is its goroutines: a
// goroutine that waits forever shows as memory, as a file it holds open, or as a thread.
type process struct {
	rss     int // KiB
	threads int // Linux only, else 0
	files   int // Linux only, else 0
}

// plugin looks at the process that runs the plugin of that name.
func (v *vault) plugin(name string) (process, error) {
	pids, err := v.PluginPIDs(name)
	if err != nil {
		return process{}, err
	}
	if len(pids) != 1 {
		return process{}, fmt.Errorf("looking for one process of the plugin %s: found %v", name, pids)
	}
	pid := pids[0]
	printed, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return process{}, fmt.Errorf("asking ps for the memory of the plugin %s: %w", name, err)
	}
	rss, err := strconv.Atoi(strings.TrimSpace(string(printed)))
	if err != nil {
		return process{}, fmt.Errorf("reading the memory of the plugin %s: %w", name, err)
	}
	return process{
		rss:     rss,
		threads: entries(fmt.Sprintf("/proc/%d/task", pid)),
		files:   entries(fmt.Sprintf("/proc/%d/fd", pid)),
	}, nil
}

// entries counts what is in a folder, which is not there on every system.
func entries(folder string) int {
	names, _ := os.ReadDir(folder)
	return len(names)
}
