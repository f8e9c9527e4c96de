package consoletest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
)

const (
	organizationsPath = "/api/msc/v1/organizations"
	v3Path            = organizationsPath + "/" + consoletest.DefaultOrganizationID + "/credentials/v3/token"
	v2Path            = organizationsPath + "/" + consoletest.DefaultOrganizationID + "/credentials/v2/token"
	v1Path            = "/oauth/token"
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

func TestExchangeOfAPIKey(t *testing.T) {
	t.Parallel()
	id, secret := consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey
	unknown := strings.Replace(v3Path, consoletest.DefaultOrganizationID, "unknown", 1)
	for name, tt := range map[string]struct {
		method, path, id, secret string
		want                     int
	}{
		"v3":                                 {"GET", v3Path, id, secret, 200},
		"v3, wrong secret":                   {"GET", v3Path, id, "wrong", 401},
		"v3, wrong ID":                       {"GET", v3Path, "wrong", secret, 401},
		"v3, no ID":                          {"GET", v3Path, "", secret, 401},
		"v3, nothing":                        {"GET", v3Path, "", "", 401},
		"v3, unknown organization":           {"GET", unknown, id, secret, 404},
		"v3, key of another organization":    {"GET", v3Path, "other", "other-secret", 401},
		"v3, POST":                           {"POST", v3Path, id, secret, 405},
		"v2":                                 {"GET", v2Path, "", secret, 200},
		"v2, wrong secret":                   {"GET", v2Path, "", "wrong", 401},
		"v2, nothing":                        {"GET", v2Path, "", "", 401},
		"v2, secret of another organization": {"GET", v2Path, "", "other-secret", 401},
		"v2, POST":                           {"POST", v2Path, "", secret, 405},
		"another path":                       {"GET", "/api", id, secret, 404},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			console := consoletest.New()
			console.AddKey(consoletest.Key{OrganizationID: "other-organization", ID: "other", Secret: "other-secret"})
			code, body := do(console, request(tt.method, tt.path, tt.id, tt.secret))
			require.Equal(t, tt.want, code)
			if tt.want != http.StatusOK {
				assert.NotEmpty(t, body["message"])
				assert.NotContains(t, body, "accessToken")
				return
			}
			keyID, ok := console.Issued(body["accessToken"].(string))
			assert.True(t, ok)
			assert.Equal(t, id, keyID)
			assert.Equal(t, 1, console.ExchangesOf(id))
		})
	}
}

func TestExchangeOfBotUser(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		field, value string
		want         int
	}{
		"right":          {"", "", 200},
		"username":       {"username", "wrong", 401},
		"password":       {"password", "wrong", 401},
		"client ID":      {"client_id", "wrong", 401},
		"client secret":  {"client_secret", "wrong", 401},
		"grant type":     {"grant_type", "client_credentials", 400},
		"audience":       {"audience", "https://example.com/", 400},
		"method":         {"method", "PUT", 405},
		"content type":   {"content type", "application/json", 400},
		"malformed form": {"body", "%", 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			console := consoletest.New()
			console.SetValidity(time.Hour)
			req := botRequest(func(form url.Values) { form.Set(tt.field, tt.value) })
			switch tt.field {
			case "method":
				req.Method = tt.value
			case "body":
				req.Body = io.NopCloser(strings.NewReader(tt.value))
			case "content type":
				req.Header.Set("Content-Type", tt.value)
			}
			code, body := do(console, req)
			require.Equal(t, tt.want, code)
			assert.Equal(t, 1, console.Exchanges())
			if tt.want != http.StatusOK {
				assert.NotEmpty(t, body["message"])
				return
			}
			assert.Equal(t, "Bearer", body["token_type"])
			assert.EqualValues(t, 3600, body["expires_in"])
			user, ok := console.Issued(body["access_token"].(string))
			assert.True(t, ok)
			assert.Equal(t, consoletest.DefaultUsername, user)
			assert.Equal(t, 1, console.ExchangesOf(consoletest.DefaultUsername))
		})
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	console := consoletest.New(
		consoletest.WithOrganization("mine"),
		consoletest.WithKeys(consoletest.Key{ID: "a", Secret: "secret-a"}),
	)
	code, _ := do(console, request("GET", organizationsPath+"/mine/credentials/v3/token", "a", "secret-a"))
	assert.Equal(t, 200, code)
	code, _ = do(console, request("GET", organizationsPath+"/mine/credentials/v3/token", consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
	assert.Equal(t, 401, code)
	code, _ = do(console, request("GET", v3Path, "a", "secret-a"))
	assert.Equal(t, 404, code)
}

func TestAddAndRemove(t *testing.T) {
	t.Parallel()
	console := consoletest.New()
	console.AddKey(consoletest.Key{ID: "a", Secret: "old"})
	console.AddKey(consoletest.Key{ID: "a", Secret: "new"})
	code, _ := do(console, request("GET", v3Path, "a", "old"))
	assert.Equal(t, 401, code)
	code, _ = do(console, request("GET", v3Path, "a", "new"))
	assert.Equal(t, 200, code)
	console.RemoveKey("a")
	code, _ = do(console, request("GET", v3Path, "a", "new"))
	assert.Equal(t, 401, code)
	console.RemoveKey(consoletest.DefaultAPIKeyID)
	jwt := exchange(t, console, 401)
	assert.Empty(t, jwt, "the organization stays known")
	assert.Equal(t, 3, console.ExchangesOf("a"))
	assert.Equal(t, 4, console.Exchanges())

	console.RemoveBotUser(consoletest.DefaultUsername)
	code, _ = do(console, botRequest(nil))
	assert.Equal(t, 401, code)
	console.AddBotUser(consoletest.BotUser{
		Username: consoletest.DefaultUsername, Password: consoletest.DefaultPassword,
		ClientID: consoletest.DefaultClientID, ClientSecret: consoletest.DefaultClientSecret,
	})
	code, _ = do(console, botRequest(nil))
	assert.Equal(t, 200, code)
}

func TestOrganizations(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	console := consoletest.New()
	console.SetNow(func() time.Time { return now })
	list := func(jwt string) (int, string) {
		req := httptest.NewRequest(http.MethodGet, organizationsPath, nil)
		req.Header.Set("Authorization", jwt)
		rec := httptest.NewRecorder()
		console.ServeHTTP(rec, req)
		return rec.Code, rec.Body.String()
	}
	jwt := exchange(t, console, 200)
	org := consoletest.DefaultOrganizationID

	code, body := list("Bearer " + jwt)
	assert.Equal(t, 200, code)
	assert.JSONEq(t, fmt.Sprintf(`[{"id":%q,"name":%q}]`, org, "Organization "+org), body)
	for name, refused := range map[string]string{
		"nothing":       "",
		"not Bearer":    jwt,
		"not a JWT":     "Bearer jwt",
		"altered":       "Bearer " + strings.Replace(jwt, ".", ".A", 1),
		"of another":    "Bearer " + consoletest.New().Mint(map[string]any{"exp": now.Unix() + 60}),
		"without exp":   "Bearer " + console.Mint(map[string]any{"org": org}),
		"exp as string": "Bearer " + console.Mint(map[string]any{"exp": "9999999999"}),
		"expired":       "Bearer " + console.Mint(map[string]any{"exp": now.Unix()}),
	} {
		code, body := list(refused)
		assert.Equal(t, 401, code, name)
		assert.Contains(t, body, `"message"`, name)
	}
	code, body = list("Bearer " + console.Mint(map[string]any{"exp": now.Unix() + 1}))
	assert.Equal(t, 200, code)
	assert.JSONEq(t, "[]", body, "no organization in the JWT")
	code, _ = do(console, httptest.NewRequest(http.MethodPost, organizationsPath, nil))
	assert.Equal(t, 405, code)
	assert.Equal(t, 1, console.Exchanges(), "none of these is an exchange")
}

// What the tools decode is in the wants: they fail on another type.
func TestToolEndpoints(t *testing.T) {
	t.Parallel()
	console := consoletest.New()
	console.AddKey(consoletest.Key{OrganizationID: "other", ID: "other", Secret: "other-secret"})
	jwt := exchange(t, console, 200)
	for endpoint, want := range map[string]string{
		"GET /data-structures/v1":                                 `[]`,
		"GET /data-structures/v1/schemas/versions?latest=true":    `[]`,
		"GET /data-structures/v1/abc":                             ``,
		"GET /data-structures/v1/abc/versions/1-0-0?env=DEV":      ``,
		"GET /data-structures/v1/abc/deployments?from=0&size=25":  `[]`,
		"GET /data-structure-drafts/v1/schemas":                   `[]`,
		"POST /data-structures/v1/validation-requests":            `{"success": true, "errors": [], "warnings": [], "info": []}`,
		"GET /data-products/v2":                                   `{"data": [], "includes": {"owners": [], "eventSpecs": [], "sourceApplications": []}}`,
		"GET /source-apps/v1":                                     `{"data": []}`,
		"GET /images/v1":                                          `{"items": []}`,
		"GET /destinations/v3":                                    `[]`,
		"GET /event-specs/v1/11111111-0000-4000-8000-00000000000": ``,
	} {
		method, path, _ := strings.Cut(endpoint, " ")
		ask := func(method, organization, bearer string) *httptest.ResponseRecorder {
			req := httptest.NewRequest(method, organizationsPath+"/"+organization+path, nil)
			req.Header.Set("Authorization", bearer)
			rec := httptest.NewRecorder()
			console.ServeHTTP(rec, req)
			return rec
		}
		answer := ask(method, consoletest.DefaultOrganizationID, "Bearer "+jwt)
		if want == "" {
			assert.Equal(t, 404, answer.Code, endpoint)
			continue
		}
		assert.Equal(t, 200, answer.Code, endpoint)
		assert.JSONEq(t, want, answer.Body.String(), endpoint)
		assert.Equal(t, 401, ask(method, consoletest.DefaultOrganizationID, "Bearer wrong").Code, endpoint)
		assert.Equal(t, 403, ask(method, "other", "Bearer "+jwt).Code, endpoint)
		assert.Equal(t, 405, ask("PUT", consoletest.DefaultOrganizationID, "Bearer "+jwt).Code, endpoint)
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

	first, second := exchange(t, console, 200), exchange(t, console, 200)
	assert.NotEqual(t, first, second)
	got := claims(first)
	assert.NotEmpty(t, got["jti"])
	delete(got, "jti")
	assert.Equal(t, map[string]any{
		"iss": "consoletest", "sub": consoletest.DefaultAPIKeyID, "org": consoletest.DefaultOrganizationID,
		"iat": 1_000_000.0, "exp": 1_086_400.0,
	}, got)

	console.SetValidity(time.Minute)
	assert.EqualValues(t, 1_000_060, claims(exchange(t, console, 200))["exp"])

	console.SetClaims(func(claims map[string]any) { claims["exp"] = "soon" })
	assert.Equal(t, "soon", claims(exchange(t, console, 200))["exp"])
	console.SetClaims(nil)
	assert.EqualValues(t, 1_000_060, claims(exchange(t, console, 200))["exp"])

	assert.Equal(t, map[string]any{"a": "b"}, claims(console.Mint(map[string]any{"a": "b"})))
	assert.Panics(t, func() { console.Mint(map[string]any{"a": make(chan int)}) })

	_, ok := consoletest.New().Issued(first)
	assert.False(t, ok, "another Console signs with another key")
	_, ok = console.Issued("not a JWT")
	assert.False(t, ok)
}

func TestDateFollowsTheClock(t *testing.T) {
	t.Parallel()
	server := consoletest.NewServer(t)
	server.SetNow(func() time.Time { return time.Unix(0, 0) })
	_, header, _ := send(t, server)
	assert.Equal(t, "Thu, 01 Jan 1970 00:00:00 GMT", header.Get("Date"))
}

func TestLastRequest(t *testing.T) {
	t.Parallel()
	console := consoletest.New()
	assert.Nil(t, console.LastRequest())
	req := request("GET", v3Path, "a", "b")
	req.Header.Set("User-Agent", "agent")
	do(console, req)
	assert.Equal(t, "agent", console.LastRequest().UserAgent())
	console.LastRequest().Header.Set("User-Agent", "changed")
	assert.Equal(t, "agent", console.LastRequest().UserAgent(), "a copy")
	do(console, botRequest(nil))
	assert.Equal(t, consoletest.DefaultPassword, console.LastRequest().PostForm.Get("password"))
}

func TestTLSServer(t *testing.T) {
	t.Parallel()
	server := consoletest.NewTLSServer(t)
	code, _, _ := send(t, server)
	assert.Equal(t, 200, code)

	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM([]byte(server.CACert())))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Get(server.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())

	err = failedGet(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, server.URL)
	assert.ErrorAs(t, err, new(*tls.CertificateVerificationError))
	assert.Empty(t, consoletest.NewServer(t).CACert())
}

func TestFaults(t *testing.T) {
	t.Parallel()
	console := consoletest.New()
	status := func() int {
		code, _ := do(console, request("GET", v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
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
}

func TestFaultHandlers(t *testing.T) {
	t.Parallel()
	server := consoletest.NewServer(t)

	server.FailNext(1, consoletest.Status(429, "slow down", http.Header{"Retry-After": {"7"}}))
	code, header, body := send(t, server)
	assert.Equal(t, 429, code)
	assert.Equal(t, "7", header.Get("Retry-After"))
	assert.Equal(t, "slow down", body)

	server.FailNext(1, consoletest.Echo(400))
	code, _, body = send(t, server)
	assert.Equal(t, 400, code)
	assert.Contains(t, body, consoletest.DefaultAPIKey)

	server.FailNext(1, consoletest.Echo(400))
	rec := httptest.NewRecorder()
	server.ServeHTTP(rec, botRequest(nil))
	assert.Contains(t, rec.Body.String(), consoletest.DefaultPassword)
	assert.Contains(t, rec.Body.String(), consoletest.DefaultClientSecret)

	server.FailNext(1, consoletest.Disconnect())
	before := server.Exchanges()
	assert.ErrorIs(t, failedGet(server.Client(), server.URL+v3Path), io.ErrUnexpectedEOF)
	assert.Equal(t, before+1, server.Exchanges(), "Go's client must not repeat it")
}

func TestSilenceLastsUntilTheClientGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		console := consoletest.New()
		console.FailNext(1, consoletest.Silence())
		assert.Equal(t, time.Minute, elapsed(t, console, time.Minute))
		assert.Zero(t, elapsed(t, console, time.Minute))
	})
}

func TestDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		console := consoletest.New()
		console.SetDelay(time.Second)
		assert.Equal(t, time.Second, elapsed(t, console, time.Minute))
		assert.Equal(t, time.Millisecond, elapsed(t, console, time.Millisecond), "ends with the request")
		console.ClearFaults()
		assert.Zero(t, elapsed(t, console, time.Minute))
	})
}

func TestHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		console := consoletest.New()
		first, second := console.Hold(), console.Hold()
		answers := make(chan int, 2)
		ask := func() {
			code, _ := do(console, request("GET", v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
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
		exchange(t, console, 200) // a third one passes
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
		assert.Equal(t, time.Minute, elapsed(t, console, time.Minute), "ends with the request")
	})
}

func TestCloseEndsHeldExchanges(t *testing.T) {
	t.Parallel()
	server := consoletest.NewServer(t)
	hold := server.Hold()
	code := make(chan int, 1)
	go func() {
		resp, err := server.Client().Get(server.URL + v3Path)
		if err != nil {
			code <- 0
			return
		}
		_ = resp.Body.Close()
		code <- resp.StatusCode
	}()
	<-hold.Started()
	server.Close()
	assert.Equal(t, http.StatusServiceUnavailable, <-code)
	assert.Error(t, failedGet(server.Client(), server.URL))
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	console := consoletest.New()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := fmt.Sprint("key-", i)
			for range 20 {
				console.AddKey(consoletest.Key{ID: id, Secret: id})
				code, _ := do(console, request("GET", v3Path, id, id))
				assert.Equal(t, 200, code)
				console.SetValidity(time.Hour)
				console.SetDelay(0)
				console.FailNext(0, nil)
				console.RemoveKey(id)
				_ = console.LastRequest()
			}
			assert.Equal(t, 20, console.ExchangesOf(id))
		})
	}
	wg.Wait()
	assert.Equal(t, 160, console.Exchanges())
}

func request(method, path, id, secret string) *http.Request {
	req := httptest.NewRequest(method, path, nil)
	req.Header.Set("X-API-Key-ID", id)
	req.Header.Set("X-API-Key", secret)
	return req
}

// botRequest is the exchange of the default bot user after change, if any.
func botRequest(change func(url.Values)) *http.Request {
	form := url.Values{
		"grant_type":    {"password"},
		"username":      {consoletest.DefaultUsername},
		"password":      {consoletest.DefaultPassword},
		"audience":      {"https://snowplowanalytics.com/api/"},
		"client_id":     {consoletest.DefaultClientID},
		"client_secret": {consoletest.DefaultClientSecret},
	}
	if change != nil {
		change(form)
	}
	req := httptest.NewRequest(http.MethodPost, v1Path, strings.NewReader(form.Encode()))
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
func exchange(t *testing.T, console http.Handler, want int) string {
	t.Helper()
	code, body := do(console, request("GET", v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey))
	require.Equal(t, want, code)
	jwt, _ := body["accessToken"].(string)
	return jwt
}

// elapsed is how long an exchange takes whose client gives up after patience.
func elapsed(t *testing.T, console http.Handler, patience time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	start := time.Now()
	do(console, request("GET", v3Path, consoletest.DefaultAPIKeyID, consoletest.DefaultAPIKey).WithContext(ctx))
	return time.Since(start)
}

// send makes a v3 exchange of the default key over the network.
func send(t *testing.T, server *consoletest.Server) (code int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+v3Path, nil)
	require.NoError(t, err)
	req.Header.Set("X-API-Key-ID", consoletest.DefaultAPIKeyID)
	req.Header.Set("X-API-Key", consoletest.DefaultAPIKey)
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, string(read)
}

// failedGet returns the error of a request that gets no answer, nil if it gets one.
func failedGet(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
