package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/consoletest"
	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/vaulttest"
)

func TestMonitoringExample(t *testing.T) {
	t.Parallel()
	promtool := lookPath(t, "promtool", "install prometheus")
	for _, args := range [][]string{
		{"check", "rules", "--lint-fatal", "alerts.yml"},
		{"test", "rules", "alerts_test.yml"},
		{"check", "config", "--syntax-only", "prometheus.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "../examples/monitoring"
		out, err := cmd.CombinedOutput()
		assert.NoError(t, err, "promtool %s:\n%s", strings.Join(args, " "), out)
	}
}

// TestMonitoring lets a Prometheus that is set up by the example watch a mount that fails in every way that has an
// alert, and recovers.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	program := lookPath(t, "prometheus", "install prometheus")
	console := consoletest.NewServer(t)
	ingestKey := consoletest.Key{ID: "ingest-key-id", Secret: "canary-ingest-key-do-not-leak"}
	console.AddKey(analyticsKey)
	console.AddKey(ingestKey)
	telemetry := examples.file(t, "monitoring/telemetry.hcl")
	s := startServer(t, func(options *vaulttest.Options) { options.Config = telemetry })
	m := s.mount(t, "snowplow", "")
	m.write(t, "config", with(defaultConfig(console), fields{"reuse_period": "1s"}))
	m.write(t, "roles/analytics", keyOf(analyticsKey))
	m.write(t, "roles/ingest", keyOf(ingestKey))

	r := monitoringRecipe(t, s)
	start := time.Now()
	p := startPrometheus(t, program, r)

	// A key is old after 45 s here. That alert is passed over until it is expected.
	isKeyOld := func(alert string) bool { return strings.HasPrefix(alert, "SnowplowKeyOld ") }
	may := "" // the name of an alert that may fire beside those that are expected
	// expect waits until these alerts fire and no others, while readers go on.
	expect := func(when string, want ...string) {
		t.Helper()
		eventually(t, 3*time.Minute, when, func() error {
			for _, path := range []string{"token", "token/analytics", "token/ingest"} {
				_, _ = m.tryRead(path) // what comes of it is in the metrics
			}
			firing, err := p.firing()
			firing = slices.DeleteFunc(firing, func(alert string) bool {
				return may != "" && strings.HasPrefix(alert, may+" ") || isKeyOld(alert) && !slices.ContainsFunc(want, isKeyOld)
			})
			if err == nil && !slices.Equal(firing, want) {
				err = fmt.Errorf("these fire: %q", firing)
			}
			return err
		})
	}
	eventually(t, patience, "every path is ok", func() error {
		for _, path := range []string{"token", "token/analytics", "token/ingest"} {
			m.jwt(t, path)
		}
		ok, err := p.query(`snowplow_state{mount="snowplow",state="ok"} == 1 and on () sum(up) == 2`)
		if err == nil && len(ok) != 3 {
			err = fmt.Errorf("these are: %s", ok)
		}
		return err
	})
	expect("no alert fires")

	console.Intercept(func(w http.ResponseWriter, r *http.Request) bool {
		status := http.StatusServiceUnavailable
		if r.Header.Get("X-API-Key-ID") == ingestKey.ID {
			status = http.StatusUnauthorized
		}
		w.WriteHeader(status)
		return true
	})
	m.remove(t, "token/analytics")
	may = "SnowplowExchangesFailing" // tries become rarer, so it can be over before the slowest one fires
	expect("alerts fire while Console fails, one role has no JWT, and another's key is refused",
		"SnowplowKeyRefused token/ingest", "SnowplowNoSuccess", "SnowplowReadsFailing token/analytics", "SnowplowServingStale token")
	may = ""

	console.Intercept(nil)
	console.SetValidity(15 * time.Second)
	m.write(t, "config", fields{"ttl": "12h"}) // ends the waits after failures
	m.write(t, "roles/ingest", keyOf(ingestKey))
	expect("alerts fire while JWTs are near their expiry, and those on failures are resolved",
		"SnowplowTokenNearExpiry token", "SnowplowTokenNearExpiry token/analytics", "SnowplowTokenNearExpiry token/ingest")

	console.SetValidity(consoletest.DefaultValidity)
	expect("every alert is resolved")

	require.NoError(t, s.Seal(t.Context()))
	expect("alerts fire while Vault is sealed", "SnowplowScrapeDown", "VaultScrapeDown")
	require.NoError(t, s.Unseal(t.Context()))
	expect("every alert is resolved after Vault was unsealed")

	expect("alerts fire for keys that are old", "SnowplowKeyOld token", "SnowplowKeyOld token/analytics", "SnowplowKeyOld token/ingest")
	newKey := consoletest.Key{ID: "new-key-id", Secret: "canary-new-key-do-not-leak"}
	console.AddKey(newKey)
	m.write(t, "roles/ingest", keyOf(newKey))
	expect("the alert is resolved for a key that was replaced", "SnowplowKeyOld token", "SnowplowKeyOld token/analytics")

	for _, rule := range p.rules(t) {
		assert.Equal(t, "alerting", rule.Type)
		assert.Equal(t, "ok", rule.Health, "%s: %s", rule.Name, rule.LastError)
		assert.True(t, p.hasData(t, fmt.Sprintf(`ALERTS{alertname=%q,alertstate="firing"}`, rule.Name), start), "%s has never fired", rule.Name)
		assert.True(t, p.hasData(t, rule.Query, start), "the query of %s has never had data", rule.Name)
	}
	for title, queries := range dashboardQueries(t, r) {
		for _, query := range queries {
			assert.True(t, p.hasData(t, query, start), "a query of the panel %q has never had data: %s", title, query)
		}
	}
	var mounts []string
	require.NoError(t, p.get("label/mount/values", url.Values{"match[]": {"snowplow_plugin_info"}}, &mounts))
	require.Equal(t, []string{"snowplow"}, mounts, "what the dashboard's variable mount offers")
	require.Contains(t, s.run(t, "read", "-format=raw", "snowplow/metrics"), "snowplow_plugin_info{", "the command of README.md")
}

// monitoringRecipe follows the recipe up to the start of Prometheus, with a Vault behind TLS whose CA the machine does not
// trust.
func monitoringRecipe(t *testing.T, s server) recipe {
	t.Helper()
	url, ca := behindTLS(t, s)
	etc, run := filepath.Join(t.TempDir(), "etc"), t.TempDir()
	r := copyRecipe(t, "monitoring",
		"https://vault.example.com:8200", url,
		"vault.example.com:8200", strings.TrimPrefix(url, "https://"),
		"/etc/prometheus/vault", etc,
		"/run/prometheus", run,
		// The test need not be root, and has no users to give files to.
		"sudo ", "", "-o prometheus", "",
	)
	require.NoError(t, os.WriteFile(r.path("vault-ca.pem"), ca, 0o600))
	login := r.commands(t, "Vault")
	token := r.commands(t, "The token")
	require.Len(t, token, 2, "files, and a service")
	r.run(t, s, strings.Join(append(login, token[0]), "\n"))

	startAgent(t, s, filepath.Join(etc, "agent.hcl"))
	eventually(t, patience, "Agent writes Prometheus' token", func() error {
		info, err := os.Stat(filepath.Join(run, "vault-token"))
		if err == nil && info.Mode().Perm() != 0o600 {
			err = fmt.Errorf("its mode is %s", info.Mode())
		}
		return err
	})
	return r
}

// watcher is the address of a running Prometheus.
type watcher string

// get asks Prometheus' API.
func (p watcher) get(path string, parameters url.Values, data any) error {
	resp, err := cleanhttp.DefaultClient().Get("http://" + string(p) + "/api/v1/" + path + "?" + parameters.Encode())
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
		return errors.Join(fmt.Errorf("%s: %s", resp.Status, answer.Error), err)
	}
	return nil
}

// startPrometheus starts a Prometheus with the recipe's configuration and rules, in quick motion.
func startPrometheus(t testing.TB, program string, r recipe) watcher {
	t.Helper()
	for _, name := range []string{"prometheus.yml", "alerts.yml"} {
		require.NoError(t, os.WriteFile(r.path(name), []byte(quick(r.file(t, name))), 0o600))
	}
	dir := t.TempDir()
	process, err := vaulttest.StartProcess(exec.Command(program, "--config.file="+r.path("prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0"), filepath.Join(dir, "prometheus.log"))
	require.NoError(t, err)
	t.Cleanup(process.Stop)
	showLogIfFailed(t, process)
	listening := regexp.MustCompile(`Listening on.* address=(127\.0\.0\.1:\d+)`)
	var p watcher
	eventually(t, patience, "Prometheus answers", func() error {
		log, _ := os.ReadFile(process.Log())
		address := listening.FindStringSubmatch(string(log))
		if address == nil {
			return errors.New("it does not listen")
		}
		p = watcher(address[1])
		_, err := p.query("up")
		return err
	})
	return p
}

// quick shortens durations: a minute to a second, an hour to a minute, a day to 24, thresholds in hours to 10 seconds each,
// and those in days to half a second.
func quick(text string) string {
	text = strings.NewReplacer("[1d]", "[24h]", "* 86400", "* 0.5").Replace(text)
	text = regexp.MustCompile(`\b(\d+)m\b`).ReplaceAllString(text, "${1}s")
	text = regexp.MustCompile(`\b(\d+)h\b`).ReplaceAllString(text, "${1}m")
	return strings.ReplaceAll(text, "* 3600", "* 10")
}

// firing lists the alerts that fire, sorted, each with the path that it is about.
func (p watcher) firing() ([]string, error) {
	series, err := p.query(`count by (alertname, path) (ALERTS{alertstate="firing"})`)
	var firing []string
	for _, alert := range series {
		firing = append(firing, strings.TrimSpace(string(alert.Metric["alertname"]+" "+alert.Metric["path"])))
	}
	slices.Sort(firing)
	return firing, err
}

// query returns the series that a query has now.
func (p watcher) query(query string) (model.Vector, error) {
	var data struct{ Result model.Vector }
	err := p.get("query", url.Values{"query": {query}}, &data)
	return data.Result, err
}

// rule is an alert rule as Prometheus has loaded it.
type rule struct{ Type, Name, Query, Health, LastError string }

func (p watcher) rules(t testing.TB) []rule {
	t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	require.NoError(t, p.get("rules", nil, &data))
	var rules []rule
	for _, group := range data.Groups {
		rules = append(rules, group.Rules...)
	}
	require.NotEmpty(t, rules)
	return rules
}

// hasData reports whether a query has had a value that is a number since start.
func (p watcher) hasData(t testing.TB, query string, start time.Time) bool {
	t.Helper()
	var data struct{ Result model.Matrix }
	require.NoError(t, p.get("query_range", url.Values{
		"query": {query},
		"start": {start.UTC().Format(time.RFC3339)},
		"end":   {time.Now().UTC().Format(time.RFC3339)},
		"step":  {"1s"},
	}, &data), query)
	return slices.ContainsFunc(data.Result, func(series *model.SampleStream) bool {
		return slices.ContainsFunc(series.Values, func(sample model.SamplePair) bool { return !math.IsNaN(float64(sample.Value)) })
	})
}

// dashboardQueries are the queries of the dashboard by panel, as Grafana sends them for all mounts.
func dashboardQueries(t testing.TB, r recipe) map[string][]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(r.file(t, "dashboard.json")), &dashboard))
	queries := map[string][]string{}
	for _, panel := range dashboard.Panels {
		require.NotEmpty(t, panel.Targets, panel.Title)
		require.NotContains(t, queries, panel.Title, "a title that two panels have")
		for _, target := range panel.Targets {
			require.NotEmpty(t, target.Expr, panel.Title)
			queries[panel.Title] = append(queries[panel.Title], quick(strings.ReplaceAll(target.Expr, "$mount", ".*")))
		}
	}
	require.NotEmpty(t, queries)
	return queries
}
