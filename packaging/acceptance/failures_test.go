//go:build machine

package acceptance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// failures are what failed in machines, told again when all have ended: by
// then it stands thousands of lines above, where no log of CI that shows the
// end of the output reaches.
var failures struct {
	sync.Mutex
	told []string
}

// toldLines is how much of a failed test's output is told again.
const toldLines = 40

// fail fails the test with how it went in its machine.
func fail(t *testing.T, format string, args ...any) {
	t.Helper()
	output := fmt.Sprintf(format, args...)
	t.Error(output)
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	lines = lines[max(0, len(lines)-toldLines):]
	failures.Lock()
	defer failures.Unlock()
	failures.told = append(failures.told, t.Name()+"\n    "+strings.Join(lines, "\n    "))
}
