package snowplow

import (
	"sync"
	"sync/atomic"
	"time"
)

// stats counts what happened on one path, token or token/<role>, since the plugin started.
type stats struct {
	reads    atomic.Int64 // of a JWT, whatever came of them
	reused   atomic.Int64 // reads answered with a JWT that another read's exchange brought
	stale    atomic.Int64 // reads answered with a kept JWT because no newer one could be had
	exchange exchangeStats
}

// exchangeStats is what the exchanges made for one path's readers came to.
type exchangeStats struct {
	mu           sync.Mutex
	count        int64
	failures     int64
	lastAt       time.Time
	lastDuration time.Duration
	lastError    string
	lastErrorAt  time.Time
}

// exchanged notes one exchange that began at start; failed is nil if it did not fail.
func (s *exchangeStats) exchanged(start time.Time, duration time.Duration, failed *failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	s.lastAt, s.lastDuration = start, duration
	if failed != nil {
		s.failures++
		s.lastError, s.lastErrorAt = failed.Error(), start.Add(duration)
	}
}

// answered notes one read that was given a JWT.
func (s *stats) answered(i issued) {
	switch {
	case i.stale != nil:
		s.stale.Add(1)
	case !i.exchanged:
		s.reused.Add(1)
	}
}

// readable is the fields of status.
func (s *stats) readable() map[string]any {
	e := &s.exchange
	e.mu.Lock()
	defer e.mu.Unlock()
	return map[string]any{
		"reads":                     s.reads.Load(),
		"reused":                    s.reused.Load(),
		"stale":                     s.stale.Load(),
		"exchanges":                 e.count,
		"exchange_failures":         e.failures,
		"last_exchange_at":          timestamp(e.lastAt),
		"last_exchange_duration_ms": e.lastDuration.Milliseconds(),
		"last_error":                e.lastError,
		"last_error_at":             timestamp(e.lastErrorAt),
	}
}

// timestamp is how answers write a time: RFC 3339 in UTC, nil where there is none.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}
