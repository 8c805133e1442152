// check_store.go judges the store: whether it can be read, and what it holds.

package main

import (
	"context"
	"errors"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// What readStoreCounts of a checkInput says of a store that cannot be read, where that is no fault.
var (
	errCheckNoStore     = errors.New("there is no store yet")
	errCheckStoreLocked = errors.New("the store is in use")
)

// A storeReading is what the store holds.
type storeReading struct {
	Bytes               int64
	Registered, Pending int
}

// dataPathFile judges who can read the URL of the store, which may hold a password.
func (l *liveCheck) dataPathFile(context.Context) []finding {
	const subject = "store's URL"
	switch {
	case l.config.DataPathFile != "":
		return []finding{judgeMode(subject, l.config.DataPathFile, 0o600)}
	case l.config.SecretArgs[config.FlagDataPath] != "":
		return []finding{warning(subject, "write it into a file of mode 0600 and give --"+config.FlagDataPathFile+" FILE instead", "it holds a password, and other users of the machine see the command line")}
	}
	return nil
}

// store reads the store, or asks the daemon that has it to itself.
func (l *liveCheck) store(ctx context.Context) []finding {
	const subject = "store"
	is := func(r storeReading, by string) []finding {
		return []finding{fine(subject, "%s, %s%s: %d registered, %d pending", l.storeName, count(int(r.Bytes), "byte"), by, r.Registered, r.Pending)}
	}
	read, err := l.readStore(ctx)
	switch {
	case err == nil:
		return is(read, "")
	case errors.Is(err, errCheckNoStore):
		return []finding{fine(subject, "%s is not there yet; the service makes it when it starts", l.storeName)}
	case names.IsPostgres(l.config.DataPath):
		return []finding{problem(subject, "see that PostgreSQL runs, and that this role may use the schema, as docs/deployment.md has it", "%v", err)}
	case !errors.Is(err, errCheckStoreLocked):
		return []finding{problem(subject, "see what is said of it, and put a backup in its place if it is damaged", "%v", err)}
	}
	if said, err := l.askStatus(ctx); err == nil {
		return is(said, ", in use by a running service")
	}
	if l.runs {
		return []finding{fine(subject, "%s is in use by the running service", l.storeName)}
	}
	return []finding{warning(subject, "stop whatever holds it, or start the service with the --"+config.FlagHost+" and --"+config.FlagPort+" that are checked here", "another process has it, and no service answers")}
}
