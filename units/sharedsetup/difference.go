package sharedsetup

import (
	"maps"
	"slices"
	"strings"

	"gpuherd/generator/plan"
	"gpuherd/generator/service"
)

// A difference is what systemd has to do so that what it was told at boot, or
// at the last reload, becomes what the machine has now. Only instances count:
// what an operator changed in the configuration waits for the operator's own
// daemon-reload.
type difference struct {
	start  []string // planned now, and not before
	stop   []string // planned before, and not now
	rebind []string // planned before and now, with other devices
	reload bool     // files differ
}

// wantsDir holds the links to what gpuherd.target starts.
const wantsDir = plan.Target + ".wants"

// compare compares two outputs of the generator, by path.
func compare(before, now map[string]string) difference {
	var d difference
	was, is := instances(before), instances(now)
	for _, unit := range slices.Sorted(maps.Keys(is)) {
		dropIn := unit + ".d/50-gpu.conf"
		switch {
		case !was[unit]:
			d.start = append(d.start, unit)
		case deviceRules(before[dropIn]) != deviceRules(now[dropIn]):
			d.rebind = append(d.rebind, unit)
		}
		d.reload = d.reload || before[dropIn] != now[dropIn]
	}
	for _, unit := range slices.Sorted(maps.Keys(was)) {
		if !is[unit] {
			d.stop = append(d.stop, unit)
		}
	}
	// What the generator asked for has been done: it is to take it back.
	_, asked := before[wantsDir+"/"+plan.Rescan]
	_, asks := now[wantsDir+"/"+plan.Rescan]
	d.reload = d.reload || asked && !asks || len(d.start)+len(d.stop) > 0
	return d
}

// instances are the units on devices that the target wants.
func instances(files map[string]string) map[string]bool {
	units := map[string]bool{}
	for path := range files {
		unit, ok := strings.CutPrefix(path, wantsDir+"/")
		if !ok {
			continue
		}
		if _, instance, ok := service.ParseUnit(unit); ok && instance != "" {
			units[unit] = true
		}
	}
	return units
}

// deviceRules are the lines of a drop-in that bind a worker to its device: a
// running process keeps those that it was started with.
func deviceRules(dropIn string) string {
	var b strings.Builder
	for line := range strings.Lines(dropIn) {
		if strings.HasPrefix(line, "DeviceAllow=") {
			b.WriteString(line)
		}
	}
	return b.String()
}
