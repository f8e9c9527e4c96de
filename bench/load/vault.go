package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = time.Minute
	stopTimeout  = 20 * time.Second
)

// vault is a Vault server with storage in memory and without TLS, and the client that has its root token.
type vault struct {
	command *exec.Cmd
	ended   chan error
	log     string // file
	work    string
	address string // host:port
	token   string
	http    *http.Client
}

func startVault(ctx context.Context, program, work string) (*vault, error) {
	// Nothing tells a port that stays free. Should another process take it, Vault ends and its log says so.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("finding a free port: %w", err)
	}
	address := listener.Addr().String()
	listener.Close()

	config := filepath.Join(work, "vault.hcl")
	if err := os.WriteFile(config, fmt.Appendf(nil, `storage "inmem" {}
listener "tcp" {
  address     = %q
  tls_disable = true
}
api_addr         = "http://%s"
plugin_directory = %q
log_level        = "warn"
disable_mlock    = true
`, address, address, filepath.Join(work, "plugins")), 0o600); err != nil {
		return nil, fmt.Errorf("writing Vault's configuration: %w", err)
	}
	log, err := os.Create(filepath.Join(work, "vault.log"))
	if err != nil {
		return nil, fmt.Errorf("making Vault's log: %w", err)
	}
	defer log.Close()
	// The context does not kill Vault: it has to end its plugins, too, which stop sees to.
	command := exec.Command(program, "server", "-config="+config)
	command.Stdout, command.Stderr = log, log
	command.Env = []string{"HOME=" + work, "PATH=" + os.Getenv("PATH")}
	// Ctrl-C in a terminal reaches this program alone, which then stops Vault.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting Vault: %w", err)
	}
	v := &vault{
		command: command, ended: make(chan error, 1), log: log.Name(), work: work, address: address,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: writers}},
	}
	go func() { v.ended <- command.Wait() }()
	if err := v.unseal(ctx); err != nil {
		return nil, errors.Join(err, v.stop())
	}
	return v, nil
}

// unseal initializes Vault as soon as it listens, and waits until it is ready.
func (v *vault) unseal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var keys struct {
		Keys      []string `json:"keys"`
		RootToken string   `json:"root_token"`
	}
	for {
		err := v.call(ctx, http.MethodPut, "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &keys)
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("initializing Vault: %w", err)
		case ended := <-v.ended:
			v.ended <- ended
			text, _ := os.ReadFile(v.log)
			return fmt.Errorf("vault ended at its start (%w): %s", ended, text)
		case <-time.After(100 * time.Millisecond):
		}
	}
	v.token = keys.RootToken
	if err := v.call(ctx, http.MethodPut, "sys/unseal", map[string]any{"key": keys.Keys[0]}, nil); err != nil {
		return fmt.Errorf("unsealing Vault: %w", err)
	}
	for {
		err := v.call(ctx, http.MethodGet, "sys/health", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for Vault: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stop ends Vault, which ends its plugins.
func (v *vault) stop() error {
	if err := v.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping Vault: %w", err)
	}
	select {
	case <-v.ended:
		return nil
	case <-time.After(stopTimeout):
	}
	if err := v.command.Process.Kill(); err != nil {
		return fmt.Errorf("killing Vault: %w", err)
	}
	<-v.ended
	return nil
}

// call makes one request of the API. A nil body sends none; a nil answer drops what comes back.
func (v *vault) call(ctx context.Context, method, path string, body, answer any) error {
	var encoded bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&encoded).Encode(body); err != nil {
			return fmt.Errorf("encoding a request of %s: %w", path, err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+v.address+"/v1/"+path, &encoded)
	if err != nil {
		return fmt.Errorf("making a request of %s: %w", path, err)
	}
	request.Header.Set("X-Vault-Token", v.token)
	response, err := v.http.Do(request)
	if err != nil {
		return fmt.Errorf("requesting %s: %w", path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", path, err)
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(text))
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("decoding the answer of %s: %w", path, err)
	}
	return nil
}

// mount registers the plugin program of that name and mounts it under the same one.
func (v *vault) mount(ctx context.Context, name string) error {
	program := filepath.Join(v.work, "plugins", name)
	content, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("reading the plugin: %w", err)
	}
	sum := sha256.Sum256(content)
	registration := map[string]any{"command": name, "sha256": hex.EncodeToString(sum[:])}
	// What the plugin reports as its version has to be what it is registered with.
	if name == engineMount {
		printed, err := exec.CommandContext(ctx, program, "--version").Output()
		if err != nil {
			return fmt.Errorf("asking the plugin for its version: %w", err)
		}
		words := strings.Fields(string(printed))
		if len(words) < 2 {
			return fmt.Errorf("the plugin says no version: %q", printed)
		}
		registration["version"] = words[1]
	}
	if err := v.call(ctx, http.MethodPut, "sys/plugins/catalog/secret/"+name, registration, nil); err != nil {
		return err
	}
	return v.call(ctx, http.MethodPost, "sys/mounts/"+name, map[string]any{"type": name}, nil)
}

// revoke ends all leases of a mount's token, and returns when they have ended.
func (v *vault) revoke(ctx context.Context, mount string) error {
	return v.call(ctx, http.MethodPut, "sys/leases/revoke-prefix/"+mount+"/token", map[string]any{"sync": true}, nil)
}
