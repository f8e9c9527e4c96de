//go:build !linux

package main

// protectMemory does what Linux alone offers.
func protectMemory() {}
