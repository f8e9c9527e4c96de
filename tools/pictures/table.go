package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// table is one of a Markdown page, without its line of dashes.
type table struct {
	head []string
	rows [][]string
}

// findTable returns the first table that has these columns.
func findTable(markdown string, columns ...string) (table, error) {
	lines := strings.Split(markdown, "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, "|") || i+1 == len(lines) || !strings.HasPrefix(lines[i+1], "|--") {
			continue
		}
		t := table{head: cells(line)}
		if slices.ContainsFunc(columns, func(column string) bool { return !slices.Contains(t.head, column) }) {
			continue
		}
		for _, line := range lines[i+2:] {
			if !strings.HasPrefix(line, "|") {
				break
			}
			row := cells(line)
			if len(row) != len(t.head) {
				return table{}, fmt.Errorf("this row has %d cells, its table %d columns: %s", len(row), len(t.head), line)
			}
			// An empty first cell means the one above.
			if row[0] == "" && len(t.rows) > 0 {
				row[0] = t.rows[len(t.rows)-1][0]
			}
			t.rows = append(t.rows, row)
		}
		return t, nil
	}
	return table{}, fmt.Errorf("no table has the columns %q", columns)
}

func cells(line string) []string {
	line = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "|"), "|")
	all := strings.Split(line, "|")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}

// cell is what the row that begins with these cells has in a column.
func (t table) cell(column string, row ...string) (string, error) {
	at := slices.Index(t.head, column)
	for _, r := range t.rows {
		if at >= 0 && len(r) >= len(row) && slices.Equal(r[:len(row)], row) {
			return r[at], nil
		}
	}
	return "", fmt.Errorf("the table with the column %q has no row %q", column, row)
}

// bar is one for what a cell says, in a unit.
func (t table) bar(column, unit string, row ...string) (bar, error) {
	text, err := t.cell(column, row...)
	if err != nil {
		return bar{}, err
	}
	value, err := number(plain(text), unit)
	if err != nil {
		return bar{}, fmt.Errorf("the row %q has no number in the column %q: %w", row, column, err)
	}
	return bar{text: plain(text), value: value}, nil
}

// number reads what a cell says; of a range, its end.
func number(text, unit string) (float64, error) {
	if text == "none" {
		return 0, nil
	}
	digits := text
	if unit != "" {
		var found bool
		if digits, found = strings.CutSuffix(text, " "+unit); !found {
			return 0, fmt.Errorf("%q is not in %s", text, unit)
		}
	}
	if _, end, found := strings.Cut(digits, " to "); found {
		digits = end
	}
	value, err := strconv.ParseFloat(strings.ReplaceAll(digits, ",", ""), 64)
	// Also refuses what ParseFloat takes for a number, and no bar can show.
	if err == nil && (math.IsNaN(value) || value < 0 || value > 1e12) {
		err = fmt.Errorf("%q is out of range", text)
	}
	return value, err
}

// plain is a cell without Markdown's bold.
func plain(cell string) string { return strings.ReplaceAll(cell, "**", "") }
