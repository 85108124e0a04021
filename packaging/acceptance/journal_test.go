//go:build acceptance

package acceptance

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Whatever a worker prints, and however fast, is in the journal.
func TestEveryLineKept(t *testing.T) {
	const lines, length = 200_000, 100
	h := open(t)
	h.jobs()
	id := jobID(t)
	begin := time.Now()
	h.redis.enqueue(id, task{Do: "print", Lines: lines, Bytes: length}.String())
	job := h.redis.waitJob(id, "succeeded")
	worker := h.owner(job)
	t.Logf("printed in %v", time.Since(begin).Round(time.Millisecond))

	// journald stores what it has received before it answers this.
	if _, stderr, status := run(t, "journalctl", "--sync"); status != 0 {
		t.Fatalf("journalctl --sync ended with %d: %s", status, stderr)
	}
	invocation := h.mustUnit(worker).Invocation
	cmd := exec.CommandContext(t.Context(), "journalctl", "--output=cat", "--no-pager", "_SYSTEMD_INVOCATION_ID="+invocation)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	count := make([]int, lines)
	damaged := 0
	for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
		line, ok := strings.CutPrefix(scanner.Text(), "["+id+"] ")
		if !ok {
			continue // the worker's own words
		}
		var i int
		if _, err := fmt.Sscanf(line, "line %d ", &i); err != nil || i < 0 || i >= lines || line != numbered(i, length) {
			damaged++
			continue
		}
		count[i]++
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("journalctl: %v", err)
	}
	missing, twice := 0, 0
	for _, n := range count {
		switch {
		case n == 0:
			missing++
		case n > 1:
			twice++
		}
	}
	if missing > 0 || twice > 0 || damaged > 0 {
		t.Errorf("of %d lines %d are missing, %d are there more than once, %d are damaged", lines, missing, twice, damaged)
	}
	t.Logf("printed and read back in %v", time.Since(begin).Round(time.Millisecond))
}
