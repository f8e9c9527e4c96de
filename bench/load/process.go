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
	pid     int
	rss     int // KiB
	threads int // Linux only, else 0
	files   int // Linux only, else 0
}

// plugin looks at the process that Vault runs the plugin of that name in.
func (v *vault) plugin(name string) (process, error) {
	listed, err := exec.Command("ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "rss=", "-o", "args=").Output()
	if err != nil {
		return process{}, fmt.Errorf("listing the processes: %w", err)
	}
	var found []process
	for line := range strings.Lines(string(listed)) {
		words := strings.Fields(line)
		if len(words) < 4 || words[1] != strconv.Itoa(v.command.Process.Pid) || !strings.HasSuffix(words[len(words)-1], "/plugins/"+name) {
			continue
		}
		pid, _ := strconv.Atoi(words[0])
		rss, _ := strconv.Atoi(words[2])
		found = append(found, process{
			pid: pid, rss: rss,
			threads: entries(fmt.Sprintf("/proc/%d/task", pid)),
			files:   entries(fmt.Sprintf("/proc/%d/fd", pid)),
		})
	}
	if len(found) != 1 || found[0].rss == 0 {
		return process{}, fmt.Errorf("looking for one process of the plugin %s: found %+v", name, found)
	}
	return found[0], nil
}

// entries counts what is in a folder, which is not there on every system.
func entries(folder string) int {
	names, _ := os.ReadDir(folder)
	return len(names)
}
