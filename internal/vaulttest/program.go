package vaulttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Product is the server that a program is.
type Product string

// The products that a Program can be.
const (
	Vault   Product = "Vault"
	OpenBao Product = "OpenBao"
)

// Program is a vault program, or OpenBao's bao.
type Program struct {
	Path    string
	Product Product
	Version string // for example 1.21.2
}

// String names the product and its version.
func (p Program) String() string { return string(p.Product) + " " + p.Version }

var printedVersion = regexp.MustCompile(`^(Vault|OpenBao) v([0-9][^\s,]*)`)

// Find runs a program's "version" command to find out what it is.
func Find(ctx context.Context, path string) (Program, error) {
	if !filepath.IsAbs(path) {
		return Program{}, fmt.Errorf("%q must be the absolute path of a vault or bao program", path)
	}
	cmd := exec.CommandContext(ctx, path, "version")
	cmd.Env = environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return Program{}, fmt.Errorf("running %s version: %w\n%s", path, err, out)
	}
	match := printedVersion.FindStringSubmatch(string(out))
	if match == nil {
		return Program{}, fmt.Errorf("%s is neither Vault nor OpenBao: its version is %q", path, out)
	}
	return Program{Path: path, Product: Product(match[1]), Version: match[2]}, nil
}

// command prepares the program to run with a home folder of its own, so that the user's token file stays out of it.
func (p Program) command(home string, args ...string) *exec.Cmd {
	cmd := exec.Command(p.Path, args...)
	cmd.Env = append(environment(), "HOME="+home)
	return cmd
}

// setting is an environment variable by the name that the program documents, for example VAULT_ADDR or BAO_ADDR.
func (p Program) setting(name, value string) string {
	prefix := "VAULT_"
	if p.Product == OpenBao {
		prefix = "BAO_"
	}
	return prefix + name + "=" + value
}

// environment is that of this process, without what points to the user's own server.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), aboutServer)
}

func aboutServer(variable string) bool {
	return strings.HasPrefix(variable, "VAULT_") || strings.HasPrefix(variable, "BAO_")
}

// ForgetEnvironment unsets every variable of this process that points to the user's own server. Programs that are
// started here never see them; an api.Client reads them when it is made.
func ForgetEnvironment() error {
	for _, variable := range os.Environ() {
		if aboutServer(variable) {
			name, _, _ := strings.Cut(variable, "=")
			if err := os.Unsetenv(name); err != nil {
				return fmt.Errorf("unsetting %s: %w", name, err)
			}
		}
	}
	return nil
}
