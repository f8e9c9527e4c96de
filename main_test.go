package snowplow

import (
	"flag"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// A proxy of the machine's must not stand between a test and its server.
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			os.Unsetenv(name)
		}
	}
	// These tests wait for pauses and sockets more than for a processor. A flag on the command line wins.
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	// A dependency of the SDK starts this one when it is imported.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}
