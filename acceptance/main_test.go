// Package acceptance tests the engine on a real Vault server that runs the real plugin binary.
package acceptance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

var (
	program vaulttest.Program // what the tests run on
	next    vaulttest.Program // what TestRestarts upgrades to, if VAULT_BIN_NEXT names a program
	runDir  string            // everything that this run builds and writes
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("VAULT_ACC") == "" {
		fmt.Println("acceptance: nothing was run, for lack of a server. 'make test' runs every test; this runs one:\n" +
			"\tVAULT_ACC=1 VAULT_BIN=$(scripts/vault.sh) go test -run TestEveryPath ./acceptance/")
		// A pattern that matches no test, so that Go itself says that none was run.
		if err := flag.Set("test.run", "^$"); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "acceptance: cannot run:", err)
		os.Exit(1)
	}

	// Tests wait for programs and clocks more than they compute, so that more of them than processors can run at once.
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) { // the default
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err)
		}
	}
	fmt.Println("acceptance: on", program)
	code := m.Run()
	if err := closeShared(code != 0); err != nil {
		fmt.Fprintln(os.Stderr, "acceptance: closing the shared server:", err)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "acceptance: tests have left something running:", err)
		code = 1
	}
	if code != 0 {
		fmt.Fprintln(os.Stderr, "acceptance: logs, audit logs and storage are kept in", runDir)
		os.Exit(code)
	}
	if err := os.RemoveAll(runDir); err != nil {
		fmt.Fprintln(os.Stderr, "acceptance: removing the files of this run:", err)
		os.Exit(1)
	}
}

// prepare finds out what to run on, and makes the folder of this run.
func prepare() error {
	path, nextPath := os.Getenv("VAULT_BIN"), os.Getenv("VAULT_BIN_NEXT")
	if path == "" {
		return errors.New("VAULT_BIN is not set: set it to the absolute path of a vault or bao program, or use 'make test', which finds or builds one")
	}
	// Neither the test's clients nor the programs that it starts may see the user's own server.
	if err := vaulttest.ForgetEnvironment(); err != nil {
		return err
	}
	found, err := vaulttest.Find(context.Background(), path)
	if err != nil {
		return fmt.Errorf("VAULT_BIN: %w", err)
	}
	program = found
	if nextPath != "" {
		if next, err = vaulttest.Find(context.Background(), nextPath); err != nil {
			return fmt.Errorf("VAULT_BIN_NEXT: %w", err)
		}
	}

	// Go repeats the last result of a test whose inputs have not changed. It takes a folder that the test looks into
	// for one; that the plugin is built from these, it cannot know.
	for _, folder := range []string{"..", "../cmd/" + pluginName, "../cmd/snowplow-exec"} {
		if _, err := os.ReadDir(folder); err != nil {
			return err
		}
	}

	dir, err := os.MkdirTemp("", "snowplow-acceptance-")
	if err != nil {
		return err
	}
	// Vault refuses a plugin folder that is a symbolic link, and temporary folders can be.
	runDir, err = filepath.EvalSymlinks(dir)
	return err
}
