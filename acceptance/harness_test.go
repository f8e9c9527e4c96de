package acceptance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

const (
	modulePath    = "github.com/snowplow-vault/vault-plugin-secrets-snowplow"
	pluginName    = "vault-plugin-secrets-snowplow"
	pluginVersion = "v0.1.0-acceptance" // of the plugin that most tests run

	patience  = 30 * time.Second      // with what should happen at once, on a machine that is busy
	pollEvery = 50 * time.Millisecond // the only pause in these tests
)

// poll asks until the answer is nil, and returns the last answer if that takes longer than limit.
func poll(limit time.Duration, ask func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(pollEvery)
	}
}

// eventually fails the test if ask still returns an error after limit.
func eventually(t testing.TB, limit time.Duration, what string, ask func() error) {
	t.Helper()
	if err := poll(limit, ask); err != nil {
		require.FailNow(t, fmt.Sprintf("%s: not within %s", what, limit), err.Error())
	}
}

var builds sync.Map // the name and version of a program to a func that builds it once

// build builds a program of this module as "make build" does, once for each version, and returns its path.
func build(name, version string) (string, error) {
	once, _ := builds.LoadOrStore(name+version, sync.OnceValues(func() (string, error) {
		target := filepath.Join(runDir, "build", version, name)
		cmd := exec.Command("go", "build", "-race=false", "-trimpath",
			"-ldflags", "-s -w -X "+modulePath+".Version="+version, "-o", target, modulePath+"/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		return target, nil
	}))
	return once.(func() (string, error))()
}

func buildExec() (string, error) { return build("snowplow-exec", pluginVersion) }

// pluginOf is the plugin of a version, to be registered with it, in a file of its own.
func pluginOf(t testing.TB, version string) vaulttest.Plugin {
	t.Helper()
	program, err := build(pluginName, version)
	require.NoError(t, err)
	return vaulttest.Plugin{Name: pluginName, Program: program, Command: pluginName + "_" + version, Version: version}
}

// server is one server, or one node of a cluster.
type server struct{ *vaulttest.Server }

// serverOptions are those that every server has here.
func serverOptions() vaulttest.Options {
	return vaulttest.Options{Program: program, Dir: runDir, Audit: true, LogLevel: "trace"}
}

// startServer starts a server for one test, with the plugin in its catalog.
func startServer(t testing.TB, edits ...func(*vaulttest.Options)) server {
	t.Helper()
	s := startServerWithoutPlugin(t, edits...)
	require.NoError(t, s.RegisterPlugin(t.Context(), pluginOf(t, pluginVersion)))
	return s
}

// onRaft gives a server storage that survives a restart.
func onRaft(options *vaulttest.Options) { options.Raft = true }

func startServerWithoutPlugin(t testing.TB, edits ...func(*vaulttest.Options)) server {
	t.Helper()
	options := serverOptions()
	for _, edit := range edits {
		edit(&options)
	}
	s, err := vaulttest.Start(t.Context(), options)
	require.NoError(t, err, "starting a server")
	closeAfter(t, s)
	return server{s}
}

// closeAfter closes a server when the test ends. Of one whose test failed, the files are kept.
func closeAfter(t testing.TB, s *vaulttest.Server) {
	t.Cleanup(func() {
		if t.Failed() {
			s.Stop()
			_ = s.Kill() // a plugin that runs on
			return
		}
		assert.NoError(t, s.Close(), "closing a server")
	})
	showLogIfFailed(t, s.Process)
}

// showLogIfFailed prints the end of a log into the report of a test that fails.
func showLogIfFailed(t testing.TB, p *vaulttest.Process) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of %s:\n%s", p.Log(), p.Tail())
		}
	})
}

var sharedServer struct {
	once sync.Once
	*vaulttest.Server
	err error
}

// shared is the server of all tests that need none of their own. Each has its own mount on it.
func shared(t testing.TB) server {
	t.Helper()
	plugin := pluginOf(t, pluginVersion)
	sharedServer.once.Do(func() {
		// Not with the context of the test that happens to come first.
		ctx := context.WithoutCancel(t.Context())
		if sharedServer.Server, sharedServer.err = vaulttest.Start(ctx, serverOptions()); sharedServer.err == nil {
			sharedServer.err = sharedServer.RegisterPlugin(ctx, plugin)
		}
	})
	require.NoError(t, sharedServer.err, "starting the shared server")
	return server{sharedServer.Server}
}

// closeShared closes the shared server, if a test has asked for it.
func closeShared(keepFiles bool) error {
	switch {
	case sharedServer.Server == nil:
		return nil
	case keepFiles:
		sharedServer.Stop()
		return nil
	default:
		return sharedServer.Close()
	}
}

// run runs the program with the root token, for commands that must succeed.
func (s server) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.CLI(s.Client.Token(), args...)
	require.NoError(t, err)
	return out
}

// createToken makes a token whose policy has these rules.
func (s server) createToken(t testing.TB, rules string) string {
	t.Helper()
	token, err := s.CreateToken(t.Context(), unique("policy"), rules)
	require.NoError(t, err)
	return token
}
