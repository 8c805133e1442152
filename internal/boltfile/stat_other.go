// stat_other.go owns the stat of the file on systems other than Linux.

//go:build !linux

package boltfile

func stat(path string) (fileStat, error) { return osStat(path) }
