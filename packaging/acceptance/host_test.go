//go:build machine && !acceptance

package acceptance

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range failures.told {
		fmt.Println("\nFAILED in a machine: " + f)
	}
	os.Exit(code)
}
