//go:build acceptance

package acceptance

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// A probe is a worker that opens what it is asked to: this binary, run by
// probe@N.service or slice@N:M.service and reached by a socket in its unit's
// name.

// A probed is what a probe answers.
type probed struct {
	Environment map[string]string `json:"environment"`
	Opened      map[string]string `json:"opened"` // node → error
}

func probeAddress(unit string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: "@acceptance-" + unit}
}

// runProbe is the probe's program.
func runProbe(unit string) error {
	listener, err := net.ListenUnix("unix", probeAddress(unit))
	if err != nil {
		return err
	}
	environment := map[string]string{}
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		environment[name] = value
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		var nodes []string
		if err := json.NewDecoder(conn).Decode(&nodes); err == nil {
			answer := probed{Environment: environment, Opened: map[string]string{}}
			for _, node := range nodes {
				flags := os.O_RDWR
				if strings.HasPrefix(node, capsDir) {
					flags = os.O_RDONLY // as NVIDIA's libraries open it
				}
				answer.Opened[node] = openError(node, flags)
			}
			_ = json.NewEncoder(conn).Encode(answer) // who asks notices
		}
		_ = conn.Close()
	}
}

// probe has a unit's process open nodes.
func probe(t *testing.T, unit string, nodes ...string) probed {
	t.Helper()
	var answer probed
	// An active unit of Type=exec need not listen yet.
	eventually(t, unit+" answers", func() error {
		conn, err := net.DialUnix("unix", nil, probeAddress(unit))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		if err := json.NewEncoder(conn).Encode(nodes); err != nil {
			return err
		}
		return json.NewDecoder(conn).Decode(&answer)
	})
	if len(answer.Opened) != len(nodes) {
		t.Fatalf("%s answers %+v", unit, answer)
	}
	return answer
}

// wantOpen fails where the unit can open other nodes than it should: a node
// without a driver behind it answers ENXIO to who may open it.
func wantOpen(t *testing.T, unit string, may, mayNot []string) {
	t.Helper()
	answer := probe(t, unit, append(append([]string{}, may...), mayNot...)...)
	for want, nodes := range map[string][]string{"ENXIO": may, "EPERM": mayNot} {
		for _, node := range nodes {
			if got := answer.Opened[node]; got != want {
				t.Errorf("%s: opening %s gives %s, want %s", unit, node, got, want)
			}
		}
	}
}

func wantEnvironment(t *testing.T, unit string, want map[string]string) {
	t.Helper()
	got := probe(t, unit).Environment
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s has %s=%q, want %q", unit, name, got[name], value)
		}
	}
}

// runAs runs this binary as another program of the machine.
func runAs(program string, args []string) (status int, is bool) {
	var err error
	switch {
	case program == "hardware":
		err = mountHardware()
	case program == "probe" && len(args) == 1:
		err = runProbe(args[0])
	case program == "given":
		err = runGiven(args)
	case program == "attempt" && len(args) == 2:
		err = runAttempts(args[0], args[1])
	case program == "listen" && len(args) > 0:
		err = runListen(args[0])
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "acceptance: %s: %v\n", program, err)
		return 1, true
	}
	return 0, true
}
