package snowplow

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/snowplow-vault/vault-plugin-secrets-snowplow/internal/console"
)

// matches finds what a pattern captures in a file.
func matches(t *testing.T, pattern, file string) [][]string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return regexp.MustCompile(pattern).FindAllStringSubmatch(string(content), -1)
}

func TestMonitoringPageHasEveryMetricLogLineAndAlert(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("docs/monitoring.md")
	require.NoError(t, err)
	onPage := func(text, why string) {
		t.Helper()
		assert.True(t, strings.Contains(string(content), text), "%s: docs/monitoring.md has no %q", why, text)
	}

	descriptions := make(chan *prometheus.Desc, 100)
	collector{}.Describe(descriptions)
	close(descriptions)
	for description := range descriptions {
		name := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(description.String())
		onPage("\n| `"+name[1]+"` |", "a metric")
	}
	for _, reason := range console.Reasons {
		onPage("\n| `"+string(reason)+"` |", "a reason")
	}

	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	files = append(files, "internal/tokencache/storage.go")
	lines := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, line := range matches(t, `[lL]ogger(?:\(\))?\.(Trace|Debug|Info|Warn|Error)\((?:\w+ ?\+ ?)?"([^"]+)"`, file) {
			lines++
			documented := regexp.MustCompile(`\n\| ` + strings.ToLower(line[1]) + " \\| `[a-z ]*" + regexp.QuoteMeta(line[2]) + "`")
			assert.True(t, documented.Match(content), "%s logs this, which docs/monitoring.md does not have: %s: %s", file, line[1], line[2])
		}
	}
	assert.GreaterOrEqual(t, lines, 4)

	alerts := matches(t, `(?m)^\s+- alert: (\w+)$`, "examples/monitoring/alerts.yml")
	require.NotEmpty(t, alerts)
	for _, alert := range alerts {
		onPage("\n### "+alert[1]+"\n", "an alert")
		onPage("\n| ["+alert[1]+"](#"+strings.ToLower(alert[1])+") |", "an alert")
	}
}
