// registrar_times_test.go owns how long an attempt may take, in the code and in the documents.

package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/pgdb"
)

// The phases of an attempt fit into it, and it fits into everything that waits for it, in the program and outside.
func TestTimes(t *testing.T) {
	const byDefault = 60 * time.Second // nginx's proxy_read_timeout where none is written, as in README.md
	read := func(file, form string) time.Duration {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(form).FindSubmatch(content)
		if found == nil {
			t.Fatalf("%s: no %s", file, form)
		}
		seconds, err := strconv.Atoi(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		return time.Duration(seconds) * time.Second
	}
	const slack = time.Second
	for _, fits := range []struct {
		name        string
		inner, into time.Duration
	}{
		{"a look-up, a creation and another look-up into an attempt", homeserver.ReadTime + homeserver.ProvisionTime + homeserver.ReadTime, attemptTime},
		{"name, token, account and password into an attempt", 2*homeserver.ReadTime + homeserver.ProvisionTime + homeserver.CreateTime, attemptTime},
		{"an attempt into the wait for it", attemptTime + slack, waitTime},
		{"wait, attempt and last write into the time of an answer", waitTime + attemptTime + pgdb.QueryTime, answerTime},
		{"claim, attempt and last write into the lease", pgdb.QueryTime + attemptTime + pgdb.QueryTime + slack, leaseTime},
		{"a lease into the age of records that are reconciled", leaseTime + slack, reconcileAfter},
		{"an attempt and its last write into the drain", attemptTime + pgdb.QueryTime + slack, drainTime},
		{"the drain into systemd's patience", drainTime + 5*time.Second, read("deploy/matrix-regservice.service", `\nTimeoutStopSec=(\d+)s\n`)},
		{"the drain into Docker's patience", drainTime + 5*time.Second, read("deploy/Dockerfile", `docker run --stop-timeout (\d+) `)},
		{"an answer into the patience of register", answerTime + slack, nodeCallTime},
		{"an answer into nginx's patience", answerTime + slack, read("deploy/nginx.conf", `(?s)location = /regapp/1/register \{.*?proxy_read_timeout (\d+)s;`)},
		{"an answer into nginx's patience by default", answerTime + slack, byDefault},
		{"an answer into the minute that docs/http.md tells clients", answerTime + slack, time.Minute},
	} {
		if fits.inner > fits.into {
			t.Errorf("%s: %v into %v", fits.name, fits.inner, fits.into)
		}
	}
}

// What the documents say of these times is so, and is said wherever it was.
func TestTimesInDocuments(t *testing.T) {
	in := func(format string, times ...time.Duration) string {
		seconds := make([]any, len(times))
		for i, each := range times {
			seconds[i] = fmt.Sprintf("%d s", int(each.Seconds()))
		}
		return fmt.Sprintf(format, seconds...)
	}
	for _, says := range []struct{ file, text string }{
		{"docs/design.md", in("holds its claim for at most %s. Other requests for the address wait for it up to %s", attemptTime, waitTime)},
		{"docs/reference.md", in("requests in flight are finished, for at most %s", drainTime)},
		{"docs/http.md", in("an earlier attempt for this address still runs after %s of waiting", waitTime)},
		{"docs/http.md", in("One attempt takes at most %s, and waits at most %s for another of the same address. A client should wait a minute.", attemptTime, waitTime)},
		{"docs/upgrading.md", in("requests in flight are finished first, for at most %s", drainTime)},
		{"docs/scaling.md", in("keeps it for what is left of %s", leaseTime)},
		{"docs/scaling.md", in("An attempt that outlasts its %s", leaseTime)},
		{"docs/design.md", in("%s ahead on the database's own clock", leaseTime)},
		{"docs/troubleshooting.md", in("For up to %s this address is answered with 429", leaseTime)},
		{"deploy/matrix-regservice.1.in", in("It finishes requests in flight first, for at most %s.", drainTime)},
		{"docs/nodes.md", in("an attempt takes up to %s", attemptTime)},
		{"deploy/matrix-regservice.service", in("# Requests in flight get %s.", drainTime)},
	} {
		content, err := os.ReadFile(says.file)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(strings.Fields(string(content)), " "); !strings.Contains(text, says.text) {
			t.Errorf("%s does not say: %s", says.file, says.text)
		}
	}
}
