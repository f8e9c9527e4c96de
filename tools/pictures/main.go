// Command pictures draws the bar charts of docs/ from the tables in it, so that a chart never says something else than
// its table. The same tables always give the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	out := flag.String("o", "docs", "`folder` to write outage.svg and reads-per-second.svg to")
	performance := flag.String("performance", "docs/performance.md", "Markdown `file` with the table that 'make bench' prints")
	reliability := flag.String("reliability", "docs/reliability.md", "Markdown `file` with the table of an hour without Console")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: pictures [-performance FILE] [-reliability FILE] [-o FOLDER]\n\nDraws the bar charts of docs/ from its tables.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 0 {
		flag.Usage()
		os.Exit(2)
	}
	// Both are drawn before one is written: they are committed together.
	outage := mustDraw(*reliability, outagePicture)
	reads := mustDraw(*performance, readsPicture)
	mustWrite(filepath.Join(*out, "outage.svg"), outage)
	mustWrite(filepath.Join(*out, "reads-per-second.svg"), reads)
}

func mustDraw(file string, draw func(markdown string) (picture, error)) string {
	markdown, err := os.ReadFile(file)
	if err != nil {
		fail(fmt.Errorf("reading the tables: %w", err))
	}
	p, err := draw(string(markdown))
	if err != nil {
		fail(fmt.Errorf("drawing what %s measured: %w", file, err))
	}
	return p.svg()
}

func mustWrite(file, svg string) {
	if err := os.WriteFile(file, []byte(svg), 0o644); err != nil {
		fail(fmt.Errorf("writing a picture: %w", err))
	}
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "pictures: %v\n", err)
	os.Exit(1)
}

const (
	ours   = "#0b63b5"
	theirs = "#b35900"
)

func outagePicture(markdown string) (picture, error) {
	p := picture{
		title: "An hour without Snowplow Console, before and now",
		about: "50 readers once a minute, for an hour in which Console is silent or answers 503, with a cached JWT that stays valid. The bar of a range shows its end.",
	}
	columns := []struct {
		name, unit string
		full       float64
	}{{"readers that waited > 2 s", "%", 100}, {"longest wait", "s", 0}, {"requests to Console", "", 0}}
	t, err := findTable(markdown, "Console", columns[0].name, columns[1].name, columns[2].name)
	if err != nil {
		return picture{}, err
	}
	for _, column := range columns {
		drawn := panel{title: column.name, full: column.full}
		for _, fault := range []string{"silent", "503"} {
			g := group{name: fault}
			for _, state := range []struct{ name, colour string }{{"before", theirs}, {"now", ours}} {
				b, err := t.bar(column.name, column.unit, fault, state.name)
				if err != nil {
					return picture{}, err
				}
				b.name, b.colour = state.name, state.colour
				g.bars = append(g.bars, b)
			}
			drawn.groups = append(drawn.groups, g)
		}
		p.panels = append(p.panels, drawn)
	}
	return p, nil
}

func readsPicture(markdown string) (picture, error) {
	p := picture{
		title: "Reads per second, the engine beside the baseline",
		about: "Medians of the rounds. The ratio is the median of the rounds' ratios, with the range of the middle half of them.",
	}
	t, err := findTable(markdown, "figure", "engine", "baseline", "ratio", "goal")
	if err != nil {
		return picture{}, err
	}
	drawn := panel{title: "reads per second"}
	for _, readers := range []string{"1 reader", "16 readers", "64 readers"} {
		row := "reads per second, " + readers
		g := group{name: readers}
		for _, plugin := range []struct{ name, colour string }{{"engine", ours}, {"baseline", theirs}} {
			b, err := t.bar(plugin.name, "", row)
			if err != nil {
				return picture{}, err
			}
			b.name, b.colour = plugin.name, plugin.colour
			g.bars = append(g.bars, b)
		}
		ratio, err := t.cell("ratio", row)
		if err != nil {
			return picture{}, err
		}
		goal, err := t.cell("goal", row)
		if err != nil {
			return picture{}, err
		}
		// The ratio of the medians, which the bars show, is not what the goal is about.
		g.note = "ratio " + ratio + ", goal " + plain(goal)
		drawn.groups = append(drawn.groups, g)
	}
	p.panels = []panel{drawn}
	return p, nil
}
