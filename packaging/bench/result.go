package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gpuherd/generator/version"
)

// A figure is one measured number, with the goal that it is held against.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`           // "", "ms", "MB"
	Goal  float64 `json:"goal,omitempty"` // at most; 0: none
	Note  string  `json:"note,omitempty"`
}

// met is empty where the figure has no goal.
func (f figure) met() string {
	switch {
	case f.Goal == 0:
		return ""
	case f.Value <= f.Goal:
		return fmt.Sprintf("≤ %g: met", f.Goal)
	default:
		return fmt.Sprintf("≤ %g: MISSED", f.Goal)
	}
}

// A result is one run of all benchmarks.
type result struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	CPUs    int       `json:"cpus"`
	Kernel  string    `json:"kernel"`
	Figures []figure  `json:"figures"`
}

func newResult() *result {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // empty is no reason to fail
	return &result{At: time.Now().UTC(), Version: version.String(), CPUs: runtime.NumCPU(), Kernel: strings.TrimSpace(string(kernel))}
}

func (r *result) add(f figure) { r.Figures = append(r.Figures, f) }

// addTimes adds the median and the 99th percentile.
func (r *result) addTimes(name string, times []time.Duration, note string) {
	r.add(figure{Name: name + " p50", Value: ms(percentile(times, 50)), Unit: "ms", Note: note})
	r.add(figure{Name: name + " p99", Value: ms(percentile(times, 99)), Unit: "ms", Note: note})
}

func (r *result) table(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) // keeps its first error for Flush
	_, _ = fmt.Fprintf(table, "what\tmeasured\tgoal\tnote\n")
	for _, f := range r.Figures {
		_, _ = fmt.Fprintf(table, "%s\t%.2f %s\t%s\t%s\n", f.Name, f.Value, f.Unit, f.met(), f.Note)
	}
	return table.Flush()
}

// save writes the result as JSON into dir and returns the file's path.
func (r *result) save(dir string) (string, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "bench.json")
	if err := write(path, string(data)+"\n"); err != nil {
		return "", fmt.Errorf("cannot save the result: %w", err)
	}
	return path, nil
}

// percentile returns the smallest value that p percent of values do not
// exceed.
func percentile(values []time.Duration, p int) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// medianRatio is the median of a[i]/b[i]: what a slow moment of the machine
// does to one pair, it does to both sides of it.
func medianRatio(a, b []time.Duration) float64 {
	ratios := make([]float64, 0, len(a))
	for i := range a {
		ratios = append(ratios, float64(a[i])/float64(b[i]))
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// medianDifference is the median of a[i]-b[i].
func medianDifference(a, b []time.Duration) time.Duration {
	differences := make([]time.Duration, 0, len(a))
	for i := range a {
		differences = append(differences, a[i]-b[i])
	}
	return percentile(differences, 50)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
