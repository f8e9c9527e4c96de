package snowplow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"golang.org/x/sync/semaphore"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

const (
	// maxReaderWait bounds how long a reader waits for an exchange while the cached JWT would do.
	maxReaderWait = 2 * time.Second
	// minStaleValidity is how long a cached JWT must still be valid to be served in place of a new one.
	minStaleValidity = time.Minute
	// A JWT is not served as fresh in the last fifth of its life, or in the last minute if that is shorter: Vault Agent
	// reads again at 85 % of a lease, and would get the same JWT with ever shorter leases.
	lastPart = 5

	// A refresh ahead begins at this share of the time for which a JWT is fresh, drawn anew for each JWT so that
	// mounts do not refresh in step. The rest must cover one more gap between reads, plus the exchange.
	earliestRefresh, latestRefresh = 0.75, 0.85

	// Waits after a failed exchange.
	firstBackOff         = time.Second
	maxBackOff           = time.Minute
	maxBackOffWithoutJWT = 10 * time.Second
	backOffJitter        = 0.2
	waitAfterRefusal     = 10 * time.Second

	// keepFailure is how long a failure of a credential that nobody reads is remembered.
	keepFailure = 24 * time.Hour
	// keepForgotten is how long sweeps look for the stored copy of a forgotten JWT.
	keepForgotten = 10 * time.Minute
	// maxTidied is how many paths one sweep compares with what is stored.
	maxTidied = 100

	// loadTimeout is how long a reader waits for a stored JWT before it asks Snowplow.
	loadTimeout = time.Second
	// storeTimeout bounds one call of storage.
	storeTimeout = 5 * time.Second
)

// tokenKey names what a JWT belongs to: one write of one credential, and the URLs that it was obtained from and is
// good for. A JWT of an older credential, or of another Console, is under a key that nobody asks for.
type tokenKey struct {
	Path           string `json:"path"` // where the credential is stored: config, or roles/<name>
	CredentialID   string `json:"credential_id"`
	Version        string `json:"credentials_version"`
	OrganizationID string `json:"organization_id"`
	ConsoleURL     string `json:"console_url"`
	AuthURL        string `json:"auth_url"`
}

// errReadOnly is a tokenStore's refusal on a node that may not write.
var errReadOnly = errors.New("this node may not write to storage")

// tokenStore persists JWTs across restarts.
type tokenStore interface {
	// load returns the JWT stored under key, nil if there is none that can be used.
	load(ctx context.Context, key tokenKey) (*console.Token, error)
	// save stores a JWT, unless key is no longer that of the stored credential.
	save(ctx context.Context, key tokenKey, token console.Token) error
	// remove deletes what is stored under key.
	remove(ctx context.Context, key tokenKey) error
	// paths lists where the credentials of the stored JWTs are stored.
	paths(ctx context.Context) ([]string, error)
	// tidy deletes the JWT stored for a path unless it is still usable and belongs to the stored credential. It
	// returns that credential's key, nil if there is none.
	tidy(ctx context.Context, path string) (*tokenKey, error)
}

// exchangeFunc makes one exchange; retry says whether another try is wanted. Its errors are a *console.Error, or the
// context's own.
type exchangeFunc func(ctx context.Context, retry func() bool) (console.Token, error)

// tokenCache shares, refreshes and stores JWTs, one for each credential.
type tokenCache struct {
	lifetime context.Context // of exchanges, which outlast the readers that began them
	store    tokenStore
	logger   hclog.Logger

	// Serialize storage calls for one path, so that a deletion comes after the write that it undoes. Storage may hang,
	// and unlike a mutex, a semaphore can be given up with the context.
	storeLocks [locksutil.LockCount]*semaphore.Weighted

	mu           sync.Mutex // never held over a call of storage or of Snowplow
	slots        map[tokenKey]*slot
	begun        uint64          // exchanges so far; orders them
	storeFailing map[string]bool // kinds of storage call that failed the last time: a streak is logged once
	tidied       string          // the path that the last sweep ended with
}

// slot is what is known of one credential. The cache's mutex guards it.
type slot struct {
	loaded  bool       // the stored JWT was looked up, or is out of date
	loading *tokenLoad // under way; nil: none

	token   *console.Token // cached; nil: none
	refresh float64        // the share of its fresh time after which it is refreshed
	arrival chan struct{}  // closed when a JWT is cached; nil: nobody waits for that
	unsaved bool           // storage does not hold token yet, or holds one although token is nil
	storing bool           // a goroutine waits to update storage

	flight     *flight // the exchange that new readers join; nil: none
	superseded *flight // one that began before the JWT was forgotten, and still runs
	private    int     // exchanges under way for readers with reuse_period=0
	epoch      int     // how often the JWT was forgotten: an older exchange caches nothing

	forgottenAt time.Time // for a while, an abandoned storage call may still restore the JWT

	failing     bool           // the last exchange failed, and the failure is transient
	failure     *console.Error // the last failure; nil after a success that began later
	failedAt    time.Time
	failures    int       // transient ones in a row
	notBefore   time.Time // no exchange until then
	begunThen   uint64    // tokenCache.begun when the last failure was noted
	countedThen uint64    // the same, of the last one counted in failures
	succeeded   uint64    // flight.number of the last success
}

// tokenLoad is a lookup of a stored JWT.
type tokenLoad struct {
	began time.Time
	done  chan struct{}
}

// flight is an exchange under way.
type flight struct {
	number  uint64 // in order of beginning
	began   time.Time
	epoch   int
	private bool // of a reader with reuse_period=0: its JWT is not cached
	cancel  context.CancelFunc
	waiting int // readers that wait for it
	needy   int // those of them without a usable cached JWT

	done  chan struct{} // closed when token and err are set
	token console.Token
	err   error
}

// served is the JWT that one reader gets, and where it came from.
type served struct {
	console.Token
	exchanged bool   // an exchange was made for this very reader
	stale     string // why it is not a newer one; empty: it is fresh
}

func newTokenCache(lifetime context.Context, store tokenStore, logger hclog.Logger) *tokenCache {
	c := &tokenCache{lifetime: lifetime, store: store, logger: logger, slots: map[tokenKey]*slot{}, storeFailing: map[string]bool{}}
	for i := range c.storeLocks {
		c.storeLocks[i] = semaphore.NewWeighted(1)
	}
	return c
}

// storing waits for the storage calls of a path. It returns the context for one more, which is bounded in time, and
// what to call after it.
func (c *tokenCache) storing(ctx context.Context, path string) (bounded context.Context, done func(), err error) {
	lock := c.storeLocks[locksutil.LockIndexForKey(path)]
	if err := lock.Acquire(ctx, 1); err != nil {
		return nil, nil, fmt.Errorf("waiting for an earlier storage call for %s: %w", path, err)
	}
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	return bounded, func() {
		cancel()
		lock.Release(1)
	}, nil
}

// get returns a JWT: the cached one while it is younger than reuse, or one from an exchange that all readers who
// arrive meanwhile share. With a reuse of 0, every call makes an exchange of its own and nothing is cached. Its errors
// are those of exchangeFunc, or the reader's context's.
func (c *tokenCache) get(ctx context.Context, key tokenKey, reuse time.Duration, exchange exchangeFunc) (served, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slot(key)
	if reuse == 0 {
		return c.getPrivately(ctx, key, s, exchange)
	}
	if err := c.loaded(ctx, key, s); err != nil {
		return served{}, err
	}
	if c.slots[key] == nil { // a sweep took it for idle
		c.slots[key] = s
	}
	var led *flight
	for timedOut := false; ; {
		now := time.Now()
		if s.fresh(now, reuse) {
			if s.due(now, reuse) && s.flight == nil && !now.Before(s.notBefore) {
				s.flight = c.begin(key, s, exchange)
			}
			return served{Token: *s.token}, nil
		}
		usable := s.usable(now)
		if s.flight == nil && now.Before(s.notBefore) {
			return s.staleIfError(now, s.failure)
		}
		if s.flight == nil {
			led = c.begin(key, s, exchange)
			s.flight = led
		}
		switch {
		case usable && s.failing:
			return served{Token: *s.token, stale: s.failure.Error()}, nil
		case usable && timedOut:
			return served{Token: *s.token, stale: fmt.Sprintf("Snowplow Console has not answered within %s", maxReaderWait)}, nil
		}
		f, joined := s.flight, s.epoch
		ended, err := c.wait(ctx, s, f, usable)
		if err == nil && !ended && !usable && f != s.flight {
			// A later exchange has brought a JWT. This reader gets what it waits for, if that comes in time.
			usable = true
			ended, err = c.wait(ctx, s, f, usable)
		}
		switch {
		case err != nil:
			return served{}, err
		case !ended:
			timedOut = usable
		case f.epoch != joined: // forgotten before this reader came: only its failure counts
		case f.err == nil:
			return served{Token: f.token, exchanged: f == led}, nil
		default:
			if s.fresh(time.Now(), reuse) { // a later exchange has returned one meanwhile
				continue
			}
			return s.staleIfError(time.Now(), f.err)
		}
	}
}

// getPrivately makes an exchange for one reader only, and gives it up with the reader. Nothing of it is cached, and
// nothing cached is served.
func (c *tokenCache) getPrivately(ctx context.Context, key tokenKey, s *slot, exchange exchangeFunc) (served, error) {
	if time.Now().Before(s.notBefore) {
		return served{}, s.failure
	}
	f := c.begin(key, s, exchange)
	f.private = true
	s.private++
	defer func() { s.private-- }()
	defer f.cancel()
	if _, err := c.wait(ctx, s, f, false); err != nil {
		return served{}, err
	}
	return served{Token: f.token, exchanged: true}, f.err
}

// slot finds or makes the slot of a key.
func (c *tokenCache) slot(key tokenKey) *slot {
	s := c.slots[key]
	if s == nil {
		s = &slot{}
		c.slots[key] = s
	}
	return s
}

// loaded looks up the stored JWT, once for each slot. It releases the mutex meanwhile, and gives up after loadTimeout:
// storage that fails or hangs costs a reader an exchange, not the token.
func (c *tokenCache) loaded(ctx context.Context, key tokenKey, s *slot) error {
	if s.loaded {
		return nil
	}
	if s.loading == nil {
		s.loading = &tokenLoad{began: time.Now(), done: make(chan struct{})}
		go c.load(key, s, s.loading)
	}
	loading := s.loading
	c.mu.Unlock()
	defer c.mu.Lock()
	patience := time.NewTimer(time.Until(loading.began.Add(loadTimeout)))
	defer patience.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting for a stored token: %w", ctx.Err())
	case <-loading.done:
	case <-patience.C:
	}
	return nil
}

func (c *tokenCache) load(key tokenKey, s *slot, loading *tokenLoad) {
	ctx, cancel := context.WithTimeout(c.lifetime, storeTimeout)
	defer cancel()
	token, err := c.store.load(ctx, key)
	ok := c.stored("reading", key, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	s.loading = nil
	close(loading.done)
	if ok && !s.loaded {
		s.loaded = true
		if token != nil {
			s.cache(*token)
		}
	}
}

// begin starts an exchange, which lives as long as the mount, not as the reader.
func (c *tokenCache) begin(key tokenKey, s *slot, exchange exchangeFunc) *flight {
	c.begun++
	f := &flight{number: c.begun, began: time.Now(), epoch: s.epoch, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(c.lifetime)
	f.cancel = cancel
	go func() {
		defer cancel()
		token, err := exchange(ctx, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return f.needy > 0 && !s.toldToWait(time.Now())
		})
		c.mu.Lock()
		c.note(key, s, f, token, err)
		f.token, f.err = token, err
		close(f.done)
		first := s.unsaved && !s.storing // if storage hangs, one goroutine for each slot is enough
		s.storing = s.storing || first
		c.mu.Unlock()
		if first {
			_ = c.persist(c.lifetime, key, s) // the sweep tries again
		}
	}()
	return f
}

// wait waits for an exchange, and reports whether it has ended. A reader with a usable JWT waits until maxReaderWait
// after its beginning; one without, until a JWT comes from anywhere: from storage, or a verification. It releases the
// mutex meanwhile.
func (c *tokenCache) wait(ctx context.Context, s *slot, f *flight, usable bool) (ended bool, err error) {
	f.waiting++
	var patience <-chan time.Time
	var arrival <-chan struct{}
	if usable {
		timer := time.NewTimer(time.Until(f.began.Add(maxReaderWait)))
		defer timer.Stop()
		patience = timer.C
	} else {
		f.needy++
		defer func() { f.needy-- }()
		if !f.private {
			if s.arrival == nil {
				s.arrival = make(chan struct{})
			}
			arrival = s.arrival
		}
	}
	defer func() { f.waiting-- }()
	c.mu.Unlock()
	select {
	case <-ctx.Done():
		err = fmt.Errorf("waiting for a token: %w", ctx.Err())
	case <-f.done:
	case <-patience:
	case <-arrival:
	}
	c.mu.Lock()
	return f.ended(), err
}

func (f *flight) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// note records the outcome of an exchange.
func (c *tokenCache) note(key tokenKey, s *slot, f *flight, token console.Token, err error) {
	switch f {
	case s.flight:
		s.flight = nil
	case s.superseded:
		s.superseded = nil
	}
	var failed *console.Error
	switch {
	case err == nil:
		s.succeeded = max(s.succeeded, f.number)
		// A parallel success says nothing about the wait that a failure asked for, and nothing about a key that
		// was refused meanwhile.
		later := f.number > s.begunThen
		refused := s.failure != nil && s.failure.Reason == console.ReasonRefused
		if later {
			s.recover()
		}
		if s.failing = false; (later || !refused) && !f.private && f.epoch == s.epoch && c.slots[key] == s {
			s.cache(token)
			s.unsaved = true
		}
	case errors.As(err, &failed): // any other error means that the mount was unloaded or the reader gave up
		c.noteFailure(s, f.number, failed)
	}
}

// toldToWait reports whether a parallel exchange was refused, or asked by the server not to come again yet.
func (s *slot) toldToWait(now time.Time) bool {
	return now.Before(s.notBefore) && (s.failure.RetryAfter > 0 || !s.failure.Transient())
}

// recover records that the credential works again.
func (s *slot) recover() {
	s.failing, s.failure, s.failures, s.notBefore = false, nil, 0, time.Time{}
}

// noteFailure records that Snowplow, or the way there, failed the exchange with this number.
func (c *tokenCache) noteFailure(s *slot, number uint64, failed *console.Error) {
	now := time.Now()
	// A failure overtaken by a later success is out of date; only its Retry-After still counts.
	overtaken := number < s.succeeded && failed.Transient()
	if overtaken && failed.RetryAfter == 0 {
		return
	}
	s.failing = failed.Transient() && !overtaken
	if failed.Reason == console.ReasonRefused {
		s.token, s.loaded, s.unsaved = nil, true, true
	}
	// Of parallel failures, only the first is one more in a row.
	if failed.Transient() && !overtaken && number > s.countedThen {
		s.failures++
		s.countedThen = c.begun
	}
	if until := now.Add(s.backOff(now, failed)); until.After(s.notBefore) {
		s.notBefore = until
	}
	s.failure, s.failedAt, s.begunThen = failed, now, c.begun
}

// backOff returns how long not to try again after a failure.
func (s *slot) backOff(now time.Time, failed *console.Error) time.Duration {
	wait := waitAfterRefusal
	if failed.Transient() {
		limit := maxBackOff
		if !s.usable(now) {
			limit = maxBackOffWithoutJWT
		}
		wait = limit
		if doublings := s.failures - 1; doublings < 6 {
			wait = min(limit, firstBackOff<<max(0, doublings))
		}
		wait = time.Duration(float64(wait) * (1 - backOffJitter + 2*backOffJitter*rand.Float64()))
	}
	return max(wait, failed.RetryAfter)
}

// cache takes a JWT into memory.
func (s *slot) cache(token console.Token) {
	s.token, s.loaded = &token, true
	if s.arrival != nil {
		close(s.arrival)
		s.arrival = nil
	}
	s.refresh = earliestRefresh + rand.Float64()*(latestRefresh-earliestRefresh)
}

// lastServed returns the age up to which the cached JWT is long enough from its expiry to be served as fresh.
func (s *slot) lastServed() time.Duration {
	validity := s.token.Validity
	return validity - max(console.MinValidity, min(minStaleValidity, validity/lastPart))
}

// fresh reports whether the cached JWT may be served to a reader who accepts an age of reuse.
func (s *slot) fresh(now time.Time, reuse time.Duration) bool {
	if s.token == nil {
		return false
	}
	age := s.token.Age(now)
	return age < reuse && age <= s.lastServed()
}

// due reports whether a fresh JWT should be refreshed ahead.
func (s *slot) due(now time.Time, reuse time.Duration) bool {
	return float64(s.token.Age(now)) >= s.refresh*float64(min(reuse, s.lastServed()))
}

// usable reports whether the cached JWT may be served in place of a new one.
func (s *slot) usable(now time.Time) bool {
	return s.token != nil && s.token.Remaining(now) >= minStaleValidity
}

// staleIfError answers a reader whose exchange failed, or may not be made yet: with the cached JWT if the failure is
// transient and the JWT still usable, else with the error.
func (s *slot) staleIfError(now time.Time, err error) (served, error) {
	if failed := (*console.Error)(nil); errors.As(err, &failed) && failed.Transient() && s.usable(now) {
		return served{Token: *s.token, stale: failed.Error()}, nil
	}
	return served{}, err
}

// forget drops the JWT under key for good, in memory and in storage, and with it those that the same path's credential
// got at other URLs: config may name one of these again. The wait after a failure goes on, and an exchange under way is
// given to those who wait for it only.
func (c *tokenCache) forget(ctx context.Context, key tokenKey) error {
	c.mu.Lock()
	forgotten := c.slot(key)
	for other, s := range c.slots {
		if other.Path == key.Path {
			s.forget()
		}
	}
	c.mu.Unlock()
	if err := c.persist(ctx, key, forgotten); err != nil {
		return err
	}
	return c.tidy(ctx, key.Path)
}

func (s *slot) forget() {
	s.epoch++
	s.token, s.loaded, s.unsaved, s.forgottenAt = nil, true, true, time.Now()
	// At most one superseded exchange may run; if there already is one, later readers wait for the current exchange.
	if s.superseded == nil {
		s.superseded, s.flight = s.flight, nil
	}
}

// keepOnly drops what is in memory for a path under other keys than current; nil: under all. An exchange under way is
// stopped unless someone waits for it.
func (c *tokenCache) keepOnly(path string, current *tokenKey) {
	c.drop(c.keys(path), current)
}

// keys lists the keys of the slots of a path.
func (c *tokenCache) keys(path string) []tokenKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []tokenKey
	for key := range c.slots {
		if key.Path == path {
			keys = append(keys, key)
		}
	}
	return keys
}

// drop drops the slots of these keys, except that of current.
func (c *tokenCache) drop(keys []tokenKey, current *tokenKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		s := c.slots[key]
		if s == nil || current != nil && key == *current {
			continue
		}
		for _, f := range []*flight{s.flight, s.superseded} {
			if f != nil && f.waiting == 0 {
				f.cancel()
			}
		}
		delete(c.slots, key)
	}
}

// verified records that an exchange elsewhere has shown that the credential works.
func (c *tokenCache) verified(key tokenKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.slots[key]; s != nil {
		s.recover()
	}
}

// put caches a JWT from an exchange elsewhere. It goes to storage only, where the first reader finds it; if
// that fails, or the credential has been read already, to memory.
func (c *tokenCache) put(ctx context.Context, key tokenKey, token console.Token) {
	// A reader that came while it was saved may have looked too early.
	if !c.has(key) && c.save(ctx, key, token) == nil && !c.has(key) {
		return
	}
	c.mu.Lock()
	s := c.slot(key)
	s.cache(token)
	s.unsaved = true
	c.mu.Unlock()
	_ = c.persist(ctx, key, s) // the sweep tries again
}

// has reports whether anything is known of a credential.
func (c *tokenCache) has(key tokenKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.slots[key] != nil
}

// refuse records that Snowplow refused the credential under key in an exchange elsewhere.
func (c *tokenCache) refuse(ctx context.Context, key tokenKey, failed *console.Error) {
	c.mu.Lock()
	s := c.slot(key)
	c.noteFailure(s, c.begun, failed)
	c.mu.Unlock()
	_ = c.persist(ctx, key, s) // the sweep tries again
}

// endWaits ends the waits after failures of the credentials stored at path, or of all if path is empty. The last
// failure is kept, so that readers with a cached JWT do not wait for the next try.
func (c *tokenCache) endWaits(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, s := range c.slots {
		if path == "" || key.Path == path {
			s.notBefore = time.Time{}
		}
	}
}

// nextAttempt returns when the credential under key may be tried again.
func (c *tokenCache) nextAttempt(key tokenKey) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.slots[key]; s != nil && time.Now().Before(s.notBefore) {
		return s.notBefore
	}
	return time.Now()
}

// tokenState is what status reports about a credential.
type tokenState struct {
	token     *console.Token // nil: none is cached
	failure   *console.Error // the last exchange's; nil: it succeeded, or there was none
	usable    bool           // the JWT may be served in place of a new one
	stale     bool           // readers get a JWT that is older than they accept
	notBefore time.Time      // the next attempt; zero: at the next read
}

// state looks at what is cached under key.
func (c *tokenCache) state(ctx context.Context, key tokenKey, reuse time.Duration) (tokenState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slot(key)
	if err := c.loaded(ctx, key, s); err != nil {
		return tokenState{}, err
	}
	now := time.Now()
	state := tokenState{token: s.token, failure: s.failure}
	if s.token != nil && s.token.Remaining(now) <= 0 {
		state.token = nil
	}
	slow := s.flight != nil && now.Sub(s.flight.began) >= maxReaderWait
	state.usable = s.usable(now) || s.fresh(now, reuse)
	state.stale = s.usable(now) && !s.fresh(now, reuse) && (s.failing || slow)
	if now.Before(s.notBefore) {
		state.notBefore = s.notBefore
	}
	return state, nil
}

// sweep drops what has expired and what nobody can ask for, and stores what could not be stored before.
func (c *tokenCache) sweep(ctx context.Context) {
	defer c.dropIdle()
	for key, s := range c.expire() {
		if c.persist(ctx, key, s) != nil {
			return // storage fails: the next sweep tries again
		}
	}
	stored, err := c.store.paths(ctx)
	if err != nil {
		return
	}
	c.mu.Lock()
	for key := range c.slots {
		stored = append(stored, key.Path)
	}
	last := c.tidied
	c.mu.Unlock()
	slices.Sort(stored)
	stored = slices.Compact(stored)
	// Each look costs storage some calls, so a sweep takes some paths and the next one goes on behind them.
	begin, found := slices.BinarySearch(stored, last)
	if found {
		begin++
	}
	stored = slices.Concat(stored[begin:], stored[:begin])
	for _, path := range stored[:min(len(stored), maxTidied)] {
		_ = c.tidy(ctx, path) // one damaged entry must not keep the others from being looked at
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		c.tidied = path
		c.mu.Unlock()
	}
}

// expire drops the JWTs that have expired, and returns the slots whose stored copy is out of date.
func (c *tokenCache) expire() map[tokenKey]*slot {
	now := time.Now()
	unsaved := map[tokenKey]*slot{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, s := range c.slots {
		expired := s.token != nil && s.token.Remaining(now) <= 0
		if expired {
			s.token = nil
		}
		s.unsaved = s.unsaved || expired || s.token == nil && now.Sub(s.forgottenAt) < keepForgotten
		if s.unsaved {
			unsaved[key] = s
		}
	}
	return unsaved
}

// dropIdle drops the slots in which there is nothing to remember.
func (c *tokenCache) dropIdle() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, s := range c.slots {
		inUse := s.unsaved || s.token != nil || s.busy()
		remembered := s.failure != nil && now.Sub(s.failedAt) < keepFailure || now.Before(s.notBefore) ||
			now.Sub(s.forgottenAt) < keepForgotten
		if !inUse && !remembered {
			delete(c.slots, key)
		}
	}
}

// busy reports whether something is under way that must not lose its slot.
func (s *slot) busy() bool {
	return s.flight != nil || s.superseded != nil || s.loading != nil || s.private > 0
}

// tidy drops the JWTs of all but the current credential of a path, in memory and in storage.
func (c *tokenCache) tidy(ctx context.Context, path string) error {
	ctx, done, err := c.storing(ctx, path)
	if err != nil {
		return err
	}
	defer done()
	keys := c.keys(path) // slots made meanwhile may belong to a newer credential
	current, err := c.store.tidy(ctx, path)
	if err != nil {
		return err
	}
	c.drop(keys, current)
	return nil
}

// persist makes storage hold what memory holds of a slot. Readers never wait for it.
func (c *tokenCache) persist(ctx context.Context, key tokenKey, s *slot) error {
	ctx, done, err := c.storing(ctx, key.Path)
	if err != nil {
		return err
	}
	defer done()
	c.mu.Lock()
	s.storing = false
	token, needed := s.token, s.unsaved && c.slots[key] == s
	c.mu.Unlock()
	if !needed {
		return nil
	}
	doing := "storing"
	if token != nil {
		err = c.store.save(ctx, key, *token)
	} else {
		doing, err = "deleting", c.store.remove(ctx, key)
	}
	ok := c.stored(doing, key, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if ok && s.token == token {
		s.unsaved = false
	}
	return err
}

// save stores a JWT that is not in memory.
func (c *tokenCache) save(ctx context.Context, key tokenKey, token console.Token) error {
	ctx, done, err := c.storing(ctx, key.Path)
	if err != nil {
		return err
	}
	defer done()
	err = c.store.save(ctx, key, token)
	c.stored("storing", key, err)
	return err
}

// stored reports whether a storage call did what this node may do. It logs the first failure of a streak.
func (c *tokenCache) stored(doing string, key tokenKey, err error) bool {
	failed := err != nil && !errors.Is(err, errReadOnly) // a node that may not write serves tokens from memory
	c.mu.Lock()
	first := failed && !c.storeFailing[doing]
	c.storeFailing[doing] = failed
	c.mu.Unlock()
	if first && c.lifetime.Err() == nil {
		c.logger.Warn(doing+" a token in Vault's storage failed; the next sweep tries again", "path", key.Path, "error", err)
	}
	return !failed
}
