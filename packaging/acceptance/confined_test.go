//go:build acceptance

package acceptance

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Each unit of ours can do little more than its work, as this systemd measures
// it: from 0, safe, to 10. shared-setup is left out: it runs the operator's own
// programs as root.
func TestUnitsAreConfined(t *testing.T) {
	h := open(t)
	most := map[string]int{ // in tenths
		monitorUnit:          20,
		"gpuherd-up.service": 35,
		rescanUnit:           38,
		verifyUnit:           23,
	}
	names, err := h.herd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		switch name {
		case setupUnit:
		case "hello-world.service":
			most[name] = 10
		default:
			most[name] = 30
		}
	}
	for name, tenths := range most {
		stdout, stderr, status := run(t, "systemd-analyze", "security", "--no-pager", "--threshold="+strconv.Itoa(tenths), name)
		if status != 0 {
			t.Errorf("systemd-analyze security --threshold=%d %s ended with %d:\n%s%s", tenths, name, status, stdout, stderr)
		}
	}
}

// A job can do what programs with CUDA do, and not what none of them needs.
func TestJobsAreConfined(t *testing.T) {
	h := open(t)
	h.jobs()
	id := jobID(t)
	h.redis.enqueue(id, task{Do: "try"}.String())
	got := answerOf(t, h.redis.waitJob(id, "succeeded")).Tried
	want := map[string]string{
		"machine code":        "",
		"netlink socket":      "",
		"file in own folder":  "",
		"file in /tmp":        "",
		"file in /etc":        "EROFS",
		"packet socket":       "EAFNOSUPPORT",
		"user namespace":      "EPERM",
		"real-time scheduler": "EPERM",
		"trace":               "EPERM",
		"program of BPF":      "EPERM",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what a job can do (-want +got):\n%s", diff)
	}
}

// try does, one after the other, what TestJobsAreConfined knows the end of.
func try() map[string]string {
	create := func(path string) error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), os.Remove(path))
	}
	socket := func(family, kind int) error {
		fd, err := unix.Socket(family, kind, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
	mapped := func(protection int, then func([]byte) error) error {
		page, err := unix.Mmap(-1, 0, os.Getpagesize(), protection, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		return errors.Join(then(page), unix.Munmap(page))
	}
	number := func(_, _ uintptr, errno syscall.Errno) error {
		if errno != 0 {
			return errno
		}
		return nil
	}
	errs := map[string]error{
		"machine code": mapped(unix.PROT_READ|unix.PROT_WRITE, func(page []byte) error {
			return unix.Mprotect(page, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC)
		}),
		"netlink socket":      socket(unix.AF_NETLINK, unix.SOCK_RAW),
		"file in own folder":  create(filepath.Join(jobDir, "tried")),
		"file in /tmp":        create("/tmp/acceptance-tried"),
		"file in /etc":        create("/etc/acceptance-tried"),
		"packet socket":       socket(unix.AF_PACKET, unix.SOCK_DGRAM),
		"user namespace":      unix.Unshare(unix.CLONE_NEWUSER),
		"real-time scheduler": unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0),
		"trace":               number(unix.Syscall(unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0)),
		"program of BPF":      number(unix.Syscall(unix.SYS_BPF, 0, 0, 0)),
	}
	tried := map[string]string{}
	for what, err := range errs {
		tried[what] = errnoName(err)
	}
	return tried
}

// errnoName is the name of the system's error that err wraps, such as EPERM,
// else err itself; "" where there is none.
func errnoName(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}
