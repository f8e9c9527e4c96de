package snowplow

// Version and Commit say which build this is; the linker sets both (see Makefile).
// Vault compares Version, to the letter, with what "vault plugin register -version" was given.
var (
	Version = "v0.0.0-dev"
	Commit  = "unknown"
)
