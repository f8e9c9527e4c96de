package snowplow

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

func (b *backend) pathMetrics() *framework.Path {
	return &framework.Path{
		Pattern: "metrics",
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: b.readMetrics,
				Summary:  "Read the counters of every path in Prometheus' text format, without a network call.",
				Responses: map[int][]framework.Response{http.StatusOK: {{
					Description: "The metrics in Prometheus' text format.",
					MediaType:   string(metricsFormat),
				}}},
				ForwardPerformanceStandby: true, // the active node has the counters
				DisplayAttrs:              &framework.DisplayAttributes{OperationVerb: "read", OperationSuffix: "metrics"},
			},
		},
		HelpSynopsis:    "The counters of every path, for Prometheus.",
		HelpDescription: metricsHelp,
	}
}

var metricsFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

// Every metric but the last has the label path: token, or token/<role>.
var (
	metricReads    = newMetric("snowplow_token_reads_total", "Reads of a token, successful or not.")
	metricReused   = newMetric("snowplow_token_reused_total", "Reads served with a token from another read's exchange.")
	metricStale    = newMetric("snowplow_token_stale_total", "Reads served with the cached token because there was no newer one.")
	metricTries    = newMetric("snowplow_exchanges_total", "Exchanges made for these reads.")
	metricFailures = newMetric("snowplow_exchange_failures_total", "Exchanges that failed, by reason.", "reason")
	metricDuration = newMetric("snowplow_exchange_duration_seconds", "How long exchanges took.")
	metricExpiry   = newMetric("snowplow_token_expiry_timestamp_seconds", "When the cached token expires.")
	metricSuccess  = newMetric("snowplow_last_success_timestamp_seconds", "When the last successful exchange ended.")
	metricWritten  = newMetric("snowplow_credential_written_timestamp_seconds", "When a secret of the credential last got another value.")
	metricState    = newMetric("snowplow_state", "1 for the current state, 0 for the others.", "state")
	metricInfo     = prometheus.NewDesc("snowplow_plugin_info", "The plugin's version.", []string{"version"}, nil)
)

func newMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"path"}, labels...), nil)
}

func (b *backend) readMetrics(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(collector{b, ctx, req}); err != nil {
		return nil, fmt.Errorf("describing the metrics: %w", err)
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gathering the metrics: %w", err)
	}
	var body bytes.Buffer
	encoder := expfmt.NewEncoder(&body, metricsFormat)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return nil, fmt.Errorf("writing the metrics: %w", err)
		}
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: string(metricsFormat),
		logical.HTTPRawBody:     body.String(), // bytes do not survive the way out of the plugin's process
		logical.HTTPStatusCode:  http.StatusOK,
	}}, nil
}

// collector reads the metrics of a mount for one scrape.
type collector struct {
	backend *backend
	ctx     context.Context
	req     *logical.Request
}

// Describe sends nothing: which metrics there are depends on what was read.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads every path that was read since the plugin started.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(metricInfo, prometheus.GaugeValue, 1, Version)
	for name, value := range c.backend.stats.Range {
		if counted := value.(*stats).snapshot(); counted.reads > 0 {
			c.collectPath(metrics, name.(string), counted)
		}
	}
}

func (c collector) collectPath(metrics chan<- prometheus.Metric, role string, counted counters) {
	path := "token"
	if role != "" {
		path += "/" + role
	}
	count := func(metric *prometheus.Desc, value int64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(metric, prometheus.CounterValue, float64(value), append([]string{path}, labels...)...)
	}
	gauge := func(metric *prometheus.Desc, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(metric, prometheus.GaugeValue, value, append([]string{path}, labels...)...)
	}
	count(metricReads, counted.reads)
	count(metricReused, counted.reused)
	count(metricStale, counted.stale)
	count(metricTries, counted.exchanges)
	for _, reason := range console.Reasons {
		count(metricFailures, counted.failures[reason], string(reason))
	}
	metrics <- prometheus.MustNewConstSummary(metricDuration, uint64(counted.exchanges), counted.duration.Seconds(), nil, path)
	if !counted.lastSuccessAt.IsZero() {
		gauge(metricSuccess, float64(counted.lastSuccessAt.Unix()))
	}

	// What cannot be loaded has counters, but no state.
	r, err := c.backend.current.Load().role(c.ctx, c.req, role)
	if err != nil {
		return
	}
	if written := r.target.credential.WrittenAt; !written.IsZero() {
		gauge(metricWritten, float64(written.Unix()))
	}
	cached, err := c.backend.cache.State(c.ctx, r.key, r.reuse)
	if err != nil {
		return
	}
	if cached.Token != nil {
		gauge(metricExpiry, float64(cached.Token.ExpiresAt.Unix()))
	}
	current := r.state(cached, counted)
	for _, state := range states {
		value := 0.0
		if state == current {
			value = 1
		}
		gauge(metricState, value, state)
	}
}

const metricsHelp = `
The counters of status for every path that was read since the plugin started, in Prometheus' text format, for a scrape
with a Vault token. They contain no secret and no key ID.

    $ vault read -format=raw snowplow/metrics
    $ curl -H "Authorization: Bearer $VAULT_TOKEN" "$VAULT_ADDR/v1/snowplow/metrics"
`
