package vaulttest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs until it is stopped. Its output goes to a file.
type Process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{} // closed once the program has ended
}

// StartProcess starts a program that ends with this process at the latest. Its output is appended to the file log, so
// that a server that is started again keeps its log.
func StartProcess(cmd *exec.Cmd, log string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	defer func() { _ = out.Close() }() // the program has its own
	cmd.Stdout, cmd.Stderr = out, out
	endWithParent(cmd)
	p := &Process{cmd: cmd, log: log, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Linux takes the end of the thread that started a program for the end of its parent: the thread is this
		// goroutine's as long as the program runs, and ends with it.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return p, nil
}

// Stop asks the program to end, and kills it if it takes too long.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.Kill()
	}
}

// Kill ends the program without a warning.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails if it has ended
	<-p.exited
}

// Running reports whether the program has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// PID is the program's process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the file that the program's output goes to.
func (p *Process) Log() string { return p.log }

// tailLines is how much of a log says why a program ended.
const tailLines = 30

// Tail returns the last lines of the program's log, without those of level TRACE.
func (p *Process) Tail() string {
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(string(content), "\n"), func(line string) bool {
		return line == "" || strings.Contains(line, "[TRACE]")
	})
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
