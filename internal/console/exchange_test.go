package console

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

func TestWhatAnExchangeSends(t *testing.T) {
	t.Parallel()
	const organization = "/api/msc/v1/organizations/" + consoletest.DefaultOrganizationID
	for _, prefix := range []string{"", "/behind/a/gateway"} {
		for _, test := range []struct {
			version, method, path string
			header                map[string]string // beyond what every exchange sends
			form                  url.Values
		}{
			{V3, http.MethodGet, organization + "/credentials/v3/token",
				map[string]string{"X-Api-Key-Id": consoletest.DefaultAPIKeyID, "X-Api-Key": consoletest.CanaryKey}, nil},
			{V2, http.MethodGet, organization + "/credentials/v2/token",
				map[string]string{"X-Api-Key": consoletest.CanaryKey}, nil},
			{V1, http.MethodPost, "/oauth/token",
				map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, url.Values{
					"grant_type":    {"password"},
					"audience":      {"https://snowplowanalytics.com/api/"},
					"username":      {consoletest.DefaultUsername},
					"password":      {consoletest.CanaryPassword},
					"client_id":     {consoletest.DefaultClientID},
					"client_secret": {consoletest.CanaryClientSecret},
				}},
		} {
			t.Run(prefix+" "+test.version, func(t *testing.T) {
				t.Parallel()
				console := consoletest.NewCanaryConsole()
				server := httptest.NewServer(http.StripPrefix(prefix, console))
				t.Cleanup(server.Close)

				client := newClient(t, "", nil)
				token, err := client.Exchange(t.Context(), exchangeAt(server.URL+prefix, test.version))
				require.NoError(t, err)
				client.Close()
				_, ours := console.Issued(token.Bearer.Reveal())
				assert.True(t, ours)

				request := console.LastRequest()
				assert.Equal(t, test.method, request.Method)
				assert.Equal(t, prefix+test.path, request.RequestURI, "no query, so that no proxy logs a key")
				want := http.Header{"User-Agent": {"agent/1"}, "Accept": {"application/json"}, "Cache-Control": {"no-store"}}
				for name, value := range test.header {
					want.Set(name, value)
				}
				request.Header.Del("Content-Length")
				assert.Equal(t, want, request.Header)
				assert.Equal(t, test.form.Encode(), request.PostForm.Encode())
			})
		}
	}
}

func TestAConnectionIsUsedAgain(t *testing.T) {
	t.Parallel()
	u := consoletest.OnTCP(t)
	client := newClient(t, "", nil)
	for range 5 {
		_, err := client.Exchange(t.Context(), exchangeAt(u.URL, V3))
		require.NoError(t, err)
	}
	assert.Equal(t, 5, u.Exchanges())
	assert.EqualValues(t, 1, u.Connections())
}

// A URL of which no request can be made is refused when it is written; this is the last line behind that.
func TestAURLThatIsNoneIsNotRepeated(t *testing.T) {
	t.Parallel()
	request := exchangeAt("http://127.0.0.1:1/\x7f", V3)
	_, err := newClient(t, "", nil).Exchange(t.Context(), request)
	var failed *Error
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, ReasonRejected, failed.Reason)
	assert.ErrorContains(t, err, "do not form a valid URL")
}

// A client that is closed in the middle of an exchange leaves nothing behind, whatever protocol the server offers.
// Eight times, as the end of the exchange and the end of the client race.
func TestCloseDuringAnExchange(t *testing.T) {
	t.Parallel()
	ca := consoletest.NewAuthority(t)
	for _, protocols := range [][]string{{"http/1.1"}, {"h2", "http/1.1"}} {
		t.Run(strings.Join(protocols, " and "), func(t *testing.T) {
			t.Parallel()
			u := consoletest.OnTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.Certify(t, nil)}, NextProtos: protocols})
			client := newClient(t, ca.PEM(), nil)
			u.FailNext(1, consoletest.Status(http.StatusServiceUnavailable, "", nil))
			request := exchangeAt(u.URL, V3)
			request.Retry = func() bool {
				client.Close() // before the try that opens the next connection
				return true
			}
			_, err := client.Exchange(t.Context(), request)
			require.NoError(t, err)
			for range 8 {
				client := newClient(t, ca.PEM(), nil)
				request.Retry = nil
				hold := u.Hold()
				ctx, cancel := context.WithCancel(t.Context())
				exchanged := make(chan error, 1)
				go func() {
					_, err := client.Exchange(ctx, request)
					exchanged <- err
				}()
				<-hold.Started()
				cancel()
				client.Close()
				err := <-exchanged
				require.ErrorIs(t, err, context.Canceled)
				assert.NotErrorAs(t, err, new(*Error), "what is given up is no failure")
				hold.Release()
			}
			u.RequireAllClosed(t)
		})
	}
}

func TestAgeIsThatOfTheClockThatHasRunFurther(t *testing.T) {
	t.Parallel()
	obtained := time.Now()
	// After a machine has slept, only the wall clock has gone on. No function makes such a time.
	slept := obtained.Add(time.Hour)
	(*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&slept)).ext -= int64(59 * time.Minute)
	require.Equal(t, time.Minute, slept.Sub(obtained), "the layout of time.Time has changed")
	token := Token{ObtainedAt: obtained, Validity: time.Hour}
	for name, test := range map[string]struct {
		now  time.Time
		want time.Duration
	}{
		"both clocks":                    {obtained.Add(time.Minute), time.Minute},
		"after a restart":                {obtained.Round(0).Add(time.Minute), time.Minute},
		"a wall clock that was set back": {obtained.Round(0).Add(-time.Minute), 0},
		"a machine that slept":           {slept, time.Hour},
	} {
		assert.Equal(t, test.want, token.Age(test.now), name)
		assert.Equal(t, time.Hour-test.want, token.Remaining(test.now), name)
	}
}
