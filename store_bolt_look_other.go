// store_bolt_look_other.go owns the look at the store's file on systems other than Linux.

//go:build !linux

package main

func lookAt(path string) (fileLook, error) { return statFile(path) }
