// process_other.go owns the same for other systems, where a killed parent leaves its servers behind.

//go:build unix && !linux

package e2e

import "syscall"

func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
