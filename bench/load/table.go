package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// series is what was measured of one figure, for each of the two, round by round.
type series map[string][]float64

func (s series) add(mount string, value float64) { s[mount] = append(s[mount], value) }

func (s series) median(mount string) float64 { return median(s[mount]) }

// ratios are those of the rounds, sorted. Their median is what counts: what slows the machine down for a while slows
// down both sides of most rounds, and spoils only those that it begins or ends in.
func (s series) ratios() []float64 {
	var ratios []float64
	for round, baseline := range s[baselineMount] {
		ratios = append(ratios, s[engineMount][round]/baseline)
	}
	slices.Sort(ratios)
	return ratios
}

func (s series) ratio() float64 { return median(s.ratios()) }

// ratioText is the ratio and, of several rounds, the range of the middle half of them: a goal that lies within it is
// neither met nor missed for sure.
func (s series) ratioText() string {
	text := fmt.Sprintf("%.3f", s.ratio())
	if ratios := s.ratios(); len(ratios) >= 4 {
		text += fmt.Sprintf(" (%.2f to %.2f)", ratios[len(ratios)/4], ratios[len(ratios)-1-len(ratios)/4])
	}
	return text
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// percentile sorts values, and returns the one that this share of them is below.
func percentile(values []time.Duration, share float64) time.Duration {
	slices.Sort(values)
	return values[int(share*float64(len(values)))]
}

// table is the rows of what was measured, in Markdown.
type table struct{ rows []string }

const tableHead = `| figure | engine | baseline | ratio | goal |
|---|--:|--:|--:|---|
`

func (t *table) add(figure, engine, baseline, ratio, goal string) {
	t.rows = append(t.rows, fmt.Sprintf("| %s | %s | %s | %s | %s |\n", figure, engine, baseline, ratio, goal))
}

// compare adds a figure of both. A positive goal is the least that the ratio should be, a negative one without its
// sign the most; 0 is none.
func (t *table) compare(figure string, measured series, write func(float64) string, goal float64) {
	ratio := measured.ratio()
	verdict := ""
	switch {
	case goal > 0:
		verdict = fmt.Sprintf("at least %.2f: %s", goal, met(ratio >= goal))
	case goal < 0:
		verdict = fmt.Sprintf("at most %.2f: %s", -goal, met(ratio <= -goal))
	}
	t.add(figure, write(measured.median(engineMount)), write(measured.median(baselineMount)), measured.ratioText(), verdict)
}

func (t *table) String() string { return tableHead + strings.Join(t.rows, "") }

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "**missed**"
}

func count(n float64) string        { return fmt.Sprintf("%.0f", n) }
func milliseconds(n float64) string { return fmt.Sprintf("%.2f ms", n) }
func seconds(n float64) string      { return fmt.Sprintf("%.2f s", n) }
func megabytes(kib float64) string  { return fmt.Sprintf("%.1f MiB", kib/1024) }

func inMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
