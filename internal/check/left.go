// left.go owns what is left to do at a homeserver that is being set up: the settings that are not yet as nodes need them, as lines to
// paste.

package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/config"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/homeserver"
	"github.com/SmartMeshFoundation/matrix-regservice/internal/redact"
)

// A Left is what is left to do at the homeserver.
type Left struct {
	Software homeserver.Software // that answers; its Name alone where only the settings tell
	Found    bool                // its settings were found, and what they have is left out
	Write    []LeftFile
	Do       []string // what is no line to write
}

// A LeftFile is lines to write into a file of settings.
type LeftFile struct {
	Path  string
	Lines []string
}

// ReadLeft asks which homeserver it is, reads its settings as check does, and judges them. Where none are found it returns all that a
// homeserver needs.
func ReadLeft(ctx context.Context, in Input) Left {
	chk := newChecking(in)
	left := Left{}
	if server, err := chk.homeserver.Software(ctx); err == nil && server.Name != "" {
		chk.server = server
		if f := judgeSoftware(server, chk.Config.Origin); f.Status != OK {
			left.Do = append(left.Do, f.Found+": "+f.Do)
		}
	}
	left.Software = chk.server
	all := chk.readAllSettings()
	if left.Found = !errors.Is(all[0].err, errNoSettings); !left.Found {
		all = []settingsFile{{path: config.HomeserverFile}}
		if chk.server.Name == homeserver.Dendrite {
			all[0].path = DendriteFile
		}
	} else if len(all) == 1 && left.Software.Name == "" {
		left.Software.Name = homeserver.Synapse
		if all[0].isDendrite() {
			left.Software.Name = homeserver.Dendrite
		}
	}
	for _, s := range all {
		chk.report.keepSecret(s.secrets()...)
		chk.report.add(chk.judging(s).findings()...)
	}
	var write []line
	for _, f := range chk.report.Findings {
		switch {
		case f.Status != Problem && f.Status != Warning:
		case f.line != nil:
			f.line.value = redact.Whole(f.line.value, chk.report.secrets...)
			write = append(write, *f.line)
		default:
			left.Do = append(left.Do, strings.ReplaceAll(f.Do, thenRestart, ""))
		}
	}
	left.Write = byFile(write)
	return left
}

// byFile puts the lines that go into one file together, and those that go under one key beneath it.
func byFile(all []line) (files []LeftFile) {
	last := map[string][]string{} // the path of the last line in the file
	for _, l := range all {
		at := slices.IndexFunc(files, func(f LeftFile) bool { return f.Path == l.file })
		if at < 0 {
			at, files = len(files), append(files, LeftFile{Path: l.file})
		}
		lines := &files[at].Lines
		if isLimit(l.path) && !isLimit(last[l.file]) {
			*lines = append(*lines, fmt.Sprintf("# limits: the defaults are too low for a hub with %d channels", homeserver.HubChannels))
		}
		*lines = append(*lines, l.after(last[l.file])...)
		last[l.file] = l.path
	}
	return files
}

func isLimit(path []string) bool { return len(path) > 0 && strings.HasPrefix(path[0], "rc_") }

// after are the line as YAML has it, and those of the keys that it stands under, but for what the line before it has already.
func (l line) after(before []string) (lines []string) {
	isNew := false
	for depth, key := range l.path[:len(l.path)-1] {
		if isNew = isNew || depth >= len(before) || before[depth] != key; !isNew {
			continue
		}
		text := strings.Repeat("  ", depth) + key + ":"
		if depth == 0 && l.isInKey {
			text += "    # is there already: add to it"
		}
		lines = append(lines, text)
	}
	lines = append(lines, strings.Repeat("  ", len(l.path)-1)+l.path[len(l.path)-1]+": "+l.value)
	if l.and != "" {
		lines = append(lines, l.and)
	}
	return lines
}
