// homeserver_yaml_files.go owns which of the homeserver's settings are read: those that were named, those that the running Synapse was
// started with, or those that are here. And what there is to say of the reading itself.

package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/files"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/synapse"
)

var errNoSettings = errors.New("there is no " + config.HomeserverFile + " here")

// readAllSettings reads the settings of the homeserver; where none were named, not those of another program than the one that
// answers.
func (chk *checking) readAllSettings() []settingsFile {
	if named := chk.HomeserverConfig; len(named) > 0 {
		if chk.server.Name == homeserver.Dendrite || filepath.Base(named[0]) == DendriteFile {
			return []settingsFile{readSettings(named)}
		}
		s := readSynapse(named, "as --"+FlagHomeserverConfig+" names them")
		if s.isDendrite() {
			s = readSettings(named)
		}
		return []settingsFile{s}
	}
	var all []settingsFile
	if chk.server.Name != homeserver.Dendrite {
		if paths, why := synapse.Choose(chk.process, chk.processErr); len(paths) > 0 {
			all = append(all, readSynapse(paths, why))
		}
	}
	if _, err := os.Stat(DendriteFile); err == nil && chk.server.Name != homeserver.Synapse {
		all = append(all, readSettings([]string{DendriteFile}))
	}
	if len(all) == 0 {
		return []settingsFile{{path: config.HomeserverFile, err: errNoSettings}}
	}
	return all
}

// readSynapse reads the files, and those of the directories, as Synapse does.
func readSynapse(paths []string, why string) settingsFile {
	read, err := synapse.Read(paths)
	hidden := error(nil)
	if errors.Is(err, os.ErrPermission) && len(read.Keys) > 0 {
		hidden, err = err, nil
	}
	if err == nil && len(read.Keys) == 0 {
		err = fmt.Errorf("%s holds no settings", strings.Join(paths, ", "))
	}
	return settingsFile{path: paths[0], keys: read.Keys, from: read.From, err: err, hidden: hidden, ofSynapse: read, why: why}
}

// readSettings reads the files of another server, and those of directories in the order of their names. A key of a later file
// takes the place of the whole key of an earlier one.
func readSettings(paths []string) settingsFile {
	s := settingsFile{path: paths[0], keys: map[any]any{}, from: map[any]string{}}
	var found []string
	for _, path := range paths {
		inside, err := os.ReadDir(path) // sorted
		if err != nil {
			found = append(found, path)
			continue
		}
		for _, entry := range inside {
			if strings.HasSuffix(entry.Name(), ".yaml") {
				found = append(found, filepath.Join(path, entry.Name()))
			}
		}
	}
	for _, path := range found {
		file, err := files.ReadYAML(path)
		if err != nil {
			if _, fault := synapse.DecodeFile(path); fault != nil { // which says what is wrong there, too
				err = fault
			}
			s.err = err
			return s
		}
		for key, value := range file.Keys {
			s.keys[key], s.from[key] = value, path
		}
	}
	return s
}

// unreadable says why settings cannot be judged, and what to do: a file that is not here is another thing than one that has a
// fault.
func (j judging) unreadable() Finding {
	subject, err := config.HomeserverFile, j.settings.err
	if filepath.Base(j.settings.path) == DendriteFile {
		subject = DendriteFile
	}
	switch {
	case errors.Is(err, errNoSettings): // they may be on another machine
		return warning(subject, "run this in the homeserver's directory, or name the file: "+paste("--"+FlagHomeserverConfig+" FILE"), notLookedAt+"%v", err)
	case errors.Is(err, os.ErrNotExist):
		return problem(subject, "run this in the homeserver's directory, or name the file with --"+FlagHomeserverConfig, "%v", err)
	case errors.Is(err, os.ErrPermission):
		return problem(subject, RunAs(err), "it is there and cannot be read: %v", err)
	}
	return problem(subject, "repair it there"+thenRestart, "%v; the homeserver does not start with it", err)
}

// withoutHidden has what is found wrong with a setting follow from the file that this user may not read, where that may have another
// value.
func (j judging) withoutHidden(found []Finding) []Finding {
	if j.settings.hidden == nil {
		return found
	}
	for i, f := range found {
		setting := strings.TrimPrefix(f.Subject, config.HomeserverFile+" ")
		key := strings.FieldsFunc(setting, func(r rune) bool { return r == ' ' || r == '.' })[0]
		switch {
		case f.Subject == config.HomeserverFile:
			found[i] = problem(f.Subject, RunAs(j.settings.hidden), "it is there and cannot be read: %v; the settings are checked without it", j.settings.hidden)
		case f.Status != OK && !j.settings.ofSynapse.IsSure(key):
			found[i].causes = strings.Join([]string{config.HomeserverFile, f.causes}, "\n")
		}
	}
	return found
}

// RunAs says who may read what this user may not: whose the file is, or the directory above it that keeps this user out.
func RunAs(err error) string {
	its := (*os.PathError)(nil)
	if !errors.As(err, &its) {
		return "run this as root"
	}
	for path, what := whole(its.Path), "it"; ; path, what = filepath.Dir(path), filepath.Dir(path) {
		switch owner := synapse.OwnerOf(path); {
		case owner.IsKnown() && owner.UID != 0:
			return "run this as " + owner.Name() + ", whose " + what + " is, or as root"
		case owner.IsKnown() || path == filepath.Dir(path):
			return "run this as root"
		}
	}
}

// filesRead says which files were read, and which of them Synapse passes over although they look as if they were meant.
func (j judging) filesRead() []Finding {
	s := j.settings
	found := []Finding{fine(config.HomeserverFile, "read %s, %s", strings.Join(s.ofSynapse.Files, ", "), s.why)}
	subject := config.HomeserverFile + " files passed over"
	var passedOver []string
	stops := false
	for _, skipped := range s.ofSynapse.Skipped {
		if skipped.StopsOld && j.isOld() {
			stops = true
		} else if skipped.HoldsNothing || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(skipped.Path)) {
			continue
		}
		passedOver = append(passedOver, skipped.Path+", which "+skipped.Why)
	}
	switch what := strings.Join(passedOver, "; and over "); {
	case stops:
		return append(found, problem(subject, "take it away"+thenRestart, "the homeserver does not start with %s", what))
	case len(passedOver) > 0:
		return append(found, warning(subject, "repair it"+thenRestart+"; or take it away", "the homeserver passes over %s", what))
	}
	return append(found, fine(subject, "none"))
}
