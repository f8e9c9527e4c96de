package main

import "golang.org/x/sys/unix"

// protectMemory keeps other processes of the same user, the command above all, from reading this one's memory and the
// environment that it was started with (VAULT_TOKEN), and the JWT out of core dumps.
func protectMemory() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // cannot fail with this value
}
