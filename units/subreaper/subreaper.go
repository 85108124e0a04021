// Package subreaper keeps hold of a process's descendants: those whose parent
// has ended become its children instead of init's, so that a program that has
// ended leaves nothing behind.
package subreaper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Become makes the orphans among this process's descendants its children,
// instead of init's: so a program's processes that left its process group are
// found when the program has ended. See prctl(2), PR_SET_CHILD_SUBREAPER.
func Become() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become subreaper: %w", err)
	}
	return nil
}

// End kills and reaps all children, and theirs as they become ours. It returns
// whether none is left.
func End() bool {
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		pids := Children()
		if len(pids) == 0 {
			return true
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// Reap takes the exit status of children that have ended, but for those that
// keep names: whoever started them waits for them.
func Reap(keep map[int]bool) {
	for _, pid := range Children() {
		if !keep[pid] {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// Children lists this process's children.
func Children() []int {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	if len(lists) == 0 {
		return scanChildren()
	}
	var pids []int
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// scanChildren is for kernels without CONFIG_PROC_CHILDREN.
func scanChildren() []int {
	var pids []int
	self := os.Getpid()
	scan(func(pid, parent, _ int, _ byte) {
		if parent == self {
			pids = append(pids, pid)
		}
	})
	return pids
}

// GroupLives says whether a process of the group does more than to wait for a
// parent that reaps it: not every init does.
func GroupLives(group int) bool {
	lives := false
	scan(func(_, _, pgrp int, state byte) {
		lives = lives || pgrp == group && state != 'Z' && state != 'X'
	})
	return lives
}

// scan reads the state of all processes, see proc_pid_stat(5).
func scan(found func(pid, parent, group int, state byte)) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// "PID (comm) state ppid pgrp …", and comm may hold anything.
		f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		if len(f) < 3 {
			continue
		}
		pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parent, err2 := strconv.Atoi(string(f[1]))
		group, err3 := strconv.Atoi(string(f[2]))
		if err1 == nil && err2 == nil && err3 == nil {
			found(pid, parent, group, f[0][0])
		}
	}
}
