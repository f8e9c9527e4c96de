//go:build !linux

package main

// protectMemory does nothing: only Linux has a call for it.
func protectMemory() {}
