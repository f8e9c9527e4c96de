package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
)

// findCommand finds the command's file as a shell does.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("cannot run %s: %w", name, reasonOf(err))
	}
	return path, nil
}

// reasonOf is an error of os/exec without the name that it repeats.
func reasonOf(err error) error {
	var lookup *exec.Error
	if errors.As(err, &lookup) {
		err = lookup.Err
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err
}

// exitCodeOf is the exit code for a command that could not be run.
func exitCodeOf(err error) int {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return exitNotFound
	}
	return exitNotExecutable
}

// runCommand runs a command on this process's own standard input, output and error, passes signals on to it, and returns
// its exit code.
func runCommand(path string, args, environment []string) (int, error) {
	cmd := &exec.Cmd{
		Path:   path,
		Args:   args, // with the name that it was called by
		Env:    environment,
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	}
	// One that was ignored from the start stays ignored, here and by the command: nohup asks for that.
	var caught []os.Signal
	for _, s := range passedOn {
		if !signal.Ignored(s) {
			caught = append(caught, s)
		}
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, caught...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		err = fmt.Errorf("cannot run %s: %w", args[0], reasonOf(err))
		return exitCodeOf(err), err
	}

	ended := make(chan struct{})
	var passing sync.WaitGroup
	passing.Go(func() {
		for {
			select {
			case s := <-signals:
				if !sentToCommandToo(s) {
					_ = cmd.Process.Signal(s) // fails if the command has ended
				}
			case <-ended:
				return
			}
		}
	})
	err := cmd.Wait()
	close(ended)
	passing.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return exitFailure, fmt.Errorf("cannot determine how %s ended: %w", args[0], err)
	}
	return exitCode(cmd.ProcessState), nil
}

// commandEnvironment is the caller's environment without what belongs to its Vault login, and with the variables that
// lead to the console. Everything of Vault's goes: besides VAULT_TOKEN, addresses can contain passwords, and CI jobs
// keep login tokens under such names. So does the variable that lets a job of GitHub Actions request login tokens.
func commandEnvironment(caller, console []string) []string {
	set := make(map[string]bool)
	for _, variable := range console {
		name, _, _ := strings.Cut(variable, "=")
		set[name] = true
	}
	var environment, exceptions []string
	proxied := false
	for _, variable := range caller {
		name, value, _ := strings.Cut(variable, "=")
		upper := strings.ToUpper(name) // Windows takes either
		switch {
		case set[upper], strings.HasPrefix(upper, "VAULT_"), strings.HasPrefix(upper, "BAO_"),
			upper == "ACTIONS_ID_TOKEN_REQUEST_TOKEN":
			continue
		case upper == "NO_PROXY":
			if value != "" && !slices.Contains(exceptions, value) {
				exceptions = append(exceptions, value)
			}
			continue
		case upper == "HTTP_PROXY" || upper == "ALL_PROXY":
			proxied = proxied || value != ""
		}
		environment = append(environment, variable)
	}
	if proxied || len(exceptions) > 0 {
		environment = append(environment, noProxy(exceptions)...)
	}
	return append(environment, console...)
}

// loopbackHosts are never proxied: a proxy would see the key pair, and has no way to this port.
const loopbackHosts = "localhost,127.0.0.1,::1"

// noProxy returns the caller's exceptions and ours in both spellings: programs differ in which they read.
func noProxy(exceptions []string) []string {
	all := strings.Join(append(exceptions, loopbackHosts), ",")
	if slices.Contains(exceptions, "*") {
		all = "*" // which counts by itself only
	}
	return []string{"NO_PROXY=" + all, "no_proxy=" + all}
}
