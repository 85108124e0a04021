package main

import (
	"os/exec"
	"testing"
	"time"
)

func TestPackageVersion(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 17, 46, 20, 0, time.UTC)
	for version, want := range map[string]string{
		"v1.2.3":                         "1.2.3",
		"1.2.3":                          "1.2.3",
		"v1.2.3-rc.1":                    "1.2.3~rc.1",
		"v1.2.3-4-gabc123":               "1.2.3+4.gabc123",
		"v1.2.3-rc.1-4-gabc123":          "1.2.3~rc.1+4.gabc123",
		"v1.2.3-rc.1-4-gabc123-dirty":    "1.2.3~rc.1+4.gabc123+dirty",
		"v1.2.3-dirty":                   "1.2.3+dirty",
		"9646534":                        "0.0.0~20261124174620.9646534",
		"9646534-dirty":                  "0.0.0~20261124174620.9646534+dirty",
		"unknown":                        "0.0.0~20261124174620.unknown",
		"a branch/with $(strange) signs": "0.0.0~20261124174620.a.branch.with...strange..signs",
	} {
		if got := packageVersion(version, at); got != want {
			t.Errorf("%s is %s in a package, want %s", version, got, want)
		}
	}
}

// dpkg itself sorts the versions as they follow one another.
func TestVersionsSort(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	last := packageVersion("9646534", at)
	for _, next := range []string{
		packageVersion("0012345", at.Add(time.Second)),
		packageVersion("v0.1.0-rc.1", at), packageVersion("v0.1.0-rc.1-2-gabc", at), packageVersion("v0.1.0-rc.2", at),
		packageVersion("v0.1.0", at), packageVersion("v0.1.0-2-gfff", at), packageVersion("v0.1.0-10-gaaa", at),
		packageVersion("v0.1.1", at), packageVersion("v0.1.1-dirty", at), packageVersion("v0.10.0", at),
	} {
		if err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", last+"-1", "lt", next+"-1").Run(); err != nil {
			t.Errorf("%s does not come before %s: %v", last, next, err)
		}
		last = next
	}
}
