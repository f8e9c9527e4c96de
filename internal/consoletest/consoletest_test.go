package consoletest_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

const (
	v3Path = "/api/msc/v1/organizations/" + consoletest.DefaultOrganizationID + "/credentials/v3/token"
	v2Path = "/api/msc/v1/organizations/" + consoletest.DefaultOrganizationID + "/credentials/v2/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// In a test, NewServer(t) takes the place of the first two lines.
func Example() {
	console := consoletest.New()
	server := httptest.NewServer(console)
	defer server.Close()

	path := "/api/msc/v1/organizations/" + consoletest.DefaultOrganizationID + "/credentials/v3/token"
	req, _ := http.NewRequest(http.MethodGet, server.URL+path, nil)
	req.Header.Set("X-API-Key-ID", consoletest.DefaultAPIKeyID)
	req.Header.Set("X-API-Key", consoletest.DefaultAPIKey)
	resp, err := server.Client().Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()

	var answer struct{ AccessToken string }
	_ = json.NewDecoder(resp.Body).Decode(&answer)
	keyID, ok := console.Issued(answer.AccessToken)
	fmt.Println(resp.StatusCode, keyID, ok, console.Exchanges())
	// Output: 200 consoletest-key-id true 1
}

// What Snowplow refuses, the fake refuses as well: else a product test would pass that sends the wrong thing.
func TestExchangesThatAreRefused(t *testing.T) {
	t.Parallel()
	id, secret := consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey
	for name, test := range map[string]struct {
		request *http.Request
		want    int
	}{
		"v3":                              {request(v3Path, id, secret), 200},
		"v3, wrong secret":                {request(v3Path, id, "wrong"), 401},
		"v3, no ID":                       {request(v3Path, "", secret), 401},
		"v3, unknown organization":        {request(strings.Replace(v3Path, "/1", "/2", 1), id, secret), 404},
		"v3, key of another organization": {request(v3Path, "other", "other-secret"), 401},
		"v2":                              {request(v2Path, "", secret), 200},
		"v2, wrong secret":                {request(v2Path, "", "wrong"), 401},
		"v1":                              {botRequest("", ""), 200},
		"v1, wrong username":              {botRequest("username", "wrong"), 401},
		"v1, wrong password":              {botRequest("password", "wrong"), 401},
		"v1, wrong client":                {botRequest("client_secret", "wrong"), 401},
		"v1, another grant":               {botRequest("grant_type", "client_credentials"), 400},
		"v1, another audience":            {botRequest("audience", "https://example.com/"), 400},
	} {
		console := consoletest.New()
		console.AddKey(consoletest.Key{OrganizationID: "other-organization", ID: "other", Secret: "other-secret"})
		code, _ := do(console, test.request)
		assert.Equal(t, test.want, code, name)
		assert.Equal(t, 1, console.Exchanges(), name)
	}
}

func TestJWT(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 999)
	console := consoletest.New()
	console.SetNow(func() time.Time { return now })
	claims := func(jwt string) (claims map[string]any) {
		parts := strings.Split(jwt, ".")
		require.Len(t, parts, 3)
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(payload, &claims))
		return claims
	}

	first, second := exchange(t, console), exchange(t, console)
	assert.NotEqual(t, first, second)
	got := claims(first)
	assert.NotEmpty(t, got["jti"])
	delete(got, "jti")
	assert.Equal(t, map[string]any{
		"iss": "consoletest", "sub": consoletest.DefaultAPIKeyID, "org": consoletest.DefaultOrganizationID,
		"iat": 1_000_000.0, "exp": 1_086_400.0,
	}, got)

	console.SetValidity(time.Minute)
	assert.EqualValues(t, 1_000_060, claims(exchange(t, console))["exp"])

	console.SetClaims(func(claims map[string]any) { claims["exp"] = "soon" })
	assert.Equal(t, "soon", claims(exchange(t, console))["exp"])
	console.SetClaims(nil)
	assert.EqualValues(t, 1_000_060, claims(exchange(t, console))["exp"])

	assert.Equal(t, map[string]any{"a": "b"}, claims(console.Mint(map[string]any{"a": "b"})))
	assert.Panics(t, func() { console.Mint(map[string]any{"a": make(chan int)}) })

	_, ok := consoletest.New().Issued(first)
	assert.False(t, ok, "another Console signs with another key")
	_, ok = console.Issued("not a JWT")
	assert.False(t, ok)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	console := consoletest.New()
	status := func() int {
		code, _ := do(console, request(v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
		return code
	}

	console.FailAlways(consoletest.Status(500, "", nil))
	console.FailNext(2, consoletest.Status(429, "", nil))
	console.FailNext(1, consoletest.Status(503, "", nil))
	assert.Equal(t, []int{429, 429, 503, 500, 500}, []int{status(), status(), status(), status(), status()})

	console.FailNext(1, consoletest.Status(502, "", nil))
	console.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusTeapot)
		return true
	})
	assert.Equal(t, http.StatusTeapot, status())
	console.Intercept(func(http.ResponseWriter, *http.Request) bool { return false })
	assert.Equal(t, 502, status(), "not used up by what was intercepted")

	console.FailNext(1, consoletest.Status(502, "", nil))
	console.ClearFaults()
	assert.Equal(t, 200, status())
	assert.Equal(t, 8, console.ExchangesOf(consoletest.DefaultAPIKeyID))

	// Without an echo, the tests that look for secrets in what is said would find none.
	console.FailAlways(consoletest.Echo(400))
	for secret, req := range map[string]*http.Request{
		consoletest.DefaultAPIKey:       request(v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey),
		consoletest.DefaultClientSecret: botRequest("", ""),
	} {
		rec := httptest.NewRecorder()
		console.ServeHTTP(rec, req)
		assert.Contains(t, rec.Body.String(), secret)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		console := consoletest.New()
		first, second := console.Hold(), console.Hold()
		answers := make(chan int, 2)
		ask := func() {
			code, _ := do(console, request(v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
			answers <- code
		}
		go ask()
		<-first.Started()
		synctest.Wait()
		select {
		case <-second.Started():
			t.Fatal("one exchange must take one hold")
		default:
		}
		go ask()
		<-second.Started()
		exchange(t, console) // a third one passes
		assert.Equal(t, 3, console.Exchanges(), "held exchanges count")

		synctest.Wait()
		assert.Empty(t, answers)
		console.ClearFaults()
		console.FailAlways(consoletest.Status(500, "", nil))
		second.Release()
		second.Release()
		assert.Equal(t, 500, <-answers, "decided after the release")
		console.ClearFaults()
		first.Release()
		assert.Equal(t, 200, <-answers)

		console.Hold()
		console.SetDelay(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		do(console, request(v3Path, "", "").WithContext(ctx))
		assert.Equal(t, time.Minute, time.Since(began), "ends with the request")
		exchange(t, console)
		assert.Equal(t, time.Minute+time.Second, time.Since(began), "the delay alone")
	})
}

func TestTraceOfCanaryFindsEveryEncoding(t *testing.T) {
	t.Parallel()
	for before := range 4 {
		plain := strings.Repeat("x", before) + consoletest.CanaryKey
		texts := []string{plain, hex.EncodeToString([]byte(plain))}
		for name, encode := range consoletest.Echoes {
			if !strings.HasPrefix(name, "with ") { // these break the word
				texts = append(texts, encode(plain))
			}
		}
		for _, text := range texts {
			assert.NotEmpty(t, consoletest.TraceOfCanary("seen: "+text), "%q", text)
		}
	}
	assert.Empty(t, consoletest.TraceOfCanary("a canter in the library, Y2FuYXI="))
}

func request(path, id, secret string) *http.Request {
	req := httptest.NewRequest(http.MethodGet, path, nil)
	req.Header.Set("X-API-Key-ID", id)
	req.Header.Set("X-API-Key", secret)
	return req
}

// botRequest is the exchange of the default bot user with another value in one field.
func botRequest(field, value string) *http.Request {
	form := url.Values{
		"grant_type": {"password"}, "audience": {"https://snowplowanalytics.com/api/"},
		"username": {consoletest.DefaultUsername}, "password": {consoletest.DefaultPassword},
		"client_id": {consoletest.DefaultClientID}, "client_secret": {consoletest.DefaultClientSecret},
	}
	form.Set(field, value)
	req := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

// do serves req without a connection. An answer that is not JSON has no body.
func do(console http.Handler, req *http.Request) (code int, body map[string]any) {
	rec := httptest.NewRecorder()
	console.ServeHTTP(rec, req)
	_ = json.Unmarshal(rec.Body.Bytes(), &body)
	return rec.Code, body
}

// exchange makes a v3 exchange of the default key and returns its JWT.
func exchange(t *testing.T, console http.Handler) string {
	t.Helper()
	code, body := do(console, request(v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
	require.Equal(t, http.StatusOK, code)
	jwt, _ := body["accessToken"].(string)
	return jwt
}
