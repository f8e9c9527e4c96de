package main

import (
	"fmt"
	"html"
	"strings"
)

// picture is panels below each other, each with a scale of its own that begins at 0.
type picture struct {
	title, about string
	panels       []panel
}

type panel struct {
	title  string
	full   float64 // what the longest bar stands for at least
	groups []group
}

// group is the bars that a reader compares.
type group struct {
	name, note string
	bars       []bar
}

type bar struct {
	name, text, colour string
	value              float64
}

const (
	width     = 720
	margin    = 20
	barsAt    = 190 // where bars begin
	longest   = 400 // what the longest bar of a panel takes
	barHeight = 16
	barStep   = 20
)

// svg draws on a background of its own, so that the page's, light or dark, does not matter. Colours are attributes,
// because not every viewer knows style sheets; no bar is told from another by its colour only.
func (p picture) svg() string {
	var body strings.Builder
	y := margin + 16
	text := func(x, y, size int, more, what string) {
		fmt.Fprintf(&body, "  <text x=\"%d\" y=\"%d\" font-size=\"%d\" fill=\"#1f2328\"%s>%s</text>\n", x, y, size, more, html.EscapeString(what))
	}
	text(margin, y, 17, ` font-weight="bold"`, p.title)
	for _, panel := range p.panels {
		y += 32
		text(margin, y, 14, ` font-weight="bold"`, panel.title)
		y += 10
		top := y
		for _, group := range panel.groups {
			text(margin, y+barStep-7, 13, "", group.name)
			for _, bar := range group.bars {
				text(barsAt-8, y+barStep-7, 13, ` text-anchor="end"`, bar.name)
				length := 0
				if most := panel.most(); most > 0 {
					length = int(bar.value/most*longest + 0.5)
				}
				if length > 0 {
					fmt.Fprintf(&body, "  <rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", barsAt, y, length, barHeight, bar.colour)
				}
				text(barsAt+length+8, y+barStep-7, 13, "", bar.text)
				y += barStep
			}
			if group.note != "" {
				text(barsAt+8, y+10, 12, "", group.note)
				y += 16
			}
			y += 8
		}
		fmt.Fprintf(&body, "  <path d=\"M%d %dV%d\" stroke=\"#59636e\"/>\n", barsAt, top-2, y-6)
	}
	height := y + margin - 8

	var out strings.Builder
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"title desc\" font-family=\"sans-serif\">\n", width, height, width, height)
	fmt.Fprintf(&out, "  <title id=\"title\">%s</title>\n", html.EscapeString(p.title))
	fmt.Fprintf(&out, "  <desc id=\"desc\">%s</desc>\n", html.EscapeString(p.description()))
	fmt.Fprintf(&out, "  <rect x=\"0.5\" y=\"0.5\" width=\"%d\" height=\"%d\" rx=\"6\" fill=\"#ffffff\" stroke=\"#8c959f\"/>\n", width-1, height-1)
	out.WriteString(body.String())
	out.WriteString("</svg>\n")
	return out.String()
}

// description is all that the picture shows, for those who do not see it.
func (p picture) description() string {
	said := []string{p.about}
	for _, panel := range p.panels {
		var groups []string
		for _, group := range panel.groups {
			var parts []string
			for _, bar := range group.bars {
				parts = append(parts, bar.name+" "+bar.text)
			}
			if group.note != "" {
				parts = append(parts, group.note)
			}
			groups = append(groups, group.name+", "+strings.Join(parts, ", "))
		}
		said = append(said, panel.title+": "+strings.Join(groups, "; ")+".")
	}
	return strings.Join(said, " ")
}

func (p panel) most() float64 {
	most := p.full
	for _, group := range p.groups {
		for _, bar := range group.bars {
			most = max(most, bar.value)
		}
	}
	return most
}
