// tables.go owns what the figures are held against: the floors of the same run, and what is to be reached.

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ms is a figure in milliseconds, whichever unit it was measured in.
func (r results) ms(name, unit string) float64 {
	if unit == "ns/op" {
		return r[name][unit] / 1e6
	}
	return r[name][unit]
}

const (
	shared    = "Register/api=sharedsecret/close/conns="
	sharedOn  = "Register/api=sharedsecret/kept/conns="
	created   = "Register/api=createUser/close/conns="
	behindMAS = "Register/api=MAS/close/conns="
	cpu       = "cpu-ms/registration"
	perSecond = "registration/s"
	cpuEach   = "cpu-ms"
	median    = "p50-ms"
)

// A goal is a ratio of one run: what it is to be at most, or at least.
type goal struct {
	what             string
	ratio, low, high float64 // the median of all turns, and the quartiles
	floor            float64 // the same ratio of what cannot be left out
	most, least      float64
}

func (g goal) String() string {
	reach, kept := "at most "+format(g.most), mark(g.ratio <= g.most)
	if g.least > 0 {
		reach, kept = "at least "+format(g.least), mark(g.ratio >= g.least)
	}
	if g.ratio == 0 {
		return fmt.Sprintf("| %s | %s | | %s | | |\n", g.what, notMeasured, reach)
	}
	floor := ""
	if g.floor > 0 {
		floor = format(g.floor)
	}
	return fmt.Sprintf("| %s | %s | %s to %s | %s | %s | %s |\n", g.what, format(g.ratio), format(g.low), format(g.high), reach, kept, floor)
}

// goalTable is every ratio that is to be reached.
func goalTable(r results, synapse race) string {
	turns := func(what, benchmark, unit, floor string, most, least float64) goal {
		f := r[benchmark]
		return goal{what: what, ratio: f[unit], low: f[unit+"-low"], high: f[unit+"-high"], floor: f[floor], most: most, least: least}
	}
	goals := []goal{
		turns("CPU a registration, 64 nodes at once, over the least's", "Beside/close", "cpu-ms/least-64", "promises-cpu-ms/least-64", 1.25, 0),
		turns("registrations a second, 64 nodes at once, over the least's", "Beside/close", "rate/least-64", "promises-rate/least-64", 0, .85),
		turns("latency of a node that comes alone, over the least's", "Beside/close", "p50-ms/least-1", "promises-p50-ms/least-1", 1.2, 0),
		turns("CPU a registration at 8 nodes at once over that at 64", "Beside/close", "cpu-8/64", "least-cpu-8/64", 1.3, 0),
		{what: "registrations a second at Synapse 1.163.2, bcrypt_rounds 4, 8 nodes at once, through the service over without it",
			ratio: synapse.through.median, low: synapse.through.low, high: synapse.through.high, floor: synapse.leasts.median, least: .92},
		turns("the same behind Matrix Authentication Service from 1.18", "MAS", "through/without", "least-through/without", 0, .95),
		turns("CPU a refusal, password of another, over two ecrecovers, kept connection", "Reject/kept/password", "cpu/ecrecovers", "least-cpu/ecrecovers", 1.2, 0),
		turns("the same, `close`", "Reject/close/password", "cpu/ecrecovers", "least-cpu/ecrecovers", 1.6, 0),
	}
	var table strings.Builder
	table.WriteString("| ratio | median | half of the turns | goal | reached | floor |\n|---|---|---|---|---|---|\n")
	for _, g := range goals {
		table.WriteString(g.String())
	}
	return table.String()
}

// A row is one figure: what it is, its floor if it has one, and what it is to be at most, alone or over its floor.
type row struct {
	what          string
	value, floor  float64
	unit          string
	most, atRatio float64
}

func (w row) String() string {
	floor, ratio, reach, kept := "", "", "", ""
	if w.value == 0 { // not measured in a short run
		return fmt.Sprintf("| %s | %s | | | | |\n", w.what, notMeasured)
	}
	if w.floor > 0 {
		floor, ratio = format(w.floor)+" "+w.unit, format(w.value/w.floor)
	}
	switch {
	case w.most > 0:
		reach = fmt.Sprintf("at most %s %s", format(w.most), w.unit)
		kept = mark(w.value <= w.most)
	case w.atRatio > 0:
		reach = "at most " + format(w.atRatio)
		kept = mark(w.value <= w.atRatio*w.floor)
	}
	return fmt.Sprintf("| %s | %s %s | %s | %s | %s | %s |\n", w.what, format(w.value), w.unit, floor, ratio, reach, kept)
}

const notMeasured = "–"

func mark(kept bool) string {
	if kept {
		return "yes"
	}
	return "**no**"
}

// format prints three digits, which is more than one run is good for.
func format(v float64) string {
	switch {
	case v >= 100:
		digits := strconv.Itoa(int(v + .5))
		if len(digits) > 3 {
			digits = digits[:len(digits)-3] + "," + digits[len(digits)-3:]
		}
		return digits
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// figureTable is every figure with its floor.
func figureTable(r results) string {
	recover2 := 2 * r.ms("Floor/ecrecover", "ns/op")
	bcrypt := r.ms("Floor/bcrypt", "ns/op")
	commit := r.ms("Floor/commit", median)
	beside := r["Beside/close"]
	alone := r.ms("Floor/homeserver=createUser", median) + 2*commit + recover2 + bcrypt
	thousand, million := "Size/records=1000/", "Size/records=1000000/"
	rows := []row{
		{what: "floor: two ecrecovers", value: recover2, unit: "ms"},
		{what: "floor: bcrypt, cost 4", value: bcrypt, unit: "ms"},
		{what: "floor: a bbolt commit, alone, p50", value: commit, unit: "ms"},
		{what: "floor: a bbolt Get", value: r.ms("Floor/get", "ns/op") * 1e3, unit: "µs"},
		{what: "a registration's proof verified", value: r.ms("Verify", "ns/op"), floor: recover2, unit: "ms"},
		{what: "first record on disk, 1 writer, p50", value: r["Reserve/writers=1"][median], floor: commit, unit: "ms"},
		{what: "first records on disk, 16 writers", value: r["Reserve/writers=16"]["reserve/s"], floor: 1e3 / commit, unit: "/s"},
		{what: "first records on disk, 128 writers", value: r["Reserve/writers=128"]["reserve/s"], floor: 1e3 / commit, unit: "/s"},
		{what: "CPU a registration, shared secret, 64 at once, beside the least", value: beside["cpu-ms-64"], floor: beside["least-cpu-ms-64"], unit: "ms"},
		{what: "registrations, shared secret, 64 at once, beside the least", value: beside["rate-64"], floor: beside["least-rate-64"], unit: "/s"},
		{what: "latency, shared secret, alone, p50, beside the least", value: beside["p50-ms-1"], floor: beside["least-p50-ms-1"], unit: "ms"},
		{what: "CPU a registration, createUser, 64 at once", value: r[created+"64"][cpu], floor: recover2 + bcrypt, unit: "ms"},
		{what: "registrations, createUser, 64 at once", value: r[created+"64"][perSecond], unit: "/s"},
		{what: "latency, createUser, alone, p50", value: r[created+"1"][median], floor: alone, unit: "ms"},
		{what: "CPU a registration, MAS, 64 at once", value: r[behindMAS+"64"][cpu], floor: recover2, unit: "ms"},
		{what: "registrations, MAS, 64 at once", value: r[behindMAS+"64"][perSecond], unit: "/s"},
		{what: "CPU a refusal, bad form", value: r["Reject/close/form"][cpuEach], unit: "ms"},
		{what: "CPU a refusal, a password of another", value: r["Reject/close/password"][cpuEach], floor: recover2, unit: "ms"},
		{what: "CPU a refusal, a display name of another", value: r["Reject/close/name"][cpuEach], floor: recover2, unit: "ms"},
		{what: "start to first answer, 1,000,000 records, over 1,000, p50", value: r[million+"start"][median], floor: r[thousand+"start"][median], unit: "ms", atRatio: 1.3},
		{what: "registration with 1,000,000 records, over 1,000, p50", value: r[million+"register"][median], floor: r[thousand+"register"][median], unit: "ms", atRatio: 1.3},
		{what: "anonymous memory, idle", value: r["Memory"]["MiB-idle"], unit: "MiB", most: 15},
		{what: "anonymous memory, after 100,000 registrations, kept", value: r["Memory"]["MiB-after"], unit: "MiB", most: 25},
		{what: "anonymous memory, 1,000,000 records, after some registrations", value: r[million+"register"]["MiB"], unit: "MiB", most: 25},
		{what: "CPU a transaction of 100 events, 400 kB", value: r["Transaction"]["cpu-ms/transaction"], unit: "ms"},
		{what: "anonymous memory that transactions add", value: r["Transaction"]["MiB-more"], unit: "MiB"},
	}
	var table strings.Builder
	table.WriteString("| figure | measured | floor | measured / floor | goal | reached |\n|---|---|---|---|---|---|\n")
	for _, w := range rows {
		table.WriteString(w.String())
	}
	return table.String()
}

// cgoTable is what a build without a C compiler costs.
func cgoTable(withCgo, pureGo results) string {
	var table strings.Builder
	table.WriteString("| | cgo (libsecp256k1) | pure Go | |\n|---|---|---|---|\n")
	for _, w := range []struct{ what, name, unit, as string }{
		{"one ecrecover", "Floor/ecrecover", "ns/op", "ms"},
		{"a registration's proof verified", "Verify", "ns/op", "ms"},
		{"CPU a refusal, a display name of another", "Reject/close/name", cpuEach, "ms"},
		{"CPU a registration, shared secret, 64 at once", shared + "64", cpu, "ms"},
		{"registrations, shared secret, 64 at once", shared + "64", perSecond, "/s"},
	} {
		c, p := withCgo.ms(w.name, w.unit), pureGo.ms(w.name, w.unit)
		fmt.Fprintf(&table, "| %s | %s %s | %s %s | %s times |\n", w.what, format(c), w.as, format(p), w.as, format(max(c, p)/min(c, p)))
	}
	return table.String()
}

// shapeTable is the cost against the load, and against the store's size.
func shapeTable(r results) string {
	var table strings.Builder
	ways := []struct{ title, name string }{{"shared secret, `close`", shared}, {"shared secret, kept", sharedOn}, {"createUser, `close`", created}}
	table.WriteString("| nodes at once |")
	for _, way := range ways {
		table.WriteString(" " + way.title + " | CPU each | p50 | p99 |")
	}
	table.WriteString("\n|---|" + strings.Repeat("---|", 4*len(ways)) + "\n")
	points := r.points(shared, "")
	for _, conns := range points {
		fmt.Fprintf(&table, "| %v |", conns)
		for _, way := range ways {
			v := r[way.name+strconv.Itoa(conns)]
			fmt.Fprintf(&table, " %s /s | %s ms | %s ms | %s ms |", format(v[perSecond]), format(v[cpu]), format(v[median]), format(v["p99-ms"]))
		}
		table.WriteString("\n")
	}
	table.WriteString("\n" + r.plot(points))
	table.WriteString("\n| records | open | start to first answer | first record on disk, p50 | registration, p50 | CPU each |\n|---|---|---|---|---|---|\n")
	for _, size := range r.points("Size/records=", "/register") {
		name := "Size/records=" + strconv.Itoa(size) + "/"
		fmt.Fprintf(&table, "| %d | %s ms | %s ms | %s ms | %s ms | %s ms |\n", size, format(r.ms(name+"open", "ns/op")),
			format(r[name+"start"][median]), format(r[name+"reserve"][median]), format(r[name+"register"][median]), format(r[name+"register"][cpu]))
	}
	return table.String()
}

// plot is a chart of Mermaid, which shows what the table has of registrations a second.
func (r results) plot(points []int) string {
	list := func(each func(conns int) string) string {
		var all []string
		for _, conns := range points {
			all = append(all, each(conns))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	rates := func(way string) string {
		return list(func(conns int) string { return fmt.Sprintf("%.0f", r[way+strconv.Itoa(conns)][perSecond]) })
	}
	return "```mermaid\nxychart-beta\n    title \"Shared secret: kept connections above, one for each node below\"\n" +
		"    x-axis \"nodes at once\" " + list(strconv.Itoa) + "\n    y-axis \"registrations a second\"\n" +
		"    line " + rates(sharedOn) + "\n    line " + rates(shared) + "\n```\n"
}

// points are the numbers that stand between the two in the names of benchmarks.
func (r results) points(before, after string) []int {
	var all []int
	for name := range r {
		if text, ok := strings.CutPrefix(name, before); ok {
			if text, ok = strings.CutSuffix(text, after); ok {
				if n, err := strconv.Atoi(text); err == nil {
					all = append(all, n)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}
