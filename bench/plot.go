// plot.go draws the shape of the costs as an SVG: against the load, and against the size of the store.

package main

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
)

// Sizes in pixels.
const (
	panelWidth, panelHeight = 420, 260
	left, right, top, base  = 56, 16, 34, 40 // from a panel's edges to its axes
)

// A series is one line of a panel.
type series struct {
	name, colour string
	y            []float64
}

// A panel is one plot: lines over x values whose distances are their logarithms'.
type panel struct {
	title, xTitle string
	x             []int
	lines         []series
}

const blue, orange = "#1f5fa8", "#c8641e"

// plot draws four panels, two in a row.
func plot(r results) []byte {
	conns, sizes := r.points(shared, ""), r.points("Size/records=", "/register")
	load := func(title, unit string) panel {
		return panel{title, "connections", conns, []series{
			{"shared secret", blue, r.over(conns, shared, "", unit)},
			{"createUser", orange, r.over(conns, created, "", unit)},
		}}
	}
	panels := []panel{
		load("registrations a second", perSecond),
		load("CPU of a registration, ms", cpu),
		load("latency, p50, ms", median),
		{"latency, p50, ms", "records in the store, 1 connection", sizes, []series{
			{"registration", blue, r.over(sizes, "Size/records=", "/register", median)},
			{"first record on disk", orange, r.over(sizes, "Size/records=", "/reserve", median)},
		}},
	}
	var svg bytes.Buffer
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", 2*panelWidth, 2*panelHeight)
	svg.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, p := range panels {
		fmt.Fprintf(&svg, `<g transform="translate(%d,%d)">`+"\n", i%2*panelWidth, i/2*panelHeight)
		p.draw(&svg)
		svg.WriteString("</g>\n")
	}
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

// over are a unit's figures at each of the points.
func (r results) over(points []int, before, after, unit string) []float64 {
	var y []float64
	for _, n := range points {
		y = append(y, r[before+strconv.Itoa(n)+after][unit])
	}
	return y
}

func (p panel) draw(svg *bytes.Buffer) {
	most := 0.0
	for _, line := range p.lines {
		for _, y := range line.y {
			most = max(most, y)
		}
	}
	step := roundStep(most)
	most = step * math.Ceil(most/step)
	x := func(i int) float64 {
		span := math.Log(float64(p.x[len(p.x)-1]) / float64(p.x[0]))
		return left + (panelWidth-left-right)*math.Log(float64(p.x[i])/float64(p.x[0]))/span
	}
	y := func(v float64) float64 { return panelHeight - base - (panelHeight-top-base)*v/most }

	fmt.Fprintf(svg, `<text x="%d" y="18" font-weight="bold">%s</text>`+"\n", left, p.title)
	for v := 0.0; v <= most*1.001; v += step {
		fmt.Fprintf(svg, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, panelWidth-right, y(v), y(v), left-6, y(v)+4, strconv.FormatFloat(v, 'g', 4, 64))
	}
	for i, v := range p.x {
		anchor := "middle"
		if i == len(p.x)-1 {
			anchor = "end" // a million is wider than the margin
		}
		fmt.Fprintf(svg, `<text x="%.1f" y="%d" text-anchor="%s">%d</text>`+"\n", x(i), panelHeight-base+16, anchor, v)
	}
	fmt.Fprintf(svg, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (left+panelWidth-right)/2, panelHeight-8, p.xTitle)
	for _, line := range p.lines {
		fmt.Fprintf(svg, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, line.colour)
		for i, v := range line.y {
			fmt.Fprintf(svg, "%.1f,%.1f ", x(i), y(v))
		}
		svg.WriteString("\"/>\n")
		for i, v := range line.y {
			fmt.Fprintf(svg, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(i), y(v), line.colour)
		}
	}
	fmt.Fprintf(svg, `<text x="%d" y="18" text-anchor="end">`, panelWidth-right)
	for _, line := range p.lines {
		fmt.Fprintf(svg, `<tspan dx="8" fill="%s">%s</tspan>`, line.colour, line.name)
	}
	svg.WriteString("</text>\n")
}

// roundStep is a round number of which four to eight make up the whole.
func roundStep(whole float64) float64 {
	if whole <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(whole/4)))
	for _, step := range []float64{1, 2, 5} {
		if whole/(step*unit) <= 8 {
			return step * unit
		}
	}
	return 10 * unit
}
