package snowplow

import (
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// stats counts what happened on one path, token or token/<role>, since the plugin started.
type stats struct {
	reads    atomic.Int64 // of a JWT, successful or not
	reused   atomic.Int64 // reads answered with a JWT from another read's exchange
	stale    atomic.Int64 // reads answered with a cached JWT because there was no newer one
	exchange exchangeStats
}

// exchangeStats counts the exchanges made for one path's readers.
type exchangeStats struct {
	mu sync.Mutex
	exchangeCounters
}

// exchangeCounters are the counters of exchangeStats.
type exchangeCounters struct {
	count         int64
	failures      map[console.Reason]int64
	duration      time.Duration // of all
	lastAt        time.Time
	lastDuration  time.Duration
	lastSuccessAt time.Time
	lastError     *console.Error
	lastErrorAt   time.Time
}

// exchanged notes one exchange that began at start. An error that is no *console.Error is of a reader that gave up, or
// of a mount that ended.
func (s *exchangeStats) exchanged(start time.Time, duration time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	s.duration += duration
	s.lastAt, s.lastDuration = start, duration
	var failed *console.Error
	switch {
	case errors.As(err, &failed):
		if s.failures == nil {
			s.failures = map[console.Reason]int64{}
		}
		s.failures[failed.Reason]++
		s.lastError, s.lastErrorAt = failed, start.Add(duration)
	case err == nil:
		s.lastSuccessAt = start.Add(duration)
	}
}

// answered notes one read that was given a JWT.
func (s *stats) answered(exchanged, stale bool) {
	switch {
	case stale:
		s.stale.Add(1)
	case !exchanged:
		s.reused.Add(1)
	}
}

// readable returns the fields of status that are counted.
func (s *stats) readable() map[string]any {
	e := s.exchange.snapshot()
	var failures int64
	for _, count := range e.failures {
		failures += count
	}
	lastError := ""
	if e.lastError != nil {
		lastError = e.lastError.Error()
	}
	return map[string]any{
		"reads":                     s.reads.Load(),
		"reused":                    s.reused.Load(),
		"stale":                     s.stale.Load(),
		"exchanges":                 e.count,
		"exchange_failures":         failures,
		"last_exchange_at":          timestamp(e.lastAt),
		"last_exchange_duration_ms": e.lastDuration.Milliseconds(),
		"last_success_at":           timestamp(e.lastSuccessAt),
		"last_error":                lastError,
		"last_error_at":             timestamp(e.lastErrorAt),
	}
}

// snapshot returns the counters as they are now.
func (s *exchangeStats) snapshot() exchangeCounters {
	s.mu.Lock()
	defer s.mu.Unlock()
	counters := s.exchangeCounters
	counters.failures = maps.Clone(s.failures)
	return counters
}

// timestamp writes a time as answers do: RFC 3339 in UTC, nil for none.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}
