// report.go owns what a finding is, and the report of all findings: one line each, and none with a secret.

package check

import (
	"fmt"
	"io"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// A Status is how bad a finding is.
type Status string

const (
	OK      Status = "ok"
	Note    Status = "note"    // right for some networks and not for others: the operator knows
	Warning Status = "warning" // nodes get in all the same
	Problem Status = "problem" // nodes do not get in, or others do
)

// A Finding is the verdict on one subject. It holds no token, secret, password or hash.
type Finding struct {
	Status  Status `json:"status"`
	Subject string `json:"subject"`
	Found   string `json:"found"`
	Do      string `json:"do,omitempty"` // the cure: the line to write, and where
}

func fine(subject, format string, args ...any) Finding {
	return Finding{OK, subject, fmt.Sprintf(format, args...), ""}
}

func note(subject, do, format string, args ...any) Finding {
	return Finding{Note, subject, fmt.Sprintf(format, args...), do}
}

func warning(subject, do, format string, args ...any) Finding {
	return Finding{Warning, subject, fmt.Sprintf(format, args...), do}
}

func problem(subject, do, format string, args ...any) Finding {
	return Finding{Problem, subject, fmt.Sprintf(format, args...), do}
}

// A Report is all findings, in the order of the rules.
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
		f.Found, f.Do = redact.Line(f.Found, r.secrets...), redact.Whole(f.Do, r.secrets...)
		switch f.Status {
		case OK:
			r.OK++
		case Note:
			r.Notes++
		case Warning:
			r.Warnings++
		case Problem:
			r.Problems++
		}
		r.Findings = append(r.Findings, f)
	}
}

// keepSecret adds secrets, which no finding may hold.
func (r *Report) keepSecret(secrets ...string) {
	for _, secret := range secrets {
		if len(secret) >= 4 { // a shorter one would only blot words out
			r.secrets = append(r.secrets, secret)
		}
	}
}

// Print writes a line for each finding and one for all of them.
func (r *Report) Print(out io.Writer) {
	for _, f := range r.Findings {
		fmt.Fprintf(out, "%-8s %s: %s", f.Status, f.Subject, f.Found)
		if f.Do != "" {
			fmt.Fprintf(out, "; %s", f.Do)
		}
		fmt.Fprintln(out)
	}
	notes := ""
	if r.Notes > 0 {
		notes = count(r.Notes, "note") + ", "
	}
	fmt.Fprintf(out, "%s, %s, %s%d ok\n", count(r.Problems, "problem"), count(r.Warnings, "warning"), notes, r.OK)
}

func count(number int, what string) string {
	if number != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", number, what)
}
