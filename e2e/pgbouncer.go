// pgbouncer.go owns a PgBouncer of one's own, before a PostgreSQL of one's own: on a socket in that one's directory, and
// with few connections behind it, so that its clients really share them.

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/SmartMeshFoundation/matrix-regservice/e2e/need"
)

// pgBouncerPort names its socket; nothing listens on a port.
const pgBouncerPort = 6432

// A PgBouncer is one pooler. It lets the superuser in, and nobody else.
type PgBouncer struct {
	Dir     string
	process *process
}

// PgBouncerInstalled returns nil when PgBouncer is there, and what to install otherwise.
func PgBouncerInstalled() error { _, err := findPgBouncer(); return err }

func findPgBouncer() (string, error) {
	const debian = "/usr/sbin/pgbouncer" // off the PATH
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	if _, err := os.Stat(debian); err != nil {
		return "", need.Missing{What: "PgBouncer", Cure: "apt-get install pgbouncer"}
	}
	return debian, nil
}

// StartPgBouncer starts one before the PostgreSQL, with this pool_mode. Close has to be called, on an error too where it is
// not nil.
func StartPgBouncer(ctx context.Context, p *Postgres, mode string) (*PgBouncer, error) {
	program, err := findPgBouncer()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(p.Dir, "b-")
	if err != nil {
		return nil, err
	}
	b := &PgBouncer{Dir: dir}
	config, users, log := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "users"), filepath.Join(dir, "log")
	settings := fmt.Sprintf("[databases]\n* = host=%s port=%d\n[pgbouncer]\nlisten_addr =\nlisten_port = %d\nunix_socket_dir = %s\n"+
		"auth_type = trust\nauth_file = %s\npool_mode = %s\ndefault_pool_size = 3\n", p.Dir, p.Port, pgBouncerPort, dir, users, mode)
	err = errors.Join(os.WriteFile(users, []byte(`"postgres" ""`+"\n"), 0o644), os.WriteFile(config, []byte(settings), 0o644))
	if p.owner != nil {
		err = errors.Join(err, os.Chown(dir, int(p.owner.Uid), int(p.owner.Gid)))
	}
	if err != nil {
		return b, err
	}
	if b.process, err = startProcess("PgBouncer", log, p.Command(context.WithoutCancel(ctx), program, config)); err != nil {
		return b, err
	}
	if err := b.process.ready(ctx, func(context.Context) bool {
		_, err := os.Stat(filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d", pgBouncerPort)))
		return err == nil
	}); err != nil {
		return b, fmt.Errorf("%w\n%s", err, logTail(log))
	}
	return b, nil
}

// URL leads to the database as the superuser, through it.
func (b *PgBouncer) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d", database, b.Dir, pgBouncerPort)
}

// Close ends it at once, and removes all that is left of it.
func (b *PgBouncer) Close() error {
	_, err := b.process.stop()
	return errors.Join(err, os.RemoveAll(b.Dir))
}
