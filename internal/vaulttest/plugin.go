package vaulttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Plugin is a secrets engine's program, and how it is registered.
type Plugin struct {
	Name    string // in the catalog
	Program string // the file
	Command string // the file's name in the plugin folder; empty: Name
	Version string // empty: registered without a version
}

func (p Plugin) command() string {
	if p.Command == "" {
		return p.Name
	}
	return p.Command
}

// AddPlugin puts a plugin's program into the server's plugin folder, in place of one that has its name there.
func (s *Server) AddPlugin(p Plugin) error {
	target := filepath.Join(s.PluginDir(), p.command())
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("replacing the plugin: %w", err)
	}
	if os.Link(p.Program, target) == nil {
		return nil
	}
	// The two are on different file systems. A symbolic link would not do: the server follows none out of the folder.
	source, err := os.Open(p.Program)
	if err != nil {
		return fmt.Errorf("adding the plugin: %w", err)
	}
	defer func() { _ = source.Close() }()
	file, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return fmt.Errorf("adding the plugin: %w", err)
	}
	if _, err := io.Copy(file, source); err != nil {
		return errors.Join(fmt.Errorf("adding the plugin: %w", err), file.Close())
	}
	return file.Close()
}

// RegisterPlugin adds a plugin's program to the server's plugin folder and registers it in the catalog.
func (s *Server) RegisterPlugin(ctx context.Context, p Plugin) error {
	if err := s.AddPlugin(p); err != nil {
		return err
	}
	content, err := os.ReadFile(p.Program)
	if err != nil {
		return fmt.Errorf("reading the plugin for its checksum: %w", err)
	}
	sum := sha256.Sum256(content)
	if err := s.Client.Sys().RegisterPluginWithContext(ctx, &api.RegisterPluginInput{
		Name:    p.Name,
		Type:    api.PluginTypeSecrets,
		Command: p.command(),
		SHA256:  hex.EncodeToString(sum[:]),
		Version: p.Version,
	}); err != nil {
		return fmt.Errorf("registering the plugin %s: %w", p.Name, err)
	}
	return nil
}

// PluginPIDs lists the processes that run a program of the server's plugin folder now: the one that was added as
// command, or any of them if command is empty.
func (s *Server) PluginPIDs(command string) ([]int, error) {
	running, err := commandLines()
	if err != nil {
		return nil, err
	}
	var pids []int
	for pid, args := range running {
		file, found := strings.CutPrefix(args, s.PluginDir()+"/")
		if found && (command == "" || file == command) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killPlugins ends what a server that was killed has left running.
func (s *Server) killPlugins() error {
	pids, err := s.PluginPIDs("")
	for _, pid := range pids {
		process, findErr := os.FindProcess(pid)
		if findErr == nil {
			findErr = process.Kill()
		}
		if findErr != nil && !errors.Is(findErr, os.ErrProcessDone) {
			err = errors.Join(err, fmt.Errorf("killing the plugin's process %d: %w", pid, findErr))
		}
	}
	return err
}
