package main

import (
	"os"
	"runtime"
	"time"
)

// parentPoll is how often the process looks whether Vault is still there.
const parentPoll = time.Second

// endWithVault ends this process once Vault's has gone. A Vault that was killed ends none of its plugins, and this one
// would live on with API keys in its memory. Vault is the parent of the plugins that it starts, and whatever takes in
// a process whose parent has gone has another ID. Were Vault to die before the call, the plugin would end as it
// announces itself on a standard output that nobody reads.
func endWithVault() {
	if runtime.GOOS == "windows" {
		return // the parent's ID stays what it was
	}
	vault := os.Getppid() // may be 1: Vault as the first process of a container
	go func() {
		for range time.Tick(parentPoll) {
			if os.Getppid() != vault {
				os.Exit(1) // no panic and no signal: either could leave the keys in a core dump
			}
		}
	}()
}
