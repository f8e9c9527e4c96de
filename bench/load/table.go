package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// series is what was measured of one figure, turn by turn.
type series map[string][]float64

func (s series) add(name string, value float64) { s[name] = append(s[name], value) }

// time adds how many seconds do takes, if it succeeds.
func (s series) time(name string, do func() error) error {
	begun := time.Now()
	if err := do(); err != nil {
		return err
	}
	s.add(name, time.Since(begun).Seconds())
	return nil
}

// spread is the median of the turns' ratios to the baseline, and the range of the middle half of them. What slows the
// machine down for a while slows down both sides of most turns, and spoils only those that it begins or ends in.
type spread struct {
	turns             int
	low, median, high float64
}

func (s series) spread(name string) spread {
	var ratios []float64
	for i := range min(len(s[name]), len(s[baseline])) {
		ratios = append(ratios, s[name][i]/s[baseline][i])
	}
	if len(ratios) == 0 {
		return spread{}
	}
	slices.Sort(ratios)
	quarter := len(ratios) / 4
	return spread{len(ratios), ratios[quarter], median(ratios), ratios[len(ratios)-1-quarter]}
}

func (s spread) String() string {
	switch s.turns {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("%.2f", s.median)
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.median, s.low, s.high)
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

// table prints each figure once it is known: a run that is broken off has shown what it measured.
type table struct{ begun bool }

// compare adds a figure. A positive goal is the least that the ratio should be, a negative one without its sign the
// most, 0 is none. A ratio that misses it is reported, unless the baseline's to itself misses it as well.
func (t *table) compare(figure string, measured series, write func(float64) string, goal float64) {
	if !t.begun {
		fmt.Println("| figure | engine | baseline | engine / baseline | baseline / itself | without a lease |\n|---|--:|--:|--:|--:|--:|")
		t.begun = true
	}
	text := map[string]string{}
	for name, values := range measured {
		text[name] = write(median(values))
	}
	ratio, itself := measured.spread(engine), measured.spread(again)
	fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", figure, text[engine], text[baseline], ratio, itself, text[plain])
	least, most := goal, -goal
	if itself.turns > 0 {
		least, most = min(least, itself.low), max(most, itself.high)
	}
	if ratio.turns > 0 && (goal > 0 && ratio.median < least || goal < 0 && ratio.median > most) {
		t.missed(fmt.Sprintf("%s: %s of the baseline's, beyond %.2f and what the baseline makes of itself", figure, ratio, max(goal, -goal)))
	}
}

func (t *table) missed(text string) { fmt.Fprintln(os.Stderr, "MISSED:", text) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func count(n float64) string          { return fmt.Sprintf("%.0f", n) }
func inMilliseconds(s float64) string { return fmt.Sprintf("%.2f ms", s*1000) }
func seconds(s float64) string        { return fmt.Sprintf("%.2f s", s) }
func megabytes(kib float64) string    { return fmt.Sprintf("%.1f MiB", kib/1024) }
