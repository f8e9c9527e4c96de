package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunServesWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	reader, stdout := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-organization", "mine", "-api-key-id", "a", "-api-key", "secret-a", "-validity", "1h", "-delay", "1ms"}, stdout, io.Discard)
		_ = stdout.Close()
	}()
	lines := bufio.NewReader(reader)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^listening on http://127\.0\.0\.1:\d+\n$`, line)
	address := strings.TrimPrefix(strings.TrimSpace(line), "listening on ")
	for _, test := range []struct{ path, answer string }{
		{"/api/msc/v1/organizations/mine/credentials/v3/token", `"accessToken"`},
		{"/api/msc/v1/organizations/other/credentials/v3/token", `"no such organization"`},
		{"/fakeconsole/exchanges", `{"exchanges": 2}`},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+test.path, nil)
		require.NoError(t, err)
		req.Header = http.Header{"X-Api-Key-Id": {"a"}, "X-Api-Key": {"secret-a"}}
		req.Close = true // a kept connection would outlive the test
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		assert.Contains(t, string(body), test.answer)
	}
	cancel()
	rest, err := io.ReadAll(lines)
	require.NoError(t, err)
	assert.Empty(t, rest, "one line on standard output")
	require.NoError(t, <-ended)
	assert.ErrorContains(t, run(t.Context(), []string{"-api-key-id", "a"}, io.Discard, io.Discard), "each -api-key-id needs its -api-key")
}
