package main

import (
	"regexp"
	"strings"
	"time"
)

// described is what git describe prints of a commit with a tag before it.
var described = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.]+))??(?:-(\d+)-g([0-9a-f]+))?$`)

// packageVersion is a version in the terms of dpkg and rpm, which sort it after
// the tag that it follows and before the next: v1.2.3 → 1.2.3, v1.2.3-rc.1 →
// 1.2.3~rc.1, v1.2.3-4-gabc → 1.2.3+4.gabc. Where there is no tag, versions sort
// by the commit's time, and before every release.
func packageVersion(version string, at time.Time) string {
	version, dirty := strings.CutSuffix(version, "-dirty")
	var text string
	if m := described.FindStringSubmatch(version); m != nil {
		text = m[1]
		if m[2] != "" {
			text += "~" + m[2]
		}
		if m[3] != "" {
			text += "+" + m[3] + ".g" + m[4]
		}
	} else {
		text = "0.0.0~" + at.Format("20060102150405") + "." + regexp.MustCompile(`[^0-9A-Za-z.]`).ReplaceAllString(version, ".")
	}
	if dirty {
		text += "+dirty"
	}
	return text
}
