// process.go owns what is seen of a running Synapse: with which settings it was started, in which directory, and as whom it
// runs. That is in /proc, of which some is for its own user and root alone; other systems have none.

package synapse

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/SmartMeshFoundation/matrix-regservice/internal/names"
)

// A Process is a running Synapse.
type Process struct {
	PID     int
	User    User
	Dir     string   // where it was started; "" where that cannot be seen
	Configs []string // what it was started with, made absolute
	keyDir  string   // where it has its keys, if it was told
}

var (
	// ErrNoProcess is that no Synapse of this machine listens there.
	ErrNoProcess = errors.New("no Synapse of this machine is seen to listen there")
	// ErrHidden is that one may, and this user cannot see which.
	ErrHidden = errors.New("only root and the user of the process can see which process listens there")
)

// ListeningAt finds the Synapse that listens where the URL says, as Listening does.
func ListeningAt(origin string) (Process, error) {
	if u, err := url.Parse(origin); err != nil || !names.IsLoopback(u.Hostname()) {
		return Process{}, ErrNoProcess
	}
	return Listening(names.URLPort(origin))
}

// Listening finds the Synapse that listens on the port. It may return what it has seen beside an error: the user without the
// process, and the process without its settings.
func Listening(port int) (Process, error) { return listening("/proc", port) }

func listening(proc string, port int) (Process, error) {
	sockets := listeners(proc, port)
	if len(sockets) == 0 {
		return Process{}, ErrNoProcess
	}
	pids, _ := filepath.Glob(filepath.Join(proc, "[0-9]*")) // the pattern is a good one
	var hidden []string
	for _, dir := range pids {
		if _, isPython := arguments(dir); !isPython {
			continue
		}
		switch has, err := hasSocket(dir, sockets); {
		case has:
			return readProcess(dir)
		case err != nil && slices.ContainsFunc(sockets, func(s socket) bool { return s.uid == userOf(dir).UID }):
			hidden = append(hidden, dir)
		}
	}
	switch len(hidden) {
	case 0:
		return Process{}, ErrNoProcess
	case 1: // the one program in Python of the user that listens there
		return readProcess(hidden[0])
	}
	return Process{User: userOf(hidden[0])}, ErrHidden
}

// A socket is one that listens, and whose it is.
type socket struct {
	inode string
	uid   int
}

// listeners are the sockets that listen on the port.
func listeners(proc string, port int) (all []socket) {
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		content, err := os.ReadFile(filepath.Join(proc, table))
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
			fields := strings.Fields(lines.Text()) // sl, local address, remote, state, …, uid, timeout, inode
			if len(fields) < 10 || fields[3] != "0A" {
				continue
			}
			_, local, _ := strings.Cut(fields[1], ":")
			at, err := strconv.ParseInt(local, 16, 32)
			uid, uidErr := strconv.Atoi(fields[7])
			if err == nil && uidErr == nil && int(at) == port {
				all = append(all, socket{"socket:[" + fields[9] + "]", uid})
			}
		}
	}
	return all
}

// hasSocket tells whether the process has one of the sockets open.
func hasSocket(dir string, sockets []socket) (bool, error) {
	open, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return false, err
	}
	for _, file := range open {
		to, err := os.Readlink(filepath.Join(dir, "fd", file.Name()))
		if err == nil && slices.ContainsFunc(sockets, func(s socket) bool { return s.inode == to }) {
			return true, nil
		}
	}
	return false, nil
}

// arguments are those of a Python program, behind its name.
func arguments(dir string) (args []string, isPython bool) {
	content, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return nil, false
	}
	words := strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
	if name := filepath.Base(words[0]); !strings.HasPrefix(name, "python") && !strings.HasPrefix(name, "pypy") {
		return nil, false
	}
	for i := 1; i < len(words); i++ {
		switch {
		case words[i] == "-m" && i+1 < len(words):
			return words[i+2:], true
		case words[i] == "-W", words[i] == "-X":
			i++
		case !strings.HasPrefix(words[i], "-"):
			return words[i+1:], true
		}
	}
	return nil, true
}

func readProcess(dir string) (Process, error) {
	args, _ := arguments(dir)
	p := Process{User: userOf(dir)}
	p.PID, _ = strconv.Atoi(filepath.Base(dir))
	p.Dir, _ = os.Readlink(filepath.Join(dir, "cwd"))
	if p.Dir == "/" { // where it goes when it becomes a daemon
		p.Dir = ""
	}
	var err error
	p.Configs, p.keyDir = namedSettings(args)
	for i, path := range p.Configs {
		p.Configs[i] = p.Path(path)
		err = errors.Join(err, p.isHere(dir, p.Configs[i]))
	}
	if p.keyDir != "" {
		p.keyDir = p.Path(p.keyDir)
	}
	if len(p.Configs) == 0 {
		err = errors.New("its command line names no settings")
	}
	return p, err
}

// Path is what the process means by the path: relative still, where its directory is not seen.
func (p Process) Path(path string) string {
	if p.Dir == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(p.Dir, path)
}

// isHere tells whether the file is the one that the process sees under this name. In a container it may be another.
func (p Process) isHere(dir, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("it was started with %s, in a directory that is not seen", path)
	}
	here, err := os.Stat(path)
	if err != nil {
		return err
	}
	its, err := os.Stat(filepath.Join(dir, "root", path))
	if err == nil && !os.SameFile(here, its) {
		return fmt.Errorf("its %s is in a container", path)
	}
	return nil
}

// namedSettings are the values of --config-path and of the directory of the keys, as Python's argparse reads the arguments.
func namedSettings(args []string) (configs []string, keyDir string) {
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		isConfig := name == "-c" || len(name) > 2 && strings.HasPrefix("--config-path", name)
		isKeys := len(name) > len("--config-") && strings.HasPrefix("--config-directory", name) || len(name) > 2 && strings.HasPrefix("--keys-directory", name)
		switch {
		case strings.HasPrefix(args[i], "-c") && name != "-c" && !strings.HasPrefix(args[i], "--"):
			configs = append(configs, args[i][len("-c"):])
			continue
		case !isConfig && !isKeys:
			continue
		case !hasValue && i+1 < len(args):
			i++
			value = args[i]
		}
		if isConfig {
			configs = append(configs, value)
		} else {
			keyDir = value
		}
	}
	return configs, keyDir
}
