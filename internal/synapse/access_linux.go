// access_linux.go owns whether a file has an access control list.

package synapse

import "syscall"

// hasList tells whether the file has an access control list.
func hasList(path string) bool {
	_, err := syscall.Getxattr(path, "system.posix_acl_access", nil)
	return err == nil
}
