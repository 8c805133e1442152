// cmd_backup.go owns the copy of the store: making one, beside a daemon too, and putting one back.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/boltfile"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

func backupCommand() *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "copy the store to a new file, whether a daemon runs or not",
		UsageText: programName + " [--datapath DIRECTORY] backup FILE",
		Before:    oneFile,
		Action:    backupAction,
	}
}

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "replace the store with a copy, while no daemon runs",
		UsageText: programName + " [--datapath DIRECTORY] restore FILE [--" + config.FlagForce + "]",
		Description: "The copy is checked record by record before anything changes. The previous store is kept as\n" +
			storeFile + files.BackupTail + ".",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: config.FlagForce, Usage: "replace a store that has records, or that cannot be read"},
		},
		Before: oneFile,
		Action: restoreAction,
	}
}

// oneFile checks the arguments of a command that takes the name of one file.
func oneFile(ctx context.Context, cmd *cli.Command) (context.Context, error) {
	if cmd.Args().Len() != 1 || cmd.Args().First() == "" {
		return ctx, fmt.Errorf("%s takes the name of one file: see %s %s --help", cmd.Name, programName, cmd.Name)
	}
	return ctx, nil
}

// readBoltPath reads where the store is, which is a file's directory: PostgreSQL has its own tools.
func readBoltPath(cmd *cli.Command) (string, error) {
	c, err := config.ReadStore(cmd)
	if err == nil && names.IsPostgres(c.DataPath) {
		err = errUsePgDump
	}
	return c.DataPath, err
}

func backupAction(ctx context.Context, cmd *cli.Command) error {
	dataPath, err := readBoltPath(cmd)
	if err != nil {
		return err
	}
	file := cmd.Args().First()
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s exists already: give another name", file)
	}
	dir, name := filepath.Split(file)
	draft, err := files.Draft(filepath.Clean(dir), name, func(f *os.File) error { return copyStore(ctx, dataPath, f) })
	if err != nil {
		return fmt.Errorf("back up the store in %s: %w", dataPath, err)
	}
	defer os.Remove(draft)
	counts, err := verifyCopy(ctx, draft)
	if err != nil {
		return fmt.Errorf("the copy is not whole, and was not kept: %w", err)
	}
	if err := files.Publish(draft, file); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: give another name", err)
	} else if err != nil {
		return err
	}
	if err := files.SyncDir(filepath.Clean(dir)); err != nil {
		return err
	}
	fmt.Fprintf(cmd.Root().Writer, "wrote %s: %s\n", file, inWords(counts))
	return nil
}

// copyStore writes a copy of the store. The daemon makes it; if none runs, this process does.
func copyStore(ctx context.Context, dataPath string, w io.Writer) error {
	res, err := askDaemon(ctx, dataPath, backupPath, nil)
	if errors.Is(err, errNoDaemon) {
		s, err := readStore(ctx, dataPath)
		if err != nil {
			return withoutSocket(err)
		}
		defer s.Close()
		return s.Backup(ctx, w)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(w, res.Body) // the length is known: an answer that is cut off is an error
	return err
}

// verifyCopy reads a copy of the store from end to end.
func verifyCopy(ctx context.Context, path string) (storeCounts, error) {
	s, err := readBoltStore(path)
	if unfit := (*unfitError)(nil); errors.As(err, &unfit) {
		return nil, errors.New(unfit.is) // what to do is meant for a store in its place
	}
	if err != nil {
		return nil, errors.Unwrap(err) // without the temporary name
	}
	defer s.Close()
	counts, err := s.verify(ctx)
	if errors.Is(err, boltfile.ErrDamaged) {
		return nil, errors.New("it is damaged")
	}
	return counts, err
}

func inWords(counts storeCounts) string {
	said := fmt.Sprintf("%d registered, %d pending", counts[stateRegistered], counts[statePending])
	if banned := counts[stateBanned]; banned > 0 {
		said += fmt.Sprintf(", %d banned", banned)
	}
	return said
}

func restoreAction(ctx context.Context, cmd *cli.Command) error {
	dataPath, err := readBoltPath(cmd)
	if err != nil {
		return err
	}
	kept, counts, err := restoreStore(ctx, cmd.Args().First(), dataPath, cmd.Bool(config.FlagForce))
	if err != nil {
		return err
	}
	out := cmd.Root().Writer
	if kept != "" {
		fmt.Fprintf(out, "kept the store that was there as %s\n", kept)
	}
	fmt.Fprintf(out, "restored %s: %s\n", filepath.Join(dataPath, storeFile), inWords(counts))
	return nil
}

// restoreStore puts the copy in the store's place. It copies the file first and then checks its own copy, so that the file
// that was checked is the one that becomes the store.
func restoreStore(ctx context.Context, file, dataPath string, force bool) (kept string, counts storeCounts, err error) {
	release, err := holdStore(ctx, dataPath, force)
	if err != nil {
		return "", nil, err
	}
	defer release()
	draft, err := files.Draft(dataPath, storeFile, func(f *os.File) error {
		return errors.Join(files.OwnAs(f, dataPath), files.Copy(file, f))
	})
	if err != nil {
		return "", nil, fmt.Errorf("copy %s: %w", file, err)
	}
	defer os.Remove(draft)
	if counts, err = verifyCopy(ctx, draft); err != nil {
		return "", nil, fmt.Errorf("%s cannot be restored: %w", file, err)
	}
	kept, err = replaceStore(draft, filepath.Join(dataPath, storeFile))
	if kept != "" {
		time.Sleep(boltfile.LockWait + boltfile.LockWait/5) // a daemon may have opened the old file and wait for its lock: let it give up
	}
	return kept, counts, err
}

// holdStore locks daemons out of the store. It refuses a store that a daemon serves and, unless forced, one that has records.
func holdStore(ctx context.Context, dataPath string, force bool) (release func(), err error) {
	if res, err := askDaemon(ctx, dataPath, statusPath, nil); !errors.Is(err, errNoDaemon) {
		if err == nil {
			res.Body.Close()
		}
		return nil, fmt.Errorf("a daemon serves the store in %s: stop it first", dataPath)
	}
	if err := os.MkdirAll(dataPath, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dataPath, storeFile)
	stat, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	if err == nil && !stat.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: move it away first", path)
	}
	if err == nil && !force {
		err = checkEmpty(path)
	}
	if err == nil {
		release, err = boltfile.Lock(path)
	}
	if errors.Is(err, boltfile.ErrLocked) || errors.Is(err, errStoreLocked) {
		return nil, fmt.Errorf("a daemon serves the store in %s: stop it first", dataPath)
	}
	if err != nil {
		return nil, err
	}
	return release, nil
}

// checkEmpty returns nil where the store has no record.
func checkEmpty(path string) error {
	s, err := readBoltStore(path)
	if errors.Is(err, errNoStore) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w; or use --%s, which keeps it as %s", err, config.FlagForce, storeFile+files.BackupTail)
	}
	defer s.Close()
	counts, err := s.counts()
	if err == nil && counts[stateRegistered]+counts[statePending]+counts[stateBanned] > 0 {
		err = fmt.Errorf("%s has records, %s: use --%s, which keeps it as %s", path, inWords(counts), config.FlagForce, storeFile+files.BackupTail)
	}
	return err
}

// replaceStore gives the store's name to the draft. It first gives the old file a second name, and then moves the draft in
// one step. So whenever the power fails, the store's name has the whole old file or the whole new one, and the old file is
// not lost.
func replaceStore(draft, path string) (kept string, err error) {
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return "", errors.Join(files.Publish(draft, path), files.SyncDir(dir)) // a daemon may have made one meanwhile
	}
	kept = path + files.BackupTail
	switch err := files.Keep(path, kept); {
	case err == nil, files.IsSame(path, kept): // as it is when this was interrupted before
	case errors.Is(err, os.ErrExist):
		return "", fmt.Errorf("%w: move it away first, so that it is not lost", err)
	default:
		return "", err
	}
	if err := files.SyncDir(dir); err != nil {
		return "", err
	}
	if err := os.Rename(draft, path); err != nil {
		return "", err
	}
	return kept, files.SyncDir(dir)
}
