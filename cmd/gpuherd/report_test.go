package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Passwords are planted in every place where one may stand, and no file of the
// report has any.
func TestReportHasNoSecrets(t *testing.T) {
	root, programs := t.TempDir(), t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/gpuherd/gpuherd.conf":                    "[Redis]\nURL=redis://u:plantedA@r/0\n[Environment]\nAPI_TOKEN=plantedB\n[Worker]\nExec=/x --token plantedC\n[GPU]\nSimulate=yes\nCount=1\n",
		"etc/gpuherd/services/x.service":              "[X-GPU]\nPer=gpu\n[Service]\nExecStart=/bin/x --api-key=plantedD\nEnvironment=\"DB_PASSWORD=plantedE and more plantedE\"\n",
		"etc/gpuherd/environment/x.env":               "PLAIN=\"plantedF in no pattern\"\n",
		"etc/credstore/gpuherd.redis-password":        "plantedG\n",
		"run/gpuherd/credentials/gpuherd.redis-url":   "rediss://:plantedH@r\n",
		"run/systemd/generator/x@.service":            "# made\n[Service]\nExecStart=/bin/x plantedG\n",
		"proc/1/environ":                              "REDIS_URL=redis://:plantedI@r\x00HF_TOKEN=plantedJ\x00",
		"proc/cmdline":                                "quiet gpuherd.redis_url=redis://:plantedK@r\n",
		"etc/os-release":                              "NAME=Debian\n",
		"etc/gpuherd/services/x.service.d/10-my.conf": "[Service]\nEnvironment=MY_SECRET=plantedL\n",
	} {
		put(filepath.Join(root, name), text, 0o644)
	}
	put(filepath.Join(programs, "journalctl"), "#!/bin/sh\necho \"worker: auth with plantedF in no pattern and plantedG failed; password=plantedM $*\"\n", 0o755)
	put(filepath.Join(programs, "systemctl"), "#!/bin/sh\necho 'plantedG'; exit 3\n", 0o755)
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")

	var archive bytes.Buffer
	if err := newApp().gather(t.Context(), root, 10).write(&archive, time.Now()); err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(&archive)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(zip); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(header.Name, "gpuherd-report/")
		files[name] = string(text)
		if i := strings.Index(string(text), "planted"); i >= 0 {
			t.Errorf("%s holds a secret: %q", name, text[i:min(len(text), i+9)])
		}
	}
	for name, want := range map[string]string{
		"version.txt":                            "gpuherd ",
		"files/etc/gpuherd/gpuherd.conf":         "Count=1",
		"files/etc/gpuherd/services/x.service":   "Environment=\"DB_PASSWORD=***\"",
		"files/run/systemd/generator/x@.service": "ExecStart=/bin/x ***",
		"files/etc/os-release":                   "NAME=Debian",
		"journal.txt":                            "--unit=x@*.service",
		"units.txt":                              "***",
		"explain.json":                           "x@0",
		"doctor.json":                            "systemd",
		"missing.txt":                            "list.json: ",
		"files/etc/gpuherd/services/x.service.d/10-my.conf": "MY_SECRET=***",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q:\n%s", name, want, files[name])
		}
	}
	for name := range files {
		if strings.Contains(name, "environment") || strings.Contains(name, "cred") {
			t.Errorf("%s is in it", name)
		}
	}
}
