// cmd_migrate_test.go owns the tests of migrate, and of the other commands with a store in PostgreSQL.

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
)

// runs runs the program to its end.
func runs(t *testing.T, args ...string) (code int, said string) {
	t.Helper()
	var out strings.Builder
	code = run(append([]string{programName}, args...), &out, &out)
	return code, out.String()
}

// A store is copied whole, again where it was interrupted, and never over what a daemon has written since.
func TestMigrate(t *testing.T) {
	const count = 2*listPage + 203
	dir := filepath.Dir(makeCopy(t, count))
	url := newDatabase(t)
	interrupted, stop := context.WithCancel(t.Context())
	stop()
	if err := migrateStore(interrupted, dir, url, new(strings.Builder)); err == nil {
		t.Error("not interrupted")
	}
	s := openedPostgres(t, url)
	first := testRecord(0, stateRegistered)
	for i := range 10 { // a beginning was made
		r := testRecord(i, stateRegistered)
		if i == 9 {
			r.State = statePending
		}
		if added, _, err := s.add(t.Context(), []record{r}); err != nil || added != 1 {
			t.Fatal(added, err)
		}
	}
	steps := []struct {
		name     string
		before   func()
		wantCode int
		want     []string
	}{
		{"first", func() {}, 0, []string{fmt.Sprintf("copied %d, and 10 were there already", count-10), "every record of"}},
		{"again", func() {}, 0, []string{fmt.Sprintf("copied 0, and %d were there already", count), "every record of"}},
		{"a daemon is at work there", func() {
			later := first
			later.Updated, later.DisplayName = time.Now().UTC(), "later"
			keepRecord(t, s, later)
			keepRecord(t, s, testRecord(count+1, stateRegistered))
		}, 0, []string{"1 have changed since and 1 are new", "every record of"}},
		{"another record is there", func() {
			other := testRecord(1, stateRegistered)
			other.DisplayName = "other"
			keepRecord(t, s, other)
		}, 1, []string{"1 records are not in PostgreSQL as they are", "the first is " + testRecord(1, "").Localpart}},
	}
	for _, step := range steps {
		step.before()
		code, said := runs(t, "migrate", "--from", dir, "--to", url)
		for _, want := range step.want {
			if code != step.wantCode || !strings.Contains(said, want) {
				t.Errorf("%s: exit %d, want %d and %q\n%s", step.name, code, step.wantCode, want, said)
			}
		}
	}
	if r, err := s.Load(t.Context(), common.HexToAddress(first.Localpart)); err != nil || r.DisplayName != "later" {
		t.Errorf("the newer record: got %+v, %v", r, err)
	}
	if counts, err := s.counts(); err != nil || counts[stateRegistered]+counts[statePending] != count+1 {
		t.Errorf("got %v, %v", counts, err)
	}

	from, err := readBoltStore(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := s.pool.Conns.Exec(t.Context(), "DELETE FROM matrix_regservice.records WHERE address >= $1", common.HexToAddress(testRecord(2, "").Localpart).Bytes()); err != nil {
		t.Fatal(err)
	}
	left, err := s.counts()
	if err != nil {
		t.Fatal(err)
	}
	missing := count + 1 - left[stateRegistered] - left[statePending]
	found, err := compareStores(t.Context(), from, s, newProgress(new(strings.Builder), "compared", count))
	if err != nil || found.wrong < missing-1 || found.wrong > missing+1 {
		t.Errorf("%d are missing: got %+v, %v", missing, found, err)
	}
}

// What is not copied, and what is said of it.
func TestMigrateRefuses(t *testing.T) {
	url := newDatabase(t)
	served := opened(t, t.TempDir()).(*boltStore)
	file := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(file, []byte(url), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newDatabase(t)
	s := openedPostgres(t, other)
	if _, err := s.pool.Conns.Exec(t.Context(), "UPDATE matrix_regservice.meta SET server_name = 'example.org'"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"a daemon's":         {[]string{"--from", filepath.Dir(served.db.Bolt.Path()), "--to", url}, "a daemon serves the store in"},
		"none":               {[]string{"--from", t.TempDir(), "--to", url}, errNoStore.Error()},
		"nowhere":            {[]string{"--from", filepath.Dir(served.db.Bolt.Path())}, "nowhere to migrate to"},
		"to a directory":     {[]string{"--from", filepath.Dir(served.db.Bolt.Path()), "--to", "elsewhere"}, "nowhere to migrate to"},
		"twice":              {[]string{"--to", url, "--to-file", file}, "both given"},
		"another homeserver": {[]string{"--from", filepath.Dir(makeCopy(t, 3)), "--to", other}, "it belongs to example.org"},
	} {
		if code, said := runs(t, append([]string{"migrate"}, test.args...)...); code != 1 || !strings.Contains(said, test.want) || strings.Count(said, "\n") != 1 {
			t.Errorf("%s: exit %d, want %q\n%s", name, code, test.want, said)
		}
	}
	if code, said := runs(t, "migrate", "--to-file", file); code != 0 || !strings.Contains(said, "the schema is up to date") {
		t.Errorf("exit %d\n%s", code, said)
	}
}

// How far it is, is said in lines of their own, once a period.
func TestProgress(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out, "copied", 100)
	p.add(25)
	if out.Len() > 0 {
		t.Errorf("said at once: %q", out.String())
	}
	p.period = 0
	p.add(25)
	if got := out.String(); !strings.HasPrefix(got, "copied 50 of 100, ") || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q", got)
	}
}

// The commands that look into the store, where it is in PostgreSQL.
func TestPostgresCommands(t *testing.T) {
	url := newDatabase(t)
	t.Setenv("MATRIX_REGSERVICE_DATAPATH", url)
	t.Chdir(t.TempDir())
	if code, said := runs(t, "users"); code != 1 || !strings.Contains(said, "there is no store yet") {
		t.Errorf("users of none: exit %d\n%s", code, said)
	}
	s := openedPostgres(t, url)
	for i := range 5 {
		keepRecord(t, s, testRecord(i, []state{stateRegistered, statePending}[i%2]))
	}
	if code, said := runs(t, "users", "--state", "pending"); code != 0 || strings.Count(said, "\n") != 3 || !strings.Contains(said, testRecord(1, "").UserID) {
		t.Errorf("users: exit %d\n%s", code, said)
	}
	for _, command := range []string{"backup", "restore"} {
		if code, said := runs(t, command, "file"); code != 1 || !strings.Contains(said, "pg_dump --format=custom --schema=matrix_regservice") {
			t.Errorf("%s: exit %d\n%s", command, code, said)
		}
	}
	if _, said := runs(t, "--matrixdomain", testServerName, "check", "--all"); !strings.Contains(said, "store: postgres:///") || !strings.Contains(said, ": 3 registered, 2 pending") {
		t.Errorf("check: %s", said)
	}
	s.Close()
}

// The URL in a file is read like a secret, and run.sh names the file.
func TestDataPathFile(t *testing.T) {
	t.Chdir(t.TempDir())
	const url = "postgres://u:Geheim0815@127.0.0.1:1/db"
	if err := os.WriteFile("url", []byte(url+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	domain := []string{"--matrixdomain", testServerName}
	if code, said := runs(t, append(domain, "--datapath", url, "genconfig")...); code != 1 || !strings.Contains(said, "give --datapath-file FILE") {
		t.Errorf("a password for the command line: exit %d\n%s", code, said)
	}
	if code, said := runs(t, append(domain, "--datapath-file", "url", "genconfig")...); code != 0 {
		t.Fatalf("exit %d\n%s", code, said)
	}
	script, err := os.ReadFile(config.RunFile)
	if err != nil || !strings.Contains(string(script), " --datapath-file url ") || strings.Contains(string(script), "Geheim") || strings.Contains(string(script), "--datapath .matrix") {
		t.Errorf("%v\n%s", err, script)
	}
	its := regexp.MustCompile(`exec \S+`).ReplaceAll(script, []byte("exec "+programName)) // not this test's file
	if err := os.WriteFile(config.RunFile, its, 0o700); err != nil {
		t.Fatal(err)
	}
	_, said := runs(t, "check")
	for _, want := range []string{"store's URL: url has mode 0644", "problem  store: open the store postgres://127.0.0.1:1/db: failed to connect"} {
		if !strings.Contains(said, want) || strings.Contains(said, "Geheim") {
			t.Errorf("check: want %q\n%s", want, said)
		}
	}
	if _, said := runs(t, "--datapath", url, "check"); !strings.Contains(said, "warning  store's URL: it holds a password") {
		t.Errorf("check: %s", said)
	}
	t.Run("both from the environment", func(t *testing.T) {
		t.Setenv("MATRIX_REGSERVICE_DATAPATH", "x")
		t.Setenv("MATRIX_REGSERVICE_DATAPATH_FILE", "url")
		if code, said := runs(t, "users"); code != 1 || !strings.Contains(said, "both given") {
			t.Errorf("exit %d\n%s", code, said)
		}
	})
	for _, args := range [][]string{{"--datapath", url, "users"}, {"migrate", "--to", url}} {
		if code, said := runs(t, args...); code != 1 || !strings.HasPrefix(said, programName+": warning: a secret is in the command line (--") || strings.Contains(said, "Geheim") {
			t.Errorf("%s: exit %d\n%s", args[0], code, said)
		}
	}
	for content, want := range map[string]string{
		"u:Geheim0815@127.0.0.1:1/db":                    "--datapath-file: bad holds no PostgreSQL URL",
		"postgres://u:Geheim0815%@127.0.0.1/db":          "percent-encoded",
		url + "?sslmode=verifyfull":                      "a parameter that cannot be",
		url + "?sslmode=verify-full&sslrootcert=nowhere": "a file that cannot be read: open nowhere: no such file",
	} {
		if err := os.WriteFile("bad", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, said := runs(t, "--datapath-file", "bad", "users"); code != 1 || !strings.Contains(said, want) || strings.Contains(said, "Geheim") {
			t.Errorf("%s: exit %d\n%s", content, code, said)
		}
	}
	t.Setenv("MATRIX_REGSERVICE_DATAPATH", "") // as the environment file has it, against the unit's
	if code, said := runs(t, "--datapath-file", "url", "users"); code != 1 || strings.Contains(said, "both given") {
		t.Errorf("exit %d\n%s", code, said)
	}
}

var sqlBlock = regexp.MustCompile("(?ms)^```sql\n(.*?)^```$")

// docLine is the line of the document that begins so.
func docLine(t *testing.T, begin string) []string {
	t.Helper()
	doc, err := os.ReadFile("docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == begin && strings.HasPrefix(line, "    ") {
			return words
		}
	}
	t.Fatalf("no line begins with %s", begin)
	return nil
}

// The roles of docs/scaling.md: the daemon's can register nodes, and cannot make, change or remove the schema.
func TestPostgresRoles(t *testing.T) {
	doc, err := os.ReadFile("docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	statements := string(sqlBlock.FindSubmatch(doc)[1])
	p := postgresServer(t)
	sql(t, p, "postgres", statements)
	daemons, owners := p.URL("matrix_regservice", "matrix_regservice"), p.URL("matrix_regservice_owner", "matrix_regservice")

	if _, err := openStore(t.Context(), daemons, testServerName); err == nil || !strings.Contains(err.Error(), "this role may not change it: run matrix-regservice migrate --to-file FILE once with the owner's URL") {
		t.Errorf("without a schema: got %v", err)
	}
	if code, said := runs(t, "migrate", "--to", owners); code != 0 {
		t.Fatal(said)
	}
	d := newGatewayOn(t, homeserver.SharedSecretPath, opened(t, daemons))
	proof, n := newProof(t)
	if got := d.send(proof); got.status != 200 || d.state(n) != stateRegistered {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if err := d.store.CheckWritable(); err != nil {
		t.Error(err)
	}
	for _, statement := range []string{"DROP TABLE matrix_regservice.claims", "CREATE TABLE matrix_regservice.t ()", "CREATE SCHEMA s", "TRUNCATE matrix_regservice.records", "DROP SCHEMA matrix_regservice CASCADE"} {
		if _, err := d.store.(*postgresStore).pool.Conns.Exec(t.Context(), statement); sqlState(err) != "42501" && !strings.Contains(fmt.Sprint(err), "must be owner") {
			t.Errorf("%s: got %v", statement, err)
		}
	}
	sql(t, p, "matrix_regservice", "UPDATE matrix_regservice.meta SET version = 0")
	if _, err := openStore(t.Context(), daemons, testServerName); err == nil || !strings.Contains(err.Error(), "its schema has version 0, this program needs") {
		t.Errorf("with an old schema: got %v", err)
	}
	sql(t, p, "matrix_regservice", fmt.Sprintf("UPDATE matrix_regservice.meta SET version = %d; REVOKE ALL ON SCHEMA matrix_regservice FROM matrix_regservice", len(postgresSchema.Steps)))
	if _, err := openStore(t.Context(), daemons, testServerName); err == nil || !strings.Contains(err.Error(), "this role has no rights in the schema") {
		t.Errorf("without rights: got %v", err)
	}
}

// The commands of docs/scaling.md copy the record and put it back.
func TestPostgresDump(t *testing.T) {
	p := postgresServer(t)
	url := newDatabase(t)
	s := openedPostgres(t, url)
	const count = 50
	for i := range count {
		keepRecord(t, s, testRecord(i, stateRegistered))
	}
	restored := databaseOf(newDatabase(t))
	t.Setenv("PGHOST", p.Dir)
	t.Setenv("PGPORT", fmt.Sprint(p.Port))
	t.Setenv("PGUSER", "postgres")
	for _, step := range []struct{ begin, database string }{{"pg_dump", databaseOf(url)}, {"pg_restore", restored}} {
		words := docLine(t, step.begin)
		for i, word := range words {
			if word == "matrix_regservice" || word == "--dbname=matrix_regservice" {
				words[i] = strings.Replace(word, "matrix_regservice", step.database, 1)
			}
		}
		if out, err := p.Command(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", words, err, out)
		}
	}
	if !strings.Contains(errUsePgDump.Error(), strings.Join(docLine(t, "pg_dump")[:3], " ")) {
		t.Errorf("the command says otherwise: %v", errUsePgDump)
	}
	again := openedPostgres(t, strings.Replace(url, databaseOf(url), restored, 1))
	found, err := compareStores(t.Context(), s, again, newProgress(new(strings.Builder), "compared", count))
	if err != nil || found != (comparison{}) {
		t.Errorf("got %+v, %v", found, err)
	}
	keepRecord(t, again, testRecord(count, stateRegistered))
	if counts, err := again.counts(); err != nil || counts[stateRegistered] != count+1 {
		t.Errorf("got %v, %v", counts, err)
	}
}
