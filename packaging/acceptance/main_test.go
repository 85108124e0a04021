//go:build acceptance

package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

const (
	// jobDir is where the job program and its marks lie while tests run:
	// on disk, since /run may be mounted noexec.
	jobDir = "/var/lib/gpuherd-acceptance"
	// jobConf makes the workers run this binary as their job program.
	jobConf = "/etc/gpuherd/gpuherd.conf.d/90-acceptance.conf"
)

func TestMain(m *testing.M) {
	// The same binary is the job program of the workers under test, and more.
	switch filepath.Base(os.Args[0]) {
	case "job":
		os.Exit(runJob())
	case "flood":
		os.Exit(runFlood())
	}
	if len(os.Args) > 1 {
		if status, is := runAs(os.Args[1], os.Args[2:]); is {
			os.Exit(status)
		}
	}
	if err := wanted(); err != nil {
		fmt.Fprintf(os.Stderr, "acceptance: %v\nacceptance: run it in disposable machines: go test -tags machine ./packaging/acceptance\n", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := removeJobProgram(); err != nil {
		fmt.Fprintf(os.Stderr, "acceptance: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// wanted says what this host lacks, if anything.
func wanted() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("not root")
	}
	// sd_booted(3): the folder exists only where systemd is PID 1.
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return fmt.Errorf("PID 1 is not systemd: %w", err)
	}
	return nil
}
