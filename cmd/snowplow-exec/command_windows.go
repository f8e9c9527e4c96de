package main

import "os"

// passedOn is what there is on Windows.
var passedOn = []os.Signal{os.Interrupt}

// sentToCommandToo is true: Windows sends Ctrl-C to every process of a console.
func sentToCommandToo(os.Signal) bool { return true }

func exitCode(state *os.ProcessState) int { return state.ExitCode() }
