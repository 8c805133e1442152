// report.go owns what a finding is, and the report of all findings: problems first, each cause once, what follows from it beneath it,
// and nothing with a secret.

package check

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// A Status is how bad a finding is.
type Status string

const (
	OK      Status = "ok"
	Note    Status = "note"    // right for some networks and not for others, or not looked at: the operator knows
	Warning Status = "warning" // nodes get in all the same
	Problem Status = "problem" // nodes do not get in, or others do
)

// A Finding is the verdict on one subject. It holds no token, secret, password or hash.
type Finding struct {
	Status  Status `json:"status"`
	Subject string `json:"subject"`
	Found   string `json:"found"`
	Do      string `json:"do,omitempty"`      // the cure: the line to write, and where
	Because string `json:"because,omitempty"` // the subject of the finding that this one follows from

	line   *line  // the setting that Do writes, where it is one and nothing else
	causes string // the subjects that it may follow from, one a line, until it is known which of them are problems
	cure   string // Do, with the lines to paste marked
	unseen bool   // it was not looked at
	stops  bool   // it leaves nothing to ask for the rules that need it
}

func fine(subject, format string, args ...any) Finding {
	return Finding{Status: OK, Subject: subject, Found: fmt.Sprintf(format, args...)}
}

func note(subject, do, format string, args ...any) Finding {
	return Finding{Status: Note, Subject: subject, Found: fmt.Sprintf(format, args...), Do: do}
}

func warning[C cure](subject string, do C, format string, args ...any) Finding {
	return cured(Warning, subject, do, fmt.Sprintf(format, args...))
}

func problem[C cure](subject string, do C, format string, args ...any) Finding {
	return cured(Problem, subject, do, fmt.Sprintf(format, args...))
}

// A cure is a text, or the line of a setting.
type cure interface{ string | line }

func cured[C cure](status Status, subject string, do C, found string) Finding {
	f := Finding{Status: status, Subject: subject, Found: found}
	switch do := any(do).(type) {
	case string:
		f.Do = do
	case line:
		f.Do, f.line = do.String(), &do
	}
	return f
}

const notLookedAt = "not checked, because "

// unseen is the finding on what was not looked at, and why.
func unseen(subject, format string, args ...any) Finding {
	return Finding{Status: Note, Subject: subject, Found: notLookedAt + fmt.Sprintf(format, args...), unseen: true}
}

// follows says which findings this one follows from, if one of them is a problem.
func (f Finding) follows(causes ...string) Finding {
	if f.Status != OK {
		f.causes = strings.Join(causes, "\n")
	}
	return f
}

// stopping says that the rules that need this one have nobody to ask.
func (f Finding) stopping() Finding {
	f.stops = true
	return f
}

// pasteMark stands before and after a line of a cure that is to be pasted as it is.
const pasteMark = "`"

// paste marks a line of a cure.
func paste(line string) string {
	return pasteMark + strings.ReplaceAll(line, pasteMark, "'") + pasteMark
}

// A Report is all findings, in the order of the rules. A finding that follows from another is not counted.
type Report struct {
	Findings []Finding `json:"findings"`
	OK       int       `json:"ok"`
	Notes    int       `json:"notes"`
	Warnings int       `json:"warnings"`
	Problems int       `json:"problems"`

	secrets []string // in files and of servers, which no finding may hold
}

// add adds findings, each on one line and without the secrets. What to do is whole, however long the line to write is.
func (r *Report) add(found ...Finding) {
	for _, f := range found {
		f.Found, f.cure = redact.Line(f.Found, r.secrets...), redact.Whole(f.Do, r.secrets...)
		f.Do = strings.ReplaceAll(f.cure, pasteMark, "")
		r.Findings = append(r.Findings, f)
	}
}

// of returns the finding on the subject.
func (r *Report) of(subject string) (Finding, bool) {
	for _, f := range r.Findings {
		if f.Subject == subject {
			return f, true
		}
	}
	return Finding{}, false
}

// finish finds the cause of each finding, and counts those that have none.
func (r *Report) finish() {
	for i := range r.Findings {
		r.Findings[i].Because = r.rootOf(r.Findings[i])
	}
	for _, f := range r.Findings {
		switch {
		case f.Because != "":
		case f.Status == OK:
			r.OK++
		case f.Status == Note:
			r.Notes++
		case f.Status == Warning:
			r.Warnings++
		case f.Status == Problem:
			r.Problems++
		}
	}
}

// rootOf follows the causes to the problem that has none. No two findings follow from each other, so that this ends. A cause that
// was not looked at explains only what was not looked at either: whatever was found wrong all the same is wrong by itself.
func (r *Report) rootOf(f Finding) string {
	for cause := range strings.Lines(f.causes) {
		its, isThere := r.of(strings.TrimSpace(cause))
		switch {
		case !isThere || its.Subject == f.Subject:
		case its.Status == Problem:
			return cmp.Or(r.rootOf(its), its.Subject)
		case f.unseen && its.unseen && its.causes != "":
			if root := r.rootOf(its); root != "" {
				return root
			}
		}
	}
	return ""
}

// keepSecret keeps secrets, which no finding may hold.
func (r *Report) keepSecret(secrets ...string) {
	for _, secret := range secrets {
		if len(secret) >= 4 { // a shorter one would only blot words out
			r.secrets = append(r.secrets, secret)
		}
	}
}

// A Style is how a report is printed.
type Style struct {
	All     bool // what is ok, too
	Colours bool
}

// Print writes the problems, then warnings and notes, each with its cure and what follows from it; at last how many there are.
func (r *Report) Print(out io.Writer, style Style) {
	for _, status := range []Status{Problem, Warning, Note, OK} {
		for _, f := range r.Findings {
			if f.Status == status && f.Because == "" && (status != OK || style.All) {
				r.print(out, style, f)
			}
		}
	}
	notes, hint := "", ""
	if r.Notes > 0 {
		notes = count(r.Notes, "note") + ", "
	}
	if r.OK > 0 && !style.All {
		hint = " (--all shows what is ok)"
	}
	fmt.Fprintf(out, "%s, %s, %s%d ok%s\n", count(r.Problems, "problem"), count(r.Warnings, "warning"), notes, r.OK, hint)
}

func (r *Report) print(out io.Writer, style Style, f Finding) {
	fmt.Fprintf(out, "%s %s: %s\n", style.paint(colourOf[f.Status], fmt.Sprintf("%-8s", f.Status)), f.Subject, f.Found)
	for _, line := range linesOf(f.cure) {
		if line.isToPaste {
			fmt.Fprintf(out, "        %s\n", style.paint(bold, line.text))
			continue
		}
		fmt.Fprintf(out, "    %s\n", line.text)
	}
	var unseen []string
	for _, its := range r.Findings {
		switch {
		case its.Because != f.Subject:
		case its.unseen:
			unseen = append(unseen, its.Subject)
		case its.Status != OK:
			fmt.Fprintf(out, "    so also %s: %s\n", its.Subject, its.Found)
		}
	}
	if len(unseen) > 0 {
		fmt.Fprintf(out, "    and not checked: %s\n", strings.Join(unseen, ", "))
	}
}

// A cureLine is a line of a cure.
type cureLine struct {
	text      string
	isToPaste bool
}

// linesOf takes a cure apart: what is to be pasted has lines of its own.
func linesOf(cure string) []cureLine {
	var lines []cureLine
	for i, part := range strings.Split(cure, pasteMark) {
		if i%2 == 0 {
			part = strings.Trim(part, " ;,")
		}
		if part != "" {
			lines = append(lines, cureLine{part, i%2 == 1})
		}
	}
	return lines
}

// ANSI's colours.
const (
	bold   = "1"
	red    = "1;31"
	yellow = "33"
	cyan   = "36"
	green  = "32"
)

var colourOf = map[Status]string{Problem: red, Warning: yellow, Note: cyan, OK: green}

func (s Style) paint(colour, text string) string {
	if !s.Colours {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// overrule makes a warning of a problem that was only read, where what was measured says otherwise: the setting counts at the next
// start alone, or is another homeserver's.
func (r *Report) overrule(rules []rule) {
	for _, rule := range rules {
		at := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Subject == rule.subject })
		if at < 0 || rule.unless == "" || r.Findings[at].Status != Problem {
			continue
		}
		if said, ok := r.of(rule.unless); ok && said.Status == OK {
			f := &r.Findings[at]
			f.Status = Warning
			f.Found += "; but " + said.Subject + ": " + said.Found + ", so that this is not what runs now"
		}
	}
}

func count(number int, what string) string {
	if number != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", number, what)
}
