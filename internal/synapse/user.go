// user.go owns as which user Synapse reads its files.

package synapse

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A User is the one that Synapse runs as.
type User struct {
	UID  int
	GIDs []int  // of all its groups, its own first
	Why  string // what tells that it is this one; "" where nothing does
}

// IsKnown tells whether there is one.
func (u User) IsKnown() bool { return u.Why != "" }

// Name is the user's name, or its number where it has none.
func (u User) Name() string {
	if found, err := user.LookupId(strconv.Itoa(u.UID)); err == nil {
		return found.Username
	}
	return strconv.Itoa(u.UID)
}

// UserOfProcess is the user of the process, with the groups that it has by now; why says what tells that it is meant.
func UserOfProcess(pid int, why string) User {
	u := userOf(filepath.Join("/proc", strconv.Itoa(pid)))
	if u.IsKnown() {
		u.Why = why
	}
	return u
}

// userOf is the user of the process whose directory in /proc this is, with the groups that it has by now.
func userOf(dir string) User {
	content, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return User{}
	}
	u := User{Why: "the running Synapse is its"}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		var numbers []int
		for _, field := range strings.Fields(rest) {
			if number, err := strconv.Atoi(field); err == nil {
				numbers = append(numbers, number)
			}
		}
		switch { // real, effective, saved, of the file system
		case name == "Uid" && len(numbers) == 4:
			u.UID = numbers[3]
		case name == "Gid" && len(numbers) == 4:
			u.GIDs = append(u.GIDs, numbers[3])
		case name == "Groups":
			u.GIDs = append(u.GIDs, numbers...)
		}
	}
	return u
}

// ReadBy finds the user that reads these settings: the one that the process runs as, the owner of the signing key, or else that
// of the directory. homeserver.yaml itself tells nothing, since Debian's package leaves it to root.
func (s Settings) ReadBy(p Process) User {
	if p.User.IsKnown() {
		return p.User
	}
	if len(s.Files) == 0 {
		return User{}
	}
	if path := s.signingKey(p); path != "" {
		if stat, err := os.Stat(path); err == nil {
			return ownerOf(stat, "the signing key "+path+" is its")
		}
	}
	dir := filepath.Dir(s.Files[0])
	if stat, err := os.Stat(dir); err == nil {
		return ownerOf(stat, "the directory "+dir+" is its")
	}
	return User{}
}

// signingKey is the file of the key that Synapse signs with, or "" where the settings do not tell.
func (s Settings) signingKey(p Process) string {
	if path, ok := s.Keys["signing_key_path"].(string); ok {
		return p.Path(path)
	}
	name, ok := s.Keys["server_name"].(string)
	if !ok || s.Keys["signing_key_path"] != nil || s.Keys["signing_key"] != nil {
		return ""
	}
	dir := p.keyDir
	if dir == "" {
		dir = filepath.Dir(s.Files[len(s.Files)-1])
	}
	return filepath.Join(dir, name+".signing.key")
}

// OwnerOf is the user whose file it is.
func OwnerOf(path string) User {
	stat, err := os.Stat(path)
	if err != nil {
		return User{}
	}
	return ownerOf(stat, path+" is its")
}

func ownerOf(stat os.FileInfo, why string) User {
	owner, ok := stat.Sys().(*syscall.Stat_t)
	if !ok {
		return User{}
	}
	u := User{UID: int(owner.Uid), Why: why}
	found, err := user.LookupId(strconv.Itoa(u.UID))
	if err != nil {
		u.GIDs = []int{int(owner.Gid)} // it has no other that is known
		return u
	}
	return u.withGroupsOf(found)
}

// UserNamed is the user of this machine with the name, or with the number. A number without a name, as a container has it, is its
// group's too.
func UserNamed(name, why string) (User, error) {
	found, err := user.Lookup(name)
	if err != nil {
		number, isNumber := strconv.ParseUint(name, 10, 31)
		if isNumber != nil {
			return User{}, fmt.Errorf("%q is no user of this machine: give a name or a number that `id` knows", name)
		}
		u := User{UID: int(number), Why: why}
		if found, err = user.LookupId(strconv.Itoa(u.UID)); err != nil {
			u.GIDs = []int{u.UID}
			return u, nil
		}
	}
	uid, err := strconv.Atoi(found.Uid)
	return User{UID: uid, Why: why}.withGroupsOf(found), err
}

func (u User) withGroupsOf(found *user.User) User {
	groups, _ := found.GroupIds() // without them it has one
	for _, group := range append([]string{found.Gid}, groups...) {
		if number, err := strconv.Atoi(group); err == nil {
			u.GIDs = append(u.GIDs, number)
		}
	}
	return u
}
