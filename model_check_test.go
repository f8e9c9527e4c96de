package snowplow

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// What the model holds the engine to. Times are fake, so an effect that takes no time has happened at any later time.
// At the same time the order is open, except between requests that began after others had ended.

// modelCredential is one credential as JWTs belong to it.
type modelCredential struct{ path, id, key, organization, url string }

// modelView is what a read may have found in storage.
type modelView struct {
	credential          modelCredential
	usable              bool // it exists, and may go to the URL
	reuse, ttl, timeout time.Duration
}

type modelMoment struct {
	tick int64
	at   time.Time
}

func (r *modelRun) start() modelMoment { return modelMoment{r.began, r.beganAt} }
func (r *modelRun) end() modelMoment   { return modelMoment{r.ended, r.endedAt} }
func (r *modelRun) took() time.Duration {
	return r.endedAt.Sub(r.beganAt)
}

// overlaps reports whether two stretches of time have a moment in common, ends included.
func overlaps(from1, to1, from2, to2 time.Time) bool { return !from1.After(to2) && !from2.After(to1) }

func (r *modelRun) overlaps(from, to time.Time) bool { return overlaps(r.beganAt, r.endedAt, from, to) }

func (e *modelExchange) overlaps(from, to time.Time) bool {
	return overlaps(e.beganAt, e.endedAt, from, to)
}

func (e *modelExchange) credential() modelCredential {
	return modelCredential{e.path, e.id, e.key, e.organization, e.url}
}

// sameKey reports whether both exchanged the same key at the same place, whenever it was written.
func (e *modelExchange) sameKey(other *modelExchange) bool {
	return e.path == other.path && e.key == other.key && e.organization == other.organization && e.url == other.url
}

func (e *modelExchange) failed() bool {
	return e.outcome == "passing" || e.outcome == "refused" || e.outcome == "rejected"
}

// originOf returns scheme, host and port of one of the model's URLs, or of the default one.
func originOf(url string) string {
	if url == console.DefaultConsoleURL {
		return url + ":443"
	}
	return strings.TrimSuffix(url, "/a")
}

func viewOf(path string, config *configEntry, role *roleEntry) modelView {
	if config == nil || path != "token" && role == nil {
		return modelView{}
	}
	v := modelView{reuse: config.ReusePeriod, ttl: config.TTL, timeout: config.RequestTimeout}
	cred, at := config.Credential, configStorageKey
	if role != nil {
		if role.Credential != nil {
			cred, at = *role.Credential, credentialPath(path)
		}
		if role.ReusePeriod != nil {
			v.reuse = *role.ReusePeriod
		}
		if role.TTL != nil {
			v.ttl = *role.TTL
		}
	}
	v.credential = modelCredential{at, cred.ID, cred.APIKeyID.Reveal(), config.Credential.OrganizationID, config.ConsoleURL}
	v.usable = !cred.Empty() && cred.WrittenFor == originOf(config.ConsoleURL)
	return v
}

// seenBy is when a version was certainly in effect: once its request was answered, or the mount loaded anew.
func seenBy[T any](m *model, v modelVersion[T]) int64 {
	if v.by == nil {
		return v.began
	}
	by := v.by.ended
	for _, l := range m.loads {
		if l.ended > v.began {
			by = min(by, l.ended)
		}
	}
	return by
}

// admissible returns the versions that a request between two ticks may have found.
func admissible[T any](m *model, versions []modelVersion[T], from, to int64) []*T {
	var found []*T
	for i := len(versions) - 1; i >= 0; i-- {
		if versions[i].began < to {
			found = append(found, versions[i].entry)
			if seenBy(m, versions[i]) < from {
				break
			}
		}
	}
	return found
}

func (m *model) viewsOf(r *modelRun) []modelView {
	roles := []*roleEntry{nil}
	if r.path != "token" {
		roles = admissible(m, m.roles[credentialPath(r.path)], r.began, r.ended)
	}
	var views []modelView
	for _, config := range admissible(m, m.configs, r.began, r.ended) {
		for _, role := range roles {
			views = append(views, viewOf(r.path, config, role))
		}
	}
	return views
}

// only returns the credential that a read must have used, if that is certain.
func (r *modelRun) only() (modelCredential, bool) {
	for _, v := range r.views {
		if !v.usable || v.credential != r.views[0].credential {
			return modelCredential{}, false
		}
	}
	return r.views[0].credential, true
}

func (r *modelRun) reuse() (least, most time.Duration) {
	least = r.views[0].reuse
	for _, v := range r.views {
		least, most = min(least, v.reuse), max(most, v.reuse)
	}
	return least, most
}

// stable reports whether storage has held this very credential, and no other, from one tick to another.
func (m *model) stable(c modelCredential, from, to int64) bool {
	read := "token"
	if role, isRole := strings.CutPrefix(c.path, roleStoragePrefix); isRole {
		read = "token/" + role
	}
	roles := m.roles[c.path]
	if read == "token" {
		roles = []modelVersion[roleEntry]{{}}
	}
	for i, config := range m.configs {
		for j, role := range roles {
			began, until := max(config.began, role.began), to+1
			if i+1 < len(m.configs) {
				until = min(until, m.configs[i+1].began)
			}
			if j+1 < len(roles) {
				until = min(until, roles[j+1].began)
			}
			if began < until && began <= to && until > from && viewOf(read, config.entry, role.entry).credential != c {
				return false
			}
		}
	}
	return true
}

// idWritten returns the tick at which the write of a credential began, by its ID.
func (m *model) idWritten(path, id string) int64 {
	if path == configStorageKey {
		for _, v := range m.configs {
			if v.entry != nil && v.entry.Credential.ID == id && v.by != nil {
				return v.by.began
			}
		}
	}
	for _, v := range m.roles[path] {
		if v.entry != nil && v.entry.Credential != nil && v.entry.Credential.ID == id && v.by != nil {
			return v.by.began
		}
	}
	return 0
}

// idsOf returns the IDs of the credentials that an exchange may have been made with.
func (m *model) idsOf(e *modelExchange) []string {
	ids := map[string]bool{}
	for _, v := range m.configs {
		if c := v.entry; e.path == configStorageKey && c != nil && c.Credential.APIKeyID.Reveal() == e.key && c.Credential.OrganizationID == e.organization &&
			c.ConsoleURL == e.url && v.by.began < e.began && (e.write == nil || e.write == v.by) {
			ids[c.Credential.ID] = true
		}
	}
	for _, v := range m.roles[e.path] {
		if v.entry != nil && v.entry.Credential != nil && v.entry.Credential.APIKeyID.Reveal() == e.key && v.by.began < e.began && (e.write == nil || e.write == v.by) {
			ids[v.entry.Credential.ID] = true
		}
	}
	return slices.Collect(maps.Keys(ids))
}

// trouble reports whether storage was out of order between two times, or may have had something left to repair.
func (m *model) trouble(from, to time.Time) bool {
	return slices.ContainsFunc(m.troubled, func(s modelSpan) bool { return overlaps(s.from, s.to.Add(30*time.Second), from, to) })
}

// judge works out what an exchange came to.
func (m *model) judge(e *modelExchange) {
	last := e.last()
	disturbed := m.loads[e.load].ended != 0 && !e.endedAt.Before(m.loads[e.load].endedAt)
	for _, r := range m.runs {
		switch {
		case r == e.write:
		case r.kind == "read":
			disturbed = disturbed || e.maybePrivate && r.impatient && r.endedAt.Equal(e.endedAt)
		case r.reached && r.kind != "forget" && r.kind != "sweep" && r.kind != "status":
			disturbed = disturbed || r.overlaps(e.endedAt, e.endedAt)
		}
	}
	e.retryAfter = last.outcome.retryAfter
	switch {
	case e.timedOut && !last.answered:
		e.outcome, e.retryAfter = "passing", 0
	case !last.answered:
		e.outcome = "canceled"
	case e.timedOut || disturbed:
		e.outcome = "unsure"
	case last.outcome.kind == "ok" && last.outcome.validity < last.outcome.latency+5*time.Second:
		e.outcome = "unsure" // perhaps expired on arrival
	case last.outcome.kind == "ok":
		e.outcome = "ok"
		e.validityAtLeast = e.expiresAt.Sub(e.endedAt) - last.outcome.latency - time.Second
	case last.outcome.kind == "refused":
		e.outcome = "refused"
	case last.outcome.kind == "unknown":
		e.outcome = "rejected"
	default:
		e.outcome = "passing"
	}
}

// lastServed is the age up to which a JWT of some validity may be served as fresh.
func modelLastServed(validity time.Duration) time.Duration {
	return validity - max(time.Second, min(time.Minute, validity/5))
}

// certainlyFresh reports whether a JWT must count as fresh for a reader who accepts an age of reuse.
func (e *modelExchange) certainlyFresh(at time.Time, reuse time.Duration) bool {
	age := at.Sub(e.endedAt)
	return e.outcome == "ok" && age < reuse && age <= modelLastServed(e.validityAtLeast)
}

func (e *modelExchange) certainlyUsable(at time.Time) bool {
	return e.outcome == "ok" && e.validityAtLeast-at.Sub(e.endedAt) >= time.Minute
}

// cachedAt is when an exchange's JWT was certainly in the cache.
func (e *modelExchange) cachedAt() time.Time {
	if e.write != nil {
		return e.write.endedAt
	}
	return e.endedAt
}

// cached returns the exchange whose usable JWT the engine certainly has at hand, in the given load, from one moment to
// another; nil: none is certain.
func (m *model) cached(c modelCredential, load int, from, to modelMoment) *modelExchange {
	e, slow := m.cachedOrLoading(c, load, from, to)
	if slow >= time.Second { // readers do not wait for it any longer
		return nil
	}
	return e
}

// cachedOrLoading does cached's work, also where storage takes so long that readers go on without, and returns how long
// it may take to fetch the JWT from storage.
func (m *model) cachedOrLoading(c modelCredential, load int, from, to modelMoment) (*modelExchange, time.Duration) {
	var e *modelExchange
	for _, other := range m.exchanges {
		if other.path != c.path || other.key != c.key || other.outcome != "ok" && other.outcome != "unsure" || other.certainlyUncached {
			continue
		}
		if other.write != nil && (other.id == "" || other.write.err != "") {
			continue // nothing was stored, so nothing is cached
		}
		if !other.cachedAt().Before(from.at) {
			if !other.beganAt.After(to.at) && !other.certainlyUsable(to.at.Add(time.Minute)) {
				return nil, 0 // a JWT that does not last may have come meanwhile
			}
			if other.write != nil && other.endedAt.Before(to.at) {
				return nil, 0
			}
			continue
		}
		if e == nil || other.cachedAt().After(e.cachedAt()) {
			e = other
		}
	}
	if e == nil || e.id == "" || e.credential() != c || e.maybePrivate || !e.certainlyUsable(to.at) || m.forgottenOrRefused(e, to) {
		return nil, 0
	}
	since := e.began
	if e.write != nil {
		since = m.appliedBy(e.write)
		for _, other := range m.exchanges {
			if other != e && other.sameKey(e) && other.overlaps(e.write.beganAt, e.write.endedAt) {
				return nil, 0
			}
		}
	}
	if !m.stable(c, since, to.tick) {
		return nil, 0
	}
	// A reader from before this credential was out of force for a while does not cache what it gets.
	if slices.ContainsFunc(m.runs, func(r *modelRun) bool {
		return r.kind == "read" && r.load == e.load && r.overlaps(e.beganAt, e.beganAt) && m.stable(c, r.began, r.began) && !m.stable(c, r.began, since)
	}) {
		return nil, 0
	}
	inMemory := e.load == load && e.write == nil
	survived := e.load == load || m.loads[e.load].endedAt.After(e.cachedAt())
	if inMemory || survived && !m.trouble(e.endedAt, to.at) {
		return e, 0
	}
	return m.cachedInStorage(e, load, from, to)
}

// cachedInStorage does cached's work for a JWT from before a restart, in times when storage was out of order: then it
// is at hand if storage holds it, and can be read.
func (m *model) cachedInStorage(e *modelExchange, load int, from, to modelMoment) (*modelExchange, time.Duration) {
	var at *modelVersion[tokenEntry]
	for i, v := range m.tokens[e.path] {
		if v.began < to.tick {
			at = &m.tokens[e.path][i]
		}
	}
	if e.load >= load || at == nil || at.entry == nil || at.began > m.loads[load].began || at.entry.Token.Bearer.Reveal() != e.bearer ||
		at.entry.Key.CredentialID != e.id || !at.entry.Token.ObtainedAt.Equal(e.endedAt) {
		return nil, 0
	}
	var slow time.Duration
	for _, s := range m.troubled {
		if !overlaps(s.from, s.to.Add(storeTimeout), from.at, to.at) {
			continue
		}
		if s.faults.failing["get"] > 0 || s.faults.failing["settings get"] > 0 || s.faults.slow["get"] >= storeTimeout {
			return nil, 0
		}
		slow = max(slow, s.faults.slow["get"])
	}
	return e, slow
}

// forgottenOrRefused reports whether a JWT may have been dropped before a moment.
func (m *model) forgottenOrRefused(e *modelExchange, before modelMoment) bool {
	for _, r := range m.runs {
		if r.kind == "forget" && credentialPath(r.path) == e.path && r.overlaps(e.beganAt, before.at) {
			return true
		}
	}
	return slices.ContainsFunc(m.exchanges, func(f *modelExchange) bool {
		last := f.last() // whether it was noted may be open
		return f.path == e.path && f.key == e.key && last.answered && last.outcome.kind == "refused" && f.overlaps(e.beganAt, before.at)
	})
}

// appliedBy returns the tick at which a write changed storage.
func (m *model) appliedBy(write *modelRun) int64 {
	for _, v := range m.configs {
		if v.by == write {
			return v.began
		}
	}
	for _, versions := range m.roles {
		for _, v := range versions {
			if v.by == write {
				return v.began
			}
		}
	}
	return 0
}

// waitEnded reports whether something that may end a wait after a failure of this credential happened between two times.
func (m *model) waitEnded(path string, from, to time.Time) bool {
	return slices.ContainsFunc(m.runs, func(r *modelRun) bool {
		changes := !slices.Contains([]string{"read", "forget", "sweep", "status", "damage", "future"}, r.kind)
		return changes && (r.path == configStorageKey || r.path == path) && (r.reached || m.appliedBy(r) != 0) && r.overlaps(from, to)
	})
}

// explains reports whether the wait after failure f may have kept a read of c from a new exchange.
func (m *model) explains(f *modelExchange, c modelCredential, r *modelRun) bool {
	return (f.failed() || f.outcome == "unsure") && f.load == r.load && f.path == c.path && f.key == c.key &&
		!f.endedAt.After(r.endedAt) && !f.endedAt.Add(f.maxWait).Before(r.beganAt) &&
		!slices.ContainsFunc(m.runs, func(w *modelRun) bool {
			ends := w.err == "" && (w.data != nil || strings.HasPrefix(w.kind, "replicated")) && (w.path == configStorageKey || w.path == c.path)
			return ends && w.load == r.load && w.beganAt.After(f.endedAt) && w.endedAt.Before(r.beganAt)
		}) &&
		!slices.ContainsFunc(m.exchanges, func(s *modelExchange) bool {
			return s.outcome == "ok" && s.write == nil && s.load == f.load && s.id != "" && s.id == f.id && s.sameKey(f) && s.endedAt.Before(r.beganAt) &&
				s.beganAt.After(f.endedAt)
		})
}

// check holds all that was seen against the contract.
func (m *model) check() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var reads []*modelRun
	for _, r := range m.runs {
		if r.kind == "read" {
			r.views = m.viewsOf(r)
			reads = append(reads, r)
			if r.got != nil {
				r.got.servedTo = append(r.got.servedTo, r)
			}
		}
	}
	for _, e := range m.exchanges {
		if ids := m.idsOf(e); len(ids) == 1 {
			e.id = ids[0]
		}
		m.markPrivate(e, reads)
	}
	for _, e := range m.exchanges {
		m.judge(e)
	}
	m.workOutWaits()
	for _, r := range reads {
		if !r.lost {
			m.checkRead(r)
		}
	}
	m.checkExchanges(reads)
	m.checkWrites()
	m.checkStored()
	m.checkOthers()
	m.checkCounters()
	if logs := m.mount.logs.String(); strings.Contains(logs, modelSecret) || strings.Contains(logs, modelJWT) {
		m.violation("leak", "a secret is in the log")
	}
}

// markPrivate finds out whether an exchange was for a reader with reuse_period=0.
func (m *model) markPrivate(e *modelExchange, reads []*modelRun) {
	if e.write != nil {
		e.certainlyUncached = slices.ContainsFunc(m.configs, func(v modelVersion[configEntry]) bool {
			return v.by == e.write && v.entry != nil && v.entry.ReusePeriod == 0
		})
		e.maybePrivate = e.certainlyUncached || e.path != configStorageKey && slices.ContainsFunc(m.configs, func(v modelVersion[configEntry]) bool {
			return v.entry != nil && v.entry.ReusePeriod == 0
		}) || slices.ContainsFunc(m.roles[e.path], func(v modelVersion[roleEntry]) bool {
			return v.entry != nil && v.entry.ReusePeriod != nil && *v.entry.ReusePeriod == 0
		})
		return
	}
	shared := false
	for _, r := range reads {
		if r.load != e.load || !r.overlaps(e.beganAt, e.beganAt) {
			continue
		}
		for _, v := range r.views {
			if v.usable && v.credential.path == e.path {
				e.maybePrivate = e.maybePrivate || v.reuse == 0
				shared = shared || v.reuse != 0
			}
		}
	}
	e.certainlyUncached = e.maybePrivate && !shared
}

// workOutWaits computes after each failure how long the engine must wait at least, and may wait at most.
func (m *model) workOutWaits() {
	for _, f := range m.exchanges {
		if !f.failed() && f.outcome != "unsure" {
			continue
		}
		hint := min(f.retryAfter, 5*time.Minute)
		switch f.outcome {
		case "refused", "rejected":
			f.minWait, f.maxWait = max(10*time.Second, hint), max(10*time.Second, hint)
			continue
		case "unsure":
			f.maxWait = max(72*time.Second, hint)
			continue
		}
		usable := m.cached(f.credential(), f.load, modelMoment{f.ended, f.endedAt}, modelMoment{f.ended, f.endedAt})
		limit := 10 * time.Second
		if usable != nil {
			limit = time.Minute
		}
		wait := min(limit, time.Second<<min(10, m.failuresBefore(f)))
		f.minWait = max(wait*8/10, hint)
		limit = min(time.Minute, time.Second<<min(10, m.failuresAtMost(f)))
		if !slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool { return e.path == f.path && e.bearer != "" && e.began < f.ended }) {
			limit = min(limit, 10*time.Second) // there never was a JWT
		}
		f.maxWait = max(limit*12/10, hint)
	}
}

// failuresBefore returns how many passing failures in a row certainly came before f.
func (m *model) failuresBefore(f *modelExchange) int {
	count := 0
	for at := f; ; count++ {
		var before *modelExchange
		for _, e := range m.exchanges {
			if e.write == nil && e.load == f.load && e.sameKey(f) && e.endedAt.Before(at.beganAt) && (before == nil || e.endedAt.After(before.endedAt)) {
				before = e
			}
		}
		if before == nil || before.outcome != "passing" || before.id != f.id || before.endedAt.Add(keepFailure).Before(at.beganAt) ||
			m.waitEnded(f.path, before.endedAt, at.endedAt) || !m.stable(f.credential(), before.began, f.ended) {
			return count
		}
		// Another one beside them may have succeeded.
		if slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool {
			return e != before && e != at && e.sameKey(f) && e.overlaps(before.beganAt, at.endedAt) && e.outcome != "passing"
		}) {
			return count
		}
		at = before
	}
}

// failuresAtMost returns how many passing failures in a row may have come before f.
func (m *model) failuresAtMost(f *modelExchange) int {
	var ended []*modelExchange
	for _, e := range m.exchanges {
		if e.write == nil && e.load == f.load && e.path == f.path && e.key == f.key && e != f && !e.endedAt.After(f.endedAt) {
			ended = append(ended, e)
		}
	}
	slices.SortStableFunc(ended, func(a, b *modelExchange) int { return a.endedAt.Compare(b.endedAt) })
	count := 0
	var noted time.Time
	for _, e := range ended {
		switch {
		case e.outcome == "ok" && e.beganAt.After(noted) && e.id == f.id && e.sameKey(f) && e.endedAt.Before(f.beganAt):
			count = 0
		case e.outcome == "passing" || e.outcome == "unsure":
			if !e.beganAt.Before(noted) { // of parallel ones only the first counts
				count++
				noted = e.endedAt
			}
		}
	}
	if f.beganAt.Before(noted) {
		count--
	}
	return max(0, count)
}

// checkRead holds one read against the contract.
func (m *model) checkRead(r *modelRun) {
	for _, text := range []string{r.err, r.warning} {
		if strings.Contains(text, modelSecret) || strings.Contains(text, modelJWT) {
			m.violation("leak", "%s", r)
		}
	}
	if r.impatient && r.took() > max(0, r.duration) {
		m.violation("reader-held", "%s, though it wanted to leave after %s", r, r.duration)
	}
	if r.got == nil {
		m.checkRefusedRead(r)
	} else {
		m.checkServed(r, r.got)
	}
	m.checkWait(r)
	m.checkRetried(r)
}

// checkServed holds a JWT that was served against the contract.
func (m *model) checkServed(r *modelRun, e *modelExchange) {
	if !slices.ContainsFunc(r.views, func(v modelView) bool {
		c := v.credential
		return v.usable && c.path == e.path && c.key == e.key && c.organization == e.organization && c.url == e.url && e.began > m.idWritten(c.path, c.id)
	}) {
		m.violation("wrong-credential", "%s, of %s; it may be served that of %+v", r, e, r.views)
	}
	if r.answer["console_url"] != e.url || r.answer["organization_id"] != e.organization || r.answer["expires_at"] != timestamp(e.expiresAt) {
		m.violation("wrong-answer", "%s, but the answer says %v %v %v", r, r.answer["console_url"], r.answer["organization_id"], r.answer["expires_at"])
	}
	if left := e.expiresAt.Sub(r.endedAt); r.lease > left || r.lease < time.Second {
		m.violation("lease", "%s: a lease of %s, and the JWT is valid for %s", r, r.lease, left)
	}
	if !slices.ContainsFunc(r.views, func(v modelView) bool { return v.ttl == 0 || r.lease <= v.ttl }) {
		m.violation("ttl", "%s: a lease of %s", r, r.lease)
	}
	m.checkForgotten(r, e)
	m.checkRefusal(r, e)
	least, most := r.reuse()
	age := r.endedAt.Sub(e.endedAt)
	if r.load >= e.aheadIn && e.ahead > 0 {
		// A clock that was ahead cannot be told later, but as long as the JWT is from the future.
		if r.load > e.aheadIn && age < e.ahead-maxClockSkew {
			m.violation("from-the-future", "%s: obtained in %s", r, e.ahead-age)
		}
		age -= e.ahead
	}
	if r.warning == "" && e.endedAt.Before(r.beganAt) && age >= most {
		m.violation("too-old", "%s: %s old, without a warning", r, age)
	}
	if most == 0 && r.warning == "" && (e.began < r.began || len(e.servedTo) > 1) {
		m.violation("shared-without-reuse", "%s, of %s, served to %d", r, e, len(e.servedTo))
	}
	if r.warning != "" {
		m.checkStale(r, e, least)
	}
	m.checkRefreshedAhead(r, e, most)
}

func (m *model) checkStale(r *modelRun, e *modelExchange, reuse time.Duration) {
	if left := e.expiresAt.Sub(r.endedAt); left < time.Minute {
		m.violation("stale-too-long", "%s: valid for %s", r, left)
	}
	if e.certainlyFresh(r.endedAt, reuse) {
		m.violation("fresh-called-stale", "%s: %s old", r, r.endedAt.Sub(e.endedAt))
	}
	slow := strings.Contains(r.warning, "not answered within 2s")
	if !slices.ContainsFunc(m.exchanges, func(f *modelExchange) bool {
		if f.load != r.load || f.write != nil || !f.sameKey(e) {
			return false
		}
		if slow {
			return !f.beganAt.Add(2*time.Second).After(r.endedAt) && !f.endedAt.Before(r.endedAt)
		}
		overcome := slices.ContainsFunc(m.exchanges, func(s *modelExchange) bool {
			return s.load == f.load && s.sameKey(f) && s.outcome == "ok" && s.write == nil && s.id == f.id && s.beganAt.After(f.endedAt) && s.endedAt.Before(r.beganAt)
		})
		return (f.outcome == "passing" || f.outcome == "unsure") && !f.endedAt.After(r.endedAt) && !overcome
	}) {
		m.violation("stale-without-reason", "%s", r)
	}
	if c, certain := r.only(); certain && !slow && !m.tried(c, r) {
		m.violation("not-tried-again", "%s: no exchange was made, and no wait explains it", r)
	}
}

// tried reports whether an exchange of c was under way during a read, or the engine had to wait.
func (m *model) tried(c modelCredential, r *modelRun) bool {
	return slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool {
		if e.path != c.path || e.key != c.key {
			return false
		}
		return e.write == nil && e.overlaps(r.beganAt, r.endedAt) || m.explains(e, c, r)
	})
}

// checkForgotten finds a JWT that was forgotten before the read began.
func (m *model) checkForgotten(r *modelRun, e *modelExchange) {
	for _, f := range m.runs {
		if f.kind != "forget" || credentialPath(f.path) != e.path || f.lost || f.ended > r.began || f.began < e.began {
			continue
		}
		untilRestart := strings.Contains(f.err, "forgotten until a restart")
		if f.err != "" && (!untilRestart || f.load != r.load) {
			continue
		}
		// A write at the same time counts as the later of the two.
		if !slices.ContainsFunc(m.runs, func(w *modelRun) bool {
			return w.data != nil && (w.path == e.path || w.path == configStorageKey) && w.began < f.ended && w.ended > f.began
		}) {
			m.violation("forgotten-came-back", "%s, of %s, after %s", r, e, f)
		}
	}
}

// checkRefusal finds a JWT of a key that Snowplow had refused since.
func (m *model) checkRefusal(r *modelRun, e *modelExchange) {
	for _, f := range m.exchanges {
		if f.outcome != "refused" || !f.sameKey(e) || e.id == "" || !f.endedAt.Before(r.beganAt) || !e.endedAt.Before(f.endedAt) ||
			!m.stable(e.credential(), min(e.began, f.began), r.ended) {
			continue
		}
		if l := m.loads[f.load]; f.load != r.load && (!f.endedAt.Before(l.endedAt) || m.trouble(f.endedAt, l.endedAt)) {
			continue // storage may not have heard of it
		}
		if f.write != nil && f.write.lost {
			continue
		}
		m.violation("refused-key-served", "%s, of %s, after %s", r, e, f)
	}
}

// checkRefreshedAhead demands an exchange in the background once a JWT is fresh for a little longer only.
func (m *model) checkRefreshedAhead(r *modelRun, e *modelExchange, reuse time.Duration) {
	c, certain := r.only()
	k := m.cached(c, r.load, r.start(), r.end())
	if !certain || k != e || r.warning != "" || e.write != nil && e.load != r.load {
		return
	}
	age := r.endedAt.Sub(e.endedAt)
	if float64(age) >= 0.9*float64(min(reuse, modelLastServed(e.expiresAt.Sub(e.endedAt)))) && !m.tried(c, r) {
		m.violation("not-refreshed-ahead", "%s: %s old", r, age)
	}
}

// checkRefusedRead asks why a read got no JWT.
func (m *model) checkRefusedRead(r *modelRun) {
	switch {
	case strings.Contains(r.err, errModelTokens.Error()), strings.Contains(r.err, errModelCut.Error()):
		m.violation("storage-fails-a-read", "%s", r)
		return
	case r.impatient, strings.Contains(r.err, errModelSettings.Error()):
		return
	case strings.Contains(r.err, "context"):
		m.violation("anothers-context", "%s", r)
		return
	case slices.ContainsFunc(r.views, func(v modelView) bool { return !v.usable }):
		return
	}
	c, certain := r.only()
	if !certain {
		return
	}
	if !slices.ContainsFunc(m.exchanges, func(f *modelExchange) bool { return m.explains(f, c, r) }) {
		m.violation("error-without-reason", "%s", r)
	}
}

// checkWait holds how long a read took against the contract.
func (m *model) checkWait(r *modelRun) {
	c, certain := r.only()
	least, _ := r.reuse()
	if !certain || strings.Contains(r.err, errModelSettings.Error()) {
		return
	}
	var longest time.Duration
	for _, config := range m.configs {
		if config.entry != nil {
			longest = max(longest, config.entry.RequestTimeout)
		}
	}
	if r.took() > 2*longest+time.Second {
		m.violation("too-long", "%s", r)
	}
	if storage := r.beganAt.Add(time.Second); r.endedAt.After(storage) && !slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool {
		return e.write == nil && e.path == c.path && e.key == c.key && e.overlaps(r.beganAt, storage)
	}) {
		m.violation("waited-for-storage", "%s", r)
	}
	if least != 0 {
		m.checkArrival(r, c)
	}
	k, load := m.cachedOrLoading(c, r.load, r.start(), r.end())
	if k == nil || least == 0 {
		return
	}
	if r.err != "" && load < time.Second && !r.impatient && !slices.ContainsFunc(m.exchanges, func(f *modelExchange) bool {
		return f.outcome != "ok" && f.outcome != "passing" && f.path == c.path && f.key == c.key && !f.endedAt.After(r.endedAt) && !f.endedAt.Add(f.maxWait).Before(r.beganAt)
	}) {
		m.violation("failed-with-usable-JWT", "%s, though that of %s is there", r, k)
	}
	bound, why := 2*time.Second, "waited-with-usable-JWT"
	switch f := m.lastFailed(c, r); {
	case k.certainlyFresh(r.endedAt, least):
		bound, why = 0, "waited-with-fresh-JWT"
	case f != nil:
		bound, why = 0, "waited-in-outage"
	}
	for _, e := range m.exchanges {
		if e.write == nil && e.load == r.load && e.id == c.id && e.sameKey(k) && !e.maybePrivate && e.began > k.began && e.beganAt.Before(r.beganAt) && e.endedAt.After(r.beganAt) {
			bound = min(bound, max(0, e.beganAt.Add(2*time.Second).Sub(r.beganAt)))
		}
	}
	if r.took() > bound+load {
		m.violation(why, "%s, though that of %s is there", r, k)
	}
}

// checkArrival demands that a reader goes on waiting for no longer than others once a JWT has come.
func (m *model) checkArrival(r *modelRun, c modelCredential) {
	var last time.Time // when the last exchange began that the reader may wait for
	var load time.Duration
	if m.trouble(r.beganAt, r.endedAt) {
		load = time.Second // before that, it may wait for storage
	}
	for _, e := range m.exchanges {
		if e.write == nil && e.path == c.path && e.key == c.key && e.overlaps(r.beganAt, r.endedAt) && e.beganAt.After(last) {
			last = e.beganAt
		}
	}
	for _, e := range m.exchanges {
		if e.write != nil || e.maybePrivate || e.load != r.load || e.id == "" || e.credential() != c || !e.endedAt.After(r.beganAt) || !e.certainlyUsable(r.endedAt) ||
			m.forgottenOrRefused(e, r.end()) || !m.stable(c, min(e.began, r.began), r.ended) {
			continue
		}
		replaced := slices.ContainsFunc(m.exchanges, func(o *modelExchange) bool {
			return o != e && o.path == c.path && o.key == c.key && (o.outcome == "ok" || o.outcome == "unsure") && o.overlaps(e.endedAt, r.endedAt) && !o.certainlyUsable(r.endedAt)
		})
		if r.endedAt.After(e.endedAt) && r.endedAt.After(last.Add(2*time.Second)) && r.took() > load && !replaced {
			m.violation("waited-though-JWT-came", "%s, of %s", r, e)
		}
	}
}

// lastFailed returns the last exchange of a credential before a read if that failed in passing, and was the last that began.
func (m *model) lastFailed(c modelCredential, r *modelRun) *modelExchange {
	var last *modelExchange
	for _, e := range m.exchanges {
		if e.write == nil && e.load == r.load && e.path == c.path && e.key == c.key && e.endedAt.Before(r.endedAt) && (last == nil || e.endedAt.After(last.endedAt)) {
			last = e
		}
	}
	if last == nil || last.outcome != "passing" || last.id != c.id || last.url != c.url || !last.endedAt.Before(r.beganAt) || last.endedAt.Add(keepFailure).Before(r.beganAt) ||
		!m.stable(c, last.began, r.ended) {
		return nil
	}
	for _, e := range m.exchanges {
		if e != last && e.sameKey(last) && e.load == last.load && (e.outcome != "passing" && e.endedAt.Equal(last.endedAt) || e.outcome != "passing" && e.outcome != "canceled" && !e.beganAt.Before(last.beganAt) && !e.endedAt.After(last.endedAt)) {
			return nil
		}
	}
	return last
}

// checkExchanges holds what Console saw against the contract.
func (m *model) checkExchanges(reads []*modelRun) {
	for i, e := range m.exchanges {
		m.checkTries(e, reads)
		if e.write == nil {
			m.checkCause(e, reads)
			m.checkCanceled(e)
			m.checkBound(e)
		}
		if e.write != nil || e.id == "" {
			continue
		}
		atOnce := 1
		for j, f := range m.exchanges {
			if i == j || f.write != nil || f.load != e.load || f.id != e.id || !f.sameKey(e) || !m.stable(e.credential(), min(e.began, f.began), max(e.began, f.began)) {
				continue
			}
			// A URL that changes there and back while f begins may leave it behind.
			if !f.maybePrivate && !e.maybePrivate && f.began < e.began && f.endedAt.After(e.beganAt) && !m.waitEnded(e.path, f.beganAt, f.beganAt) {
				atOnce++
				if !slices.ContainsFunc(m.runs, func(r *modelRun) bool {
					return r.kind == "forget" && credentialPath(r.path) == e.path && r.overlaps(f.beganAt, e.beganAt)
				}) {
					m.violation("two-at-once", "%s and %s", f, e)
				}
			}
			m.checkBackOff(f, e)
		}
		if atOnce > 2 {
			m.violation("three-at-once", "%d exchanges beside %s", atOnce-1, e)
		}
	}
}

// checkBackOff asks whether exchange e came too soon after failure f.
func (m *model) checkBackOff(f, e *modelExchange) {
	if !f.failed() || !e.beganAt.After(f.endedAt) || !e.beganAt.Before(f.endedAt.Add(f.minWait)) || m.waitEnded(f.path, f.endedAt, e.beganAt) {
		return
	}
	// A success after another write that ended the wait.
	if slices.ContainsFunc(m.exchanges, func(s *modelExchange) bool {
		return s.load == f.load && s.sameKey(f) && (s.outcome == "ok" || s.outcome == "unsure") && !s.beganAt.Before(f.endedAt) && !s.endedAt.After(e.beganAt)
	}) {
		return
	}
	m.violation("too-soon", "%s began %s after %s, and the wait is %s at least", e, e.beganAt.Sub(f.endedAt), f, f.minWait)
}

// checkTries holds the retries within an exchange against the contract.
func (m *model) checkTries(e *modelExchange, reads []*modelRun) {
	if len(e.tries) > 4 {
		m.violation("too-many-tries", "%s", e)
	}
	for i, try := range e.tries[1:] {
		before := e.tries[i]
		if try.beganAt.Sub(before.endedAt) < before.outcome.retryAfter {
			m.violation("retry-too-soon", "%s after %s, in %s", try.beganAt.Sub(before.endedAt), before.outcome, e)
		}
		if e.write == nil && !slices.ContainsFunc(reads, func(r *modelRun) bool { return m.needy(r, e, try.beganAt) }) {
			m.violation("retry-for-nobody", "%s", e)
		}
	}
}

// checkRetried demands another try for a reader whose exchange failed in passing, if there was time.
func (m *model) checkRetried(r *modelRun) {
	c, certain := r.only()
	least, _ := r.reuse()
	if !certain || r.err == "" || r.impatient || least == 0 {
		return
	}
	var f *modelExchange
	for _, e := range m.exchanges {
		if e.path != c.path || !e.endedAt.Equal(r.endedAt) {
			continue
		}
		if f != nil {
			return
		}
		f = e
	}
	if f == nil || f.outcome != "passing" || f.timedOut || f.load != r.load || len(f.tries) == 4 || r.beganAt.After(f.beganAt) {
		return
	}
	if m.forgottenOrRefused(f, r.end()) {
		return // the reader may have had a JWT when it came
	}
	for _, e := range m.exchanges {
		if e != f && e.path == f.path && e.endedAt.After(f.beganAt) && !e.endedAt.After(f.endedAt) && (e.failed() || e.outcome == "unsure") {
			return // the credential waited after a parallel failure
		}
	}
	if last := f.last(); last.endedAt.After(r.beganAt) && last.endedAt.Add(max(2*time.Second, last.outcome.retryAfter)).Before(f.deadline) {
		m.violation("not-retried", "%s, of %s", r, f)
	}
}

// needy reports whether a read may be one that waits for e at some time without a usable JWT.
func (m *model) needy(r *modelRun, e *modelExchange, at time.Time) bool {
	if r.load != e.load || !r.overlaps(at, at) || !slices.ContainsFunc(r.views, func(v modelView) bool { return v.usable && v.credential.path == e.path && v.credential.key == e.key }) {
		return false
	}
	c, certain := r.only()
	if !certain {
		return true
	}
	if least, _ := r.reuse(); least == 0 {
		return true
	}
	k := m.cached(c, r.load, r.start(), modelMoment{r.ended, at})
	return k == nil
}

// checkCause asks which read an exchange was made for.
func (m *model) checkCause(e *modelExchange, reads []*modelRun) {
	at := modelMoment{e.began, e.beganAt}
	if l := m.loads[e.load]; l.ended != 0 && !e.beganAt.Before(l.endedAt) {
		return // a reader of a mount that ends
	}
	if !slices.ContainsFunc(reads, func(r *modelRun) bool {
		if r.load != e.load || !r.overlaps(e.beganAt, e.beganAt) {
			return false
		}
		return slices.ContainsFunc(r.views, func(v modelView) bool {
			if !v.usable || v.credential.path != e.path || v.credential.key != e.key {
				return false
			}
			k := m.cached(v.credential, r.load, r.start(), at)
			return k == nil || v.reuse == 0 || float64(e.beganAt.Sub(k.endedAt)) >= 0.75*float64(min(v.reuse, modelLastServed(k.validityAtLeast)))
		})
	}) {
		m.violation("needless-exchange", "%s", e)
	}
}

// checkCanceled asks why an exchange was given up.
func (m *model) checkCanceled(e *modelExchange) {
	l := m.loads[e.load]
	if l.ended != 0 && e.endedAt.After(l.endedAt) {
		m.violation("exchange-after-end", "%s, and the mount ended at %s", e, modelClock(l.endedAt))
	}
	if e.outcome != "canceled" || e.id == "" || l.ended != 0 && !e.endedAt.Before(l.endedAt) || !m.stable(e.credential(), e.began, e.ended) {
		return
	}
	if e.maybePrivate && slices.ContainsFunc(m.runs, func(r *modelRun) bool { return r.impatient && r.endedAt.Equal(e.endedAt) }) {
		return
	}
	m.violation("exchange-canceled", "%s", e)
}

// checkBound holds the place that a key went to against the one that it was written for.
func (m *model) checkBound(e *modelExchange) {
	bound := slices.ContainsFunc(m.configs, func(v modelVersion[configEntry]) bool {
		return e.path == configStorageKey && v.entry != nil && v.entry.Credential.APIKeyID.Reveal() == e.key && v.entry.Credential.WrittenFor == originOf(e.url)
	}) || slices.ContainsFunc(m.roles[e.path], func(v modelVersion[roleEntry]) bool {
		return v.entry != nil && v.entry.Credential != nil && v.entry.Credential.APIKeyID.Reveal() == e.key && v.entry.Credential.WrittenFor == originOf(e.url)
	})
	if !bound {
		m.violation("key-sent-elsewhere", "%s, to %s", e, e.url)
	}
}

// fieldsOf returns what a stored entry holds, under the names that requests use.
func fieldsOf(config *configEntry, role *roleEntry) map[string]any {
	fields := map[string]any{"api_key_id": "", "api_key": "", "organization_id": "", "id": "", "written_for": ""}
	if config != nil {
		c := config.Credential
		maps.Copy(fields, map[string]any{
			"api_key_id": c.APIKeyID.Reveal(), "api_key": c.APIKey.Reveal(), "organization_id": c.OrganizationID, "id": c.ID, "written_for": c.WrittenFor,
			"console_url": config.ConsoleURL, "ttl": int(config.TTL.Seconds()), "reuse_period": int(config.ReusePeriod.Seconds()), "request_timeout": int(config.RequestTimeout.Seconds()),
		})
	}
	if role != nil {
		if c := role.Credential; c != nil {
			maps.Copy(fields, map[string]any{"api_key_id": c.APIKeyID.Reveal(), "api_key": c.APIKey.Reveal(), "organization_id": c.OrganizationID, "id": c.ID, "written_for": c.WrittenFor})
		}
		if role.TTL != nil {
			fields["ttl"] = int(role.TTL.Seconds())
		}
		if role.ReusePeriod != nil {
			fields["reuse_period"] = int(role.ReusePeriod.Seconds())
		}
	}
	return fields
}

// checkWrites finds writes that got lost, and writes that changed what they did not name.
func (m *model) checkWrites() {
	applied := map[*modelRun]bool{}
	type change struct {
		by            *modelRun
		before, after map[string]any
		deleted       bool
	}
	var changes []change
	for i, v := range m.configs[1:] {
		before := m.configs[i].entry
		if before == nil {
			before = newConfigEntry()
		}
		changes = append(changes, change{v.by, fieldsOf(before, nil), fieldsOf(v.entry, nil), v.entry == nil})
	}
	for _, path := range slices.Sorted(maps.Keys(m.roles)) {
		for i, v := range m.roles[path][1:] {
			changes = append(changes, change{v.by, fieldsOf(nil, m.roles[path][i].entry), fieldsOf(nil, v.entry), v.entry == nil})
		}
	}
	checkOvertaken(m, m.configs)
	for _, path := range slices.Sorted(maps.Keys(m.roles)) {
		checkOvertaken(m, m.roles[path])
	}
	ids := map[any]bool{}
	for _, c := range changes {
		applied[c.by] = true
		by := c.by
		if c.deleted || by == nil || by.data == nil {
			ids[c.after["id"]] = true
			continue
		}
		if by.err != "" && !by.lost && !strings.Contains(by.err, errModelSettings.Error()) {
			m.violation("stored-though-refused", "%s", by)
		}
		for field, value := range c.after {
			wanted, written := by.data[field]
			if field == "api_key_id" && by.kind == "remove key" || wanted == nil && written {
				wanted, written = "", true
			}
			switch {
			case field == "id" || field == "written_for":
			case written && value != wanted:
				m.violation("field-not-written", "%s: %s is %v instead of %v", by, field, value, wanted)
			case !written && value != c.before[field]:
				m.violation("lost-update", "%s: %s was %v and is %v", by, field, c.before[field], value)
			}
		}
		_, newKey := by.data["api_key"]
		_, newOrganization := by.data["organization_id"]
		switch id := c.after["id"]; {
		case newKey && by.kind != "remove key" && ids[id]:
			m.violation("old-ID", "%s: the credential has an ID that was used before", by)
		case !newKey && !newOrganization && id != c.before["id"]:
			m.violation("new-ID", "%s: the credential was not written, but has a new ID", by)
		default:
			ids[id] = true
		}
		if config := c.after["console_url"]; config != nil && c.after["api_key"] != "" && c.after["written_for"] != originOf(config.(string)) {
			m.violation("unbound", "%s: the key is bound to %s, and console_url is %s", by, c.after["written_for"], config)
		}
	}
	for _, r := range m.runs {
		if r.data == nil {
			continue
		}
		verified := slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool {
			return e.write == r && (e.outcome == "ok" || e.outcome == "unsure")
		})
		_, newKey := r.data["api_key"]
		switch {
		case strings.Contains(r.err, modelSecret) || strings.Contains(r.err, modelJWT):
			m.violation("leak", "%s", r)
		case r.err != "" || r.lost:
		case !applied[r]:
			m.violation("write-lost", "%s", r)
		case r.verify && newKey && r.kind != "remove key" && !verified:
			m.violation("not-verified", "%s", r)
		}
		if (!r.verify || r.kind == "ttl" || r.kind == "reuse_period" || r.kind == "request_timeout") && slices.ContainsFunc(m.exchanges, func(e *modelExchange) bool { return e.write == r }) {
			m.violation("needless-verification", "%s", r)
		}
	}
}

// checkOvertaken finds what a write has brought back that was deleted while it was verified.
func checkOvertaken[T any](m *model, versions []modelVersion[T]) {
	for i := 2; i < len(versions); i++ {
		v, deletion, before := versions[i], versions[i-1], versions[i-2]
		if v.entry != nil && deletion.entry == nil && before.entry != nil && v.by.data != nil && before.began < v.by.began && deletion.by.beganAt.After(v.by.beganAt) {
			m.violation("deleted-came-back", "%s, after %s", v.by, deletion.by)
		}
	}
}

// checkStored holds the JWTs that were stored at any time against the contract.
func (m *model) checkStored() {
	for _, path := range slices.Sorted(maps.Keys(m.tokens)) {
		for _, v := range m.tokens[path] {
			if v.entry == nil || v.by != nil {
				continue
			}
			e := m.issued[v.entry.Token.Bearer.Reveal()]
			key := v.entry.Key
			switch {
			case e == nil || e.path != path || key.Path != path || key.OrganizationID != e.organization || key.ConsoleURL != e.url || m.idWritten(path, key.CredentialID) >= e.began:
				m.violation("stored-under-wrong-key", "%+v, of %s", key, e)
			case e.certainlyUncached:
				m.violation("stored-without-reuse", "%s", e)
			}
		}
	}
}

// checkOthers holds the requests that make no exchange to their taking no time, unless storage takes it.
func (m *model) checkOthers() {
	for _, r := range m.runs {
		if r.kind != "read" && !r.verify && !r.lost && r.took() > 0 && !m.trouble(r.beganAt, r.endedAt) {
			m.violation("request-waited", "%s", r)
		}
		if r.kind == "status" && strings.Contains(r.err, errModelTokens.Error()) {
			m.violation("storage-fails-status", "%s", r)
		}
	}
}

// checkCounters holds what the last load has counted against what was seen.
func (m *model) checkCounters() {
	load := len(m.loads) - 1
	if slices.ContainsFunc(m.runs, func(r *modelRun) bool {
		return r.load == load && r.path != configStorageKey && strings.Contains(r.kind, "delete") || r.load != load && r.ended > m.loads[load].began
	}) {
		return // counters go with their role
	}
	var counted, seen, failures, certain, unsure int64
	for _, path := range modelPaths {
		value, found := m.mount.backend.stats.Load(strings.TrimPrefix(strings.TrimPrefix(path, "token"), "/"))
		if !found {
			continue
		}
		got := value.(*stats).snapshot()
		counted += got.exchanges
		for _, count := range got.failures {
			failures += count
		}
		var reads, stale int64
		for _, r := range m.runs {
			early := strings.Contains(r.err, errConfigNotWritten.Error()) || strings.Contains(r.err, "unknown role") || strings.Contains(r.err, errModelSettings.Error()) || strings.Contains(r.err, "waiting for the configuration")
			if r.kind == "read" && r.load == load && r.path == path && !early {
				reads++
				if r.warning != "" {
					stale++
				}
			}
		}
		if got.reads != reads || got.stale != stale {
			m.violation("counters", "%s: %d reads and %d stale, seen were %d and %d", path, got.reads, got.stale, reads, stale)
		}
	}
	for _, e := range m.exchanges {
		if e.load != load || e.write != nil {
			continue
		}
		seen++
		switch {
		case e.failed():
			certain++
		case e.outcome == "unsure":
			unsure++
		}
	}
	if counted != seen || failures < certain || failures > certain+unsure {
		m.violation("counters", "%d exchanges of which %d failed, seen were %d and %d to %d", counted, failures, seen, certain, certain+unsure)
	}
}

// checkLeft looks at memory and storage after everything has come to rest, and sweeps.
func (m *model) checkLeft() {
	ctx := context.Background()
	for path := range m.tokens {
		stored, _ := m.disk.Get(ctx, tokenStoragePrefix+path)
		if stored == nil {
			continue
		}
		entry := decoded[tokenEntry](stored)
		if entry == nil || !m.isCurrent(path, entry.Key) {
			m.violation("stored-without-owner", "%s: %s", path, stored.Value)
		}
	}
	m.mount.backend.stats.Range(func(name, _ any) bool {
		if _, role := m.latest(roleStoragePrefix + name.(string)); name != "" && role == nil {
			m.violation("stats-without-owner", "%s", name)
		}
		return true
	})
	m.mount.backend.current.Load().roles.Range(func(name, _ any) bool {
		if _, role := m.latest(roleStoragePrefix + name.(string)); name != "" && role == nil {
			m.violation("role-in-memory", "%s", name)
		}
		return true
	})
}

func (m *model) isCurrent(path string, key tokenKey) bool {
	config, role := m.latest(path)
	if path != configStorageKey && (role == nil || role.Credential == nil) {
		return false
	}
	read := "token"
	if path != configStorageKey {
		read = "token/" + strings.TrimPrefix(path, roleStoragePrefix)
	} else {
		role = nil
	}
	c := viewOf(read, config, role).credential
	return c.key != "" && key.CredentialID == c.id && key.OrganizationID == c.organization && key.ConsoleURL == c.url
}

// checkNothingLeft looks again after every JWT has expired.
func (m *model) checkNothingLeft() {
	for path := range m.tokens {
		if entry, _ := m.disk.Get(context.Background(), tokenStoragePrefix+path); entry != nil {
			m.violation("stored-left", "%s", path)
		}
	}
}

func (m *model) seen() modelSeen {
	s := modelSeen{exchanges: len(m.exchanges)}
	for _, r := range m.runs {
		if r.kind != "read" {
			continue
		}
		s.reads++
		if r.got == nil {
			continue
		}
		s.served++
		if r.got.load < r.load {
			s.restarted++
		}
		if strings.Contains(r.warning, "not answered within 2s") {
			s.slow++
		} else if r.warning != "" {
			s.stale++
		}
	}
	for _, e := range m.exchanges {
		if e.outcome == "refused" {
			s.refused++
		}
		if slices.ContainsFunc(m.runs, func(r *modelRun) bool {
			return r.got != nil && r.got != e && r.warning == "" && r.endedAt.Equal(e.beganAt) && r.got.sameKey(e)
		}) {
			s.background++
		}
	}
	return s
}
