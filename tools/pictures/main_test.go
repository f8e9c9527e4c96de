package main

import (
	"encoding/xml"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var pictures = []struct {
	page, svg string
	draw      func(string) (picture, error)
	rows      []string // the first cells of what is drawn
}{
	{"reliability.md", "outage.svg", outagePicture, []string{"| silent | before |", "| 503 | before |"}},
	{"performance.md", "reads-per-second.svg", readsPicture, []string{
		"| reads per second, 1 reader |", "| reads per second, 16 readers |", "| reads per second, 64 readers |",
	}},
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile("../../docs/" + name)
	require.NoError(t, err)
	return string(content)
}

func TestCommittedPicturesShowTheCommittedTables(t *testing.T) {
	t.Parallel()
	for _, p := range pictures {
		drawn, err := p.draw(read(t, p.page))
		require.NoError(t, err)
		assert.Equal(t, drawn.svg(), read(t, p.svg), "docs/%s is not what the table of docs/%s says: run 'make pictures'", p.svg, p.page)
		assert.Contains(t, read(t, p.page), "]("+p.svg+")", "docs/%s shows the picture", p.page)
	}
}

func TestTextOfATableStaysText(t *testing.T) {
	t.Parallel()
	const text = `<a> & "b"`
	p := picture{title: text, about: text, panels: []panel{{title: text, groups: []group{{
		name: text, note: text, bars: []bar{{name: text, text: text, colour: ours}},
	}}}}}
	var read struct {
		Title string   `xml:"title"`
		Desc  string   `xml:"desc"`
		Texts []string `xml:"text"`
	}
	require.NoError(t, xml.Unmarshal([]byte(p.svg()), &read))
	assert.Equal(t, text, read.Title)
	assert.Equal(t, p.description(), read.Desc)
	assert.Equal(t, slices.Repeat([]string{text}, 6), read.Texts)
}

func TestAMissingRowIsAnError(t *testing.T) {
	t.Parallel()
	for _, p := range pictures {
		page := read(t, p.page)
		for _, row := range p.rows {
			require.Equal(t, 1, strings.Count(page, "\n"+row), row)
			_, err := p.draw(strings.Replace(page, row, strings.Replace(row, "| ", "| not ", 1), 1))
			assert.ErrorContains(t, err, "has no row", "without %s", row)
		}
		_, err := p.draw("# No table\n")
		assert.ErrorContains(t, err, "no table has the columns", p.page)
	}
}

func TestACellWithoutItsNumberIsAnError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, unit string }{
		{"", ""}, {"-", ""}, {"many", ""}, {"92", "%"}, {"30 ms", "s"}, {"-1", ""}, {"NaN", ""}, {"Inf", ""}, {"43 to", ""},
	} {
		_, err := number(c.text, c.unit)
		assert.Error(t, err, "%q in %q", c.text, c.unit)
	}
	for _, c := range []struct {
		text, unit string
		value      float64
	}{
		{"none", "%", 0}, {"92 %", "%", 92}, {"3.6 s", "s", 3.6}, {"3,000", "", 3000}, {"43 to 47", "", 47},
	} {
		value, err := number(c.text, c.unit)
		require.NoError(t, err)
		assert.InDelta(t, c.value, value, 0, c.text)
	}
}
