// Package consoletest provides a fake Snowplow Console for tests: the three
// exchanges of a credential for a JWT, the list of organizations that such a
// JWT opens, what snowplow-cli and Snowtype read of an organization that is
// empty, faults on demand, and secrets that are found wherever they turn up.
// Without any configuration it knows one organization, one API key and one
// bot user: the Default constants.
package consoletest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"mime"
	"net/http"
	"sync"
	"time"
)

// What a Console knows without configuration. The secrets are words that
// nothing else contains, so that a test can look for them where none may be.
const (
	DefaultOrganizationID = "11111111-2222-4333-8444-555555555555"
	DefaultAPIKeyID       = "consoletest-key-id"
	DefaultAPIKey         = "canary-api-key-do-not-leak"
	DefaultUsername       = "consoletest-bot@example.com"
	DefaultPassword       = "canary-password-do-not-leak"
	DefaultClientID       = "consoletest-client-id"
	DefaultClientSecret   = "canary-client-secret-do-not-leak"
)

// DefaultValidity is how long a JWT of Snowplow Console is valid.
const DefaultValidity = 24 * time.Hour

// audience is the one that the legacy exchange (v1) has to ask for.
const audience = "https://snowplowanalytics.com/api/"

// Key is an API key: v3 checks the pair of ID and Secret, v2 the Secret alone.
type Key struct {
	OrganizationID string // empty: the organization of the Console
	ID             string
	Secret         string
}

// BotUser is a user of the legacy exchange (v1). Its organization is that of
// the Console.
type BotUser struct {
	Username, Password, ClientID, ClientSecret string
}

// Option changes what a Console knows at the start.
type Option func(*options)

type options struct {
	organizationID string
	keys           []Key
}

// WithOrganization takes the place of DefaultOrganizationID.
func WithOrganization(id string) Option {
	return func(o *options) { o.organizationID = id }
}

// WithKeys takes the place of the default API key. No keys: there is none.
func WithKeys(keys ...Key) Option {
	return func(o *options) { o.keys = keys }
}

// Console is a fake Snowplow Console. It serves the hosts of Console and of
// the legacy exchange alike. It is safe for concurrent use, and everything
// about it can be changed while it serves.
type Console struct {
	mux            *http.ServeMux
	organizationID string
	signingKey     []byte

	mu            sync.Mutex
	organizations map[string]bool
	keys          map[string]Key     // by ID
	botUsers      map[string]BotUser // by username
	now           func() time.Time
	validity      time.Duration
	editClaims    func(map[string]any)
	exchanges     int
	exchangesOf   map[string]int
	lastRequest   *http.Request
	faults        faults
}

// New returns a Console as a handler, without a listener.
func New(opts ...Option) *Console {
	o := options{
		organizationID: DefaultOrganizationID,
		keys:           []Key{{ID: DefaultAPIKeyID, Secret: DefaultAPIKey}},
	}
	for _, opt := range opts {
		opt(&o)
	}

	c := &Console{
		mux:            http.NewServeMux(),
		organizationID: o.organizationID,
		signingKey:     make([]byte, 32),
		organizations:  map[string]bool{o.organizationID: true},
		keys:           make(map[string]Key),
		botUsers:       make(map[string]BotUser),
		now:            time.Now,
		validity:       DefaultValidity,
		exchangesOf:    make(map[string]int),
	}
	_, _ = rand.Read(c.signingKey) // never fails
	for _, key := range o.keys {
		c.AddKey(key)
	}
	c.AddBotUser(BotUser{DefaultUsername, DefaultPassword, DefaultClientID, DefaultClientSecret})

	const credentials = "/api/msc/v1/organizations/{organization}/credentials"
	c.mux.HandleFunc(credentials+"/v3/token", c.exchange(apiKeyID, c.serveV3))
	c.mux.HandleFunc(credentials+"/v2/token", c.exchange(c.apiKeyIDOfSecret, c.serveV2))
	c.mux.HandleFunc("/oauth/token", c.exchange(username, c.serveV1))
	c.mux.HandleFunc("/api/msc/v1/organizations", c.serveOrganizations)
	c.handleTools()
	c.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "no such resource")
	})
	return c
}

// ServeHTTP answers as Snowplow Console does, unless a fault is in its way.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", c.clock().UTC().Format(http.TimeFormat))
	c.mux.ServeHTTP(w, r)
}

// AddKey makes an API key known, and its organization with it. A known ID
// gets the new secret.
func (c *Console) AddKey(key Key) {
	if key.OrganizationID == "" {
		key.OrganizationID = c.organizationID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[key.ID] = key
	c.organizations[key.OrganizationID] = true
}

// RemoveKey deletes an API key. As at Snowplow, its JWTs stay valid and its
// organization stays known.
func (c *Console) RemoveKey(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, id)
}

// AddBotUser makes a bot user known, or replaces the one of that username.
func (c *Console) AddBotUser(user BotUser) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.botUsers[user.Username] = user
}

// RemoveBotUser deletes a bot user.
func (c *Console) RemoveBotUser(username string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.botUsers, username)
}

// SetNow sets the clock that JWTs, the Date header and the check of Bearer
// JWTs go by. It starts as time.Now.
func (c *Console) SetNow(now func() time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// SetValidity sets how long the JWTs of later exchanges are valid.
func (c *Console) SetValidity(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.validity = d
}

// Exchanges returns how many exchanges have arrived, whatever their answer.
func (c *Console) Exchanges() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exchanges
}

// ExchangesOf returns how many of them named this API key ID or, for v1, this
// username. A v2 exchange counts for the key that has its secret, if any.
func (c *Console) ExchangesOf(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exchangesOf[id]
}

// LastRequest returns the last exchange that arrived, without its body but
// with the form parsed from it; nil if there was none.
func (c *Console) LastRequest() *http.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastRequest == nil {
		return nil
	}
	return c.lastRequest.Clone(context.Background())
}

// exchange records a request before anything else happens to it, so that
// held and failing exchanges count, too.
func (c *Console) exchange(identify func(*http.Request) string, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what cannot be read is missing, and refused as such
		id := identify(r)
		c.mu.Lock()
		c.exchanges++
		c.exchangesOf[id]++
		c.lastRequest = r.Clone(context.Background())
		c.lastRequest.Body = http.NoBody
		c.mu.Unlock()

		if !c.wait(r) {
			writeError(w, http.StatusServiceUnavailable, "the request ended before its answer")
			return
		}
		if !c.intercepted(w, r) {
			answer(w, r)
		}
	}
}

func apiKeyID(r *http.Request) string { return r.Header.Get("X-API-Key-ID") }

func (c *Console) apiKeyIDOfSecret(r *http.Request) string { return c.keyOfSecret(r).ID }

func username(r *http.Request) string { return r.PostForm.Get("username") }

func (c *Console) serveV3(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	key := c.keys[apiKeyID(r)]
	c.mu.Unlock()
	c.answerKey(w, r, key)
}

func (c *Console) serveV2(w http.ResponseWriter, r *http.Request) {
	c.answerKey(w, r, c.keyOfSecret(r))
}

// keyOfSecret finds the key that a v2 exchange means: it sends no ID.
func (c *Console) keyOfSecret(r *http.Request) Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range c.keys {
		if key.OrganizationID == r.PathValue("organization") && key.Secret == r.Header.Get("X-API-Key") {
			return key
		}
	}
	return Key{}
}

func (c *Console) answerKey(w http.ResponseWriter, r *http.Request, key Key) {
	organization, secret := r.PathValue("organization"), r.Header.Get("X-API-Key")
	switch {
	case !allowed(w, r, http.MethodGet):
	case !c.knows(organization):
		writeError(w, http.StatusNotFound, "no such organization")
	case secret == "" || secret != key.Secret || organization != key.OrganizationID:
		writeError(w, http.StatusUnauthorized, "invalid API key")
	default:
		jwt, _ := c.issue(key.ID, organization)
		writeJSON(w, http.StatusOK, map[string]any{"accessToken": jwt})
	}
}

func (c *Console) serveV1(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, http.MethodPost) {
		return
	}
	form := r.PostForm
	given := BotUser{username(r), form.Get("password"), form.Get("client_id"), form.Get("client_secret")}
	c.mu.Lock()
	user, known := c.botUsers[given.Username]
	c.mu.Unlock()

	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case mediaType != "application/x-www-form-urlencoded":
		writeError(w, http.StatusBadRequest, "the body must be application/x-www-form-urlencoded")
	case form.Get("grant_type") != "password":
		writeError(w, http.StatusBadRequest, "grant_type must be password")
	case form.Get("audience") != audience:
		writeError(w, http.StatusBadRequest, "audience must be "+audience)
	case !known || given != user:
		writeError(w, http.StatusUnauthorized, "invalid user or client")
	default:
		jwt, validity := c.issue(user.Username, c.organizationID)
		writeJSON(w, http.StatusOK, map[string]any{
			"access_token": jwt,
			"token_type":   "Bearer",
			"expires_in":   int64(validity.Seconds()),
		})
	}
}

// serveOrganizations is where a test shows that a JWT works.
func (c *Console) serveOrganizations(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r, http.MethodGet) {
		return
	}
	claims, ok := c.authorized(r)
	if !ok {
		writeError(w, http.StatusUnauthorized, "invalid or expired JWT")
		return
	}
	organizations := []map[string]string{}
	if id, _ := claims["org"].(string); c.knows(id) {
		organizations = append(organizations, map[string]string{"id": id, "name": "Organization " + id})
	}
	writeJSON(w, http.StatusOK, organizations)
}

func (c *Console) knows(organizationID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.organizations[organizationID]
}

// clock calls now outside the lock: it is a test's function, and may use c.
func (c *Console) clock() time.Time {
	c.mu.Lock()
	now := c.now
	c.mu.Unlock()
	return now()
}

func allowed(w http.ResponseWriter, r *http.Request, method string) bool {
	if r.Method == method {
		return true
	}
	w.Header().Set("Allow", method)
	writeError(w, http.StatusMethodNotAllowed, "method not allowed")
	return false
}

func writeError(w http.ResponseWriter, code int, message string) {
	writeJSON(w, code, map[string]string{"message": message})
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // fails only if the client has gone
}
