package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a new pseudo-terminal.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there are no pseudo-terminals here:", err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = terminal.Close() })
	return keyboard, terminal
}

func TestCtrlCReachesTheCommandOnce(t *testing.T) {
	t.Parallel()
	keyboard, terminal := openTerminal(t)
	p := newProcess(t, new(vaultServer).start(t), "tool", "signals")
	p.Stdin, p.Stdout = terminal, terminal
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // standard input is its terminal
	require.NoError(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill() })
	screen := bufio.NewReader(keyboard)
	await := func(want string) (before string) {
		for {
			line, err := screen.ReadString('\n')
			require.NoError(t, err, "waiting for %q", want)
			if strings.Contains(line, want) {
				return before
			}
			before += line
		}
	}
	await("ready")
	// Stopped until the command has handled the interrupt: two at once would be one to it.
	require.NoError(t, p.Process.Signal(syscall.SIGSTOP))
	_, err := keyboard.WriteString("\x03")
	require.NoError(t, err)
	await("interrupt")
	require.NoError(t, p.Process.Signal(syscall.SIGCONT))
	// SIGTERM is not the terminal's: by the time it is through, a second interrupt would be, too.
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	require.NotContains(t, await("terminated"), "interrupt")
	_, err = keyboard.WriteString("typed\n")
	require.NoError(t, err)
	await("got typed") // the terminal is the command's
	_, err = keyboard.WriteString("\x04")
	require.NoError(t, err)
	require.NoError(t, p.Wait())
}

func TestTheCommandCannotReadWhatSnowplowExecKnows(t *testing.T) {
	t.Parallel()
	p := newProcess(t, new(vaultServer).start(t), "tool", "peek")
	if os.Getuid() == 0 {
		// Root may read everything, so the program has to be someone else's; he needs a way to it.
		const nobody = 65534
		dir := t.TempDir()
		require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
		self, err := os.Executable()
		require.NoError(t, err)
		content, err := os.ReadFile(self)
		require.NoError(t, err)
		for _, name := range []string{"snowplow-exec", "tool"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o755))
		}
		p.Path, p.Dir, p.Env = filepath.Join(dir, "snowplow-exec"), dir, append(p.Env, "HOME="+dir, "PATH="+dir)
		p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := p.Output()
	require.NoError(t, err, "standard error: %s", &p.stderr)
	require.Contains(t, string(out), "permission denied", "the environment that snowplow-exec was started with, VAULT_TOKEN included")
}
