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
	shared     = "Register/api=sharedsecret/conns="
	created    = "Register/api=createUser/conns="
	behindMAS  = "Register/api=MAS/conns="
	cpu        = "cpu-ms/registration"
	perSecond  = "registration/s"
	cpuRefused = "cpu-ms/request"
	median     = "p50-ms"
)

// A row is one figure: what it is, its floor if it has one, and what it is to be at most, or at least.
type row struct {
	what         string
	value, floor float64
	unit         string
	most, least  float64
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
		reach = "at most " + format(w.most)
		kept = mark(w.value <= w.most)
	case w.least > 0:
		reach = "at least " + format(w.least)
		kept = mark(w.value >= w.least)
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

// targetTable is every figure with its floor and its target.
func targetTable(r results) string {
	recover2 := 2 * r.ms("Floor/ecrecover", "ns/op")
	bcrypt := r.ms("Floor/bcrypt", "ns/op")
	commit := r.ms("Floor/commit", median)
	get := r.ms("Floor/get", "ns/op")
	alone := r.ms("Floor/homeserver=sharedsecret", median) + 2*commit + recover2
	aloneCreated := r.ms("Floor/homeserver=createUser", median) + 2*commit + recover2 + bcrypt
	million := "Size/records=1000000/"
	rows := []row{
		{what: "floor: two ecrecovers", value: recover2, unit: "ms"},
		{what: "floor: bcrypt, cost 4", value: bcrypt, unit: "ms"},
		{what: "floor: a bbolt commit, alone, p50", value: commit, unit: "ms"},
		{what: "floor: a bbolt Get", value: get * 1e3, unit: "µs"},
		{what: "a registration's proof verified", value: r.ms("Verify", "ns/op"), floor: recover2, unit: "ms"},
		{what: "first record on disk, 1 writer, p50", value: r["Reserve/writers=1"][median], floor: commit, unit: "ms"},
		{what: "first records on disk, 16 writers", value: r["Reserve/writers=16"]["reserve/s"], floor: 1e3 / commit, unit: "/s"},
		{what: "first records on disk, 128 writers", value: r["Reserve/writers=128"]["reserve/s"], floor: 1e3 / commit, unit: "/s"},
		{what: "CPU a registration, shared secret, 64 connections", value: r[shared+"64"][cpu], floor: recover2, unit: "ms", most: .35},
		{what: "CPU a registration, createUser, 64 connections", value: r[created+"64"][cpu], floor: recover2 + bcrypt, unit: "ms"},
		{what: "the same beyond its floor", value: r[created+"64"][cpu] - recover2 - bcrypt, unit: "ms", most: .30},
		{what: "registrations, shared secret, 64 connections", value: r[shared+"64"][perSecond], unit: "/s", least: 2700},
		{what: "registrations, createUser, 64 connections", value: r[created+"64"][perSecond], unit: "/s", least: 750},
		{what: "CPU a registration, MAS, 64 connections", value: r[behindMAS+"64"][cpu], floor: recover2, unit: "ms"},
		{what: "registrations, MAS, 64 connections", value: r[behindMAS+"64"][perSecond], unit: "/s"},
		{what: "CPU a refusal, bad signature, kept connection", value: r["Reject/kept/signature"][cpuRefused], floor: recover2, unit: "ms", most: .12},
		{what: "CPU a refusal, bad form, kept connection", value: r["Reject/kept/form"][cpuRefused], unit: "ms", most: .04},
		{what: "CPU a refusal, bad signature, `Connection: close`", value: r["Reject/closed/signature"][cpuRefused], floor: recover2, unit: "ms"},
		{what: "CPU a refusal, bad form, `Connection: close`", value: r["Reject/closed/form"][cpuRefused], unit: "ms"},
		{what: "latency, shared secret, 1 connection, p50", value: r[shared+"1"][median], floor: alone, unit: "ms", most: alone + .4},
		{what: "latency, createUser, 1 connection, p50", value: r[created+"1"][median], floor: aloneCreated, unit: "ms", most: aloneCreated + .4},
		{what: "start to first answer, 1,000,000 records, p50", value: r[million+"start"][median], unit: "ms", most: 50},
		{what: "registration with 1,000,000 records, p50", value: r[million+"register"][median], floor: r["Size/records=1000/register"][median], unit: "ms", most: 1.3 * r["Size/records=1000/register"][median]},
		{what: "anonymous memory, idle", value: r["Memory"]["MiB-idle"], unit: "MiB", most: 15},
		{what: "anonymous memory, after 100,000 registrations", value: r["Memory"]["MiB-after"], unit: "MiB", most: 25},
		{what: "anonymous memory, 1,000,000 records, after some registrations", value: r[million+"register"]["MiB"], unit: "MiB", most: 25},
		{what: "CPU a transaction of 100 events, 400 kB", value: r["Transaction"]["cpu-ms/transaction"], unit: "ms"},
		{what: "anonymous memory that transactions add", value: r["Transaction"]["MiB-more"], unit: "MiB"},
	}
	var table strings.Builder
	table.WriteString("| figure | measured | floor | measured / floor | target | reached |\n|---|---|---|---|---|---|\n")
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
		{"CPU a refusal, bad signature, kept connection", "Reject/kept/signature", cpuRefused, "ms"},
		{"CPU a registration, shared secret, 64 connections", shared + "64", cpu, "ms"},
		{"registrations, shared secret, 64 connections", shared + "64", perSecond, "/s"},
	} {
		c, p := withCgo.ms(w.name, w.unit), pureGo.ms(w.name, w.unit)
		fmt.Fprintf(&table, "| %s | %s %s | %s %s | %s times |\n", w.what, format(c), w.as, format(p), w.as, format(max(c, p)/min(c, p)))
	}
	return table.String()
}

// shapeTable is the cost against the load, and against the store's size.
func shapeTable(r results) string {
	var table strings.Builder
	table.WriteString("| connections | shared secret | CPU each | p50 | p99 | createUser | CPU each | p50 | p99 |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, conns := range r.points(shared, "") {
		fmt.Fprintf(&table, "| %v |", conns)
		for _, api := range []string{shared, created} {
			v := r[api+strconv.Itoa(conns)]
			fmt.Fprintf(&table, " %s /s | %s ms | %s ms | %s ms |", format(v[perSecond]), format(v[cpu]), format(v[median]), format(v["p99-ms"]))
		}
		table.WriteString("\n")
	}
	table.WriteString("\n| records | open | start to first answer | first record on disk, p50 | registration, p50 | CPU each |\n|---|---|---|---|---|---|\n")
	for _, size := range r.points("Size/records=", "/register") {
		name := "Size/records=" + strconv.Itoa(size) + "/"
		fmt.Fprintf(&table, "| %d | %s ms | %s ms | %s ms | %s ms | %s ms |\n", size, format(r.ms(name+"open", "ns/op")),
			format(r[name+"start"][median]), format(r[name+"reserve"][median]), format(r[name+"register"][median]), format(r[name+"register"][cpu]))
	}
	return table.String()
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
