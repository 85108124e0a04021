package machine

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostWithoutSystemd(t *testing.T) {
	t.Parallel()
	if systemdIsPID1("/") {
		m, err := Boot(t.Context(), Config{Backend: Host, CacheDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	_, err := Boot(t.Context(), Config{Backend: Host, CacheDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "PID 1") {
		t.Errorf("got error %v, want one about PID 1", err)
	}
}

func TestSystemdIsPID1(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if systemdIsPID1(root) {
		t.Error("true for an empty root")
	}
	if err := os.MkdirAll(filepath.Join(root, "run/systemd/system"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !systemdIsPID1(root) {
		t.Error("false for a booted root")
	}
}

func TestRunOnHost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		argv   []string
		status int
		stdout string
	}{
		{[]string{"pwd"}, 0, "/\n"},
		{[]string{"sh", "-c", "exit 7"}, 7, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"no-such-program"}, 127, ""},
	} {
		var stdout bytes.Buffer
		status, err := runOnHost(within(t), test.argv, &stdout, nil)
		if err != nil || status != test.status || stdout.String() != test.stdout {
			t.Errorf("%q: status %d, stdout %q, error %v", test.argv, status, stdout.String(), err)
		}
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := runOnHost(ctx, []string{"sleep", "60"}, nil, nil); !errors.Is(err, stop) {
		t.Errorf("cancelled: got error %v", err)
	}
}
