// store.go judges the store: whether it can be read, and how many records it has.

package check

import (
	"context"
	"errors"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// Errors of Input.ReadStore for a store that cannot be read although nothing is wrong.
var (
	ErrNoStore     = errors.New("there is no store yet")
	ErrStoreLocked = errors.New("the store is in use")
)

// An UnfitStore is an error of Input.ReadStore: no service starts with what is there.
type UnfitStore struct{ Is, Do string }

func (e UnfitStore) Error() string { return e.Is + ": " + e.Do }

// A StoreReading is what the store holds.
type StoreReading struct {
	Bytes               int64
	Registered, Pending int
}

// dataPathFile judges which users can read the URL of the store, which may hold a password.
func (chk *checking) dataPathFile(context.Context) []Finding {
	const subject = "store's URL"
	switch {
	case chk.Config.DataPathFile != "":
		return []Finding{judgeMode(subject, chk.Config.DataPathFile, 0o600)}
	case chk.Config.SecretArgs[config.FlagDataPath] != "":
		return []Finding{warning(subject, "write it into a file of mode 0600 and give --"+config.FlagDataPathFile+" FILE instead", "it holds a password, and other users of the machine see the command line")}
	}
	return nil
}

// store reads the store, or asks the daemon that has it to itself.
func (chk *checking) store(ctx context.Context) []Finding {
	const subject = "store"
	is := func(r StoreReading, by string) []Finding {
		return []Finding{fine(subject, "%s, %s%s: %d registered, %d pending", chk.StoreName, count(int(r.Bytes), "byte"), by, r.Registered, r.Pending)}
	}
	said, noDaemon := chk.daemon(ctx) // first: it has the file's lock, and to wait for that takes half a second
	if noDaemon == nil {
		return is(said.Store, ", in use by a running service")
	}
	read, err := chk.ReadStore(ctx)
	unfit, isUnfit := errors.AsType[UnfitStore](err)
	switch {
	case isUnfit:
		return []Finding{problem(subject, unfit.Do, "%s: %s, and the service does not start", chk.StoreName, unfit.Is).follows(subjectHomeserver + " server_name")}
	case err == nil:
		return is(read, "")
	case errors.Is(err, ErrNoStore):
		return []Finding{fine(subject, "%s is not there yet; the service makes it when it starts", chk.StoreName)}
	case names.IsPostgres(chk.Config.DataPath):
		return []Finding{problem(subject, "see that PostgreSQL runs, and that this role may use the schema, as docs/scaling.md has it", "%v", err)}
	case !errors.Is(err, ErrStoreLocked):
		return []Finding{problem(subject, cureOf(err, "do what the finding says; if the store is damaged, restore a backup"), "%v", err)}
	}
	if chk.runs {
		return []Finding{fine(subject, "%s is in use by the running service", chk.StoreName)}
	}
	return []Finding{warning(subject, "stop the process that has it, or start the service with the --"+config.FlagHost+" and --"+config.FlagPort+" that are checked here", "another process has it, and no service answers")}
}
