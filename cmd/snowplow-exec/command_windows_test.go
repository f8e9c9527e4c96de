package main

// toolUnix has nothing to do where there are no signals.
func toolUnix([]string) int { return exitUsage }
