// Package scripts tests the scripts beside it.
package scripts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionOfABuildMustBeSemantic(t *testing.T) {
	t.Parallel()
	dependOn(t, "version.sh")
	for version, valid := range map[string]bool{
		"v1.2.3":             true,
		"v0.0.0-dev":         true,
		"v10.20.30-rc.1":     true,
		"v1.2.3-0a.b-c":      true,
		"v1.2.3+001":         true,
		"v1.2.3-rc.1+g012.3": true,

		"":               false,
		"1.2.3":          false,
		"v1.2":           false,
		"v1.2.3.4":       false,
		"v01.2.3":        false,
		"v1.2.3-":        false,
		"v1.2.3-01":      false,
		"v1.2.3-a..b":    false,
		"v1.2.3+":        false,
		"v1.2.3+a+b":     false,
		"v1.2.3-ü":       false,
		"v1.2.3/../v":    false,
		"v1.2.3 -o x":    false,
		"v1.2.3;id":      false,
		"v1.2.3\nv1.2.3": false,
	} {
		stdout, stderr, err := run(t, exec.Command("bash", "version.sh", version))
		if valid {
			require.NoError(t, err, "%q: %s", version, stderr)
			require.Equal(t, version+"\n", stdout)
			continue
		}
		require.Error(t, err, "%q", version)
		require.Empty(t, stdout, "%q", version)
		require.Equal(t, 1, strings.Count(stderr, "\n"), "lines about %q: %s", version, stderr)
		require.Contains(t, stderr, "is not a semantic version", "%q", version)
	}
}

// Go builds for minutes where it has not built before, so nothing may be built before the version is checked.
func TestAWrongVersionIsRefusedBeforeAnythingIsBuilt(t *testing.T) {
	t.Parallel()
	dependOn(t, "../Makefile", "version.sh", "build.sh", "release.sh", "image.sh")
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	noGo := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(noGo, "go"), []byte("#!/bin/sh\necho go was started >&2\n"), 0o755))
	for _, command := range [][]string{
		{"make", "--no-print-directory", "build", "VERSION=v1.2"},
		{"make", "--no-print-directory", "release", "VERSION=v1.2"},
		{"make", "--no-print-directory", "image", "VERSION=v1.2"},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "PATH="+noGo+string(filepath.ListSeparator)+os.Getenv("PATH"))
		_, stderr, err := run(t, cmd)
		require.Error(t, err, "%s", command)
		require.Contains(t, stderr, "VERSION=v1.2 is not a semantic version", "%s", command)
		require.NotContains(t, stderr, "go was started", "%s", command)
	}
}

// dependOn opens files that only other programs read. Go repeats the last result of a test whose inputs have not
// changed, and knows only those that the test itself opens.
func dependOn(t *testing.T, files ...string) {
	t.Helper()
	for _, file := range files {
		_, err := os.ReadFile(file)
		require.NoError(t, err)
	}
}

func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}
