package pm2

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gpuherd/cmd/gpuherd/internal/lazyregexp"
)

// A group is apps that become one service.
type group struct {
	apps []*app
	gpu  bool
	// index is each app's GPU.
	index []string
	// prefix is the name without the number.
	prefix string
}

var gpuName = lazyregexp.New(`(?i)^(.*(?:gpu|cuda))[-_.:]?([0-9]{1,3})$`)

// groups puts the instances of an app together, and apps that are one for each
// GPU, in the order of the first.
func (r *result) groups(apps []*app) []*group {
	var all []*group
	byGPU, byName := r.forGPUs(apps), map[string]*group{}
	for _, a := range apps {
		if g := byGPU[a]; g != nil {
			if g.apps[0] == a {
				all = append(all, g)
			}
			continue
		}
		if g := byName[a.name]; g != nil && a.dumped {
			g.apps = append(g.apps, a)
			continue
		}
		g := &group{apps: []*app{a}, prefix: a.name}
		byName[a.name] = g
		all = append(all, g)
	}
	for _, g := range all {
		if !g.gpu && len(g.apps) > 1 {
			g.apps[0].instances = len(g.apps)
			g.apps = g.apps[:1]
		}
	}
	return all
}

// forGPUs returns the groups of apps that are one for each GPU by their names.
// Where one of them is another program than the others, none is in a group: a
// service with a worker on each GPU would run on the GPU of that one, too.
func (r *result) forGPUs(apps []*app) map[*app]*group {
	var found []*group
	byPrefix, names := map[string]*group{}, map[string]int{}
	for _, a := range apps {
		names[a.name]++
		m := gpuName().FindStringSubmatch(a.name)
		if m == nil {
			continue
		}
		g := byPrefix[m[1]]
		if g == nil {
			g = &group{gpu: true, prefix: m[1]}
			byPrefix[m[1]] = g
			found = append(found, g)
		}
		n, _ := strconv.Atoi(m[2])
		g.apps, g.index = append(g.apps, a), append(g.index, strconv.Itoa(n))
	}
	groups := map[*app]*group{}
	for _, g := range found {
		why := g.differ(names)
		for _, a := range g.apps {
			switch {
			case why == "":
				groups[a] = g
			case len(g.apps) > names[a.name]:
				r.note(a.name, "name", "a service of its own, and not one of %s with a worker on each GPU: %s", g.prefix, why)
				if gpus := a.env["CUDA_VISIBLE_DEVICES"]; gpus != "" {
					r.note(a.name, "env", "CUDA_VISIBLE_DEVICES=%s keeps it on its GPU, as under PM2; the others are not closed to it", oneLine(gpus))
				}
			}
		}
	}
	return groups
}

// differ says why apps that are one for each GPU by their names are not one
// service, or nothing.
func (g *group) differ(names map[string]int) string {
	first := g.apps[0]
	for i, a := range g.apps {
		switch {
		case a.cluster || a.instances != 1 || names[a.name] > 1:
			return oneLine(a.name) + " runs more than once"
		case slices.Contains(g.index[:i], g.index[i]):
			return "two are for GPU " + g.index[i]
		case len(a.argv) != len(first.argv):
			return fmt.Sprintf("%s and %s differ in the number of their arguments", oneLine(first.name), oneLine(a.name))
		}
	}
	if _, ok := common(g.apps, g.index, func(a *app) string { return a.cwd }); !ok {
		return "their folders differ in more than the number of the GPU"
	}
	for i := range first.argv {
		value := func(a *app) string { return a.argv[i] }
		if _, ok := common(g.apps, g.index, value); !ok && (i == 0 || !counted(g.apps, g.index, value)) {
			// Neither is quoted: it may be a secret.
			return fmt.Sprintf("word %d of their command lines differs in more than the number of the GPU", i+1)
		}
	}
	return ""
}

var number = lazyregexp.New(`[0-9]{1,9}`)

// counted says whether the apps' values are the same but for one number, which
// is the app's index and something that all have in common: ports from 8188 on.
func counted(apps []*app, index []string, value func(*app) string) bool {
	first := value(apps[0])
	for _, at := range number().FindAllStringIndex(first, -1) {
		before, after := first[:at[0]], first[at[1]:]
		base := 0
		fits := func(i int, a *app) bool {
			rest, starts := strings.CutPrefix(value(a), before)
			digits, ends := strings.CutSuffix(rest, after)
			n, err := strconv.Atoi(digits)
			gpu, _ := strconv.Atoi(index[i])
			if i == 0 {
				base = n - gpu
			}
			return starts && ends && err == nil && strconv.Itoa(n) == digits && n-gpu == base
		}
		all := true
		for i, a := range apps {
			all = all && fits(i, a)
		}
		if all {
			return true
		}
	}
	return false
}

// common returns the text that gives each app's value when mark is replaced by
// its index.
func common(apps []*app, index []string, value func(*app) string) (string, bool) {
	first := value(apps[0])
	fits := func(form string) bool {
		for i, a := range apps {
			if strings.ReplaceAll(form, mark, index[i]) != value(a) {
				return false
			}
		}
		return true
	}
	if fits(first) {
		return first, true
	}
	for at := 0; ; {
		i := strings.Index(first[at:], index[0])
		if i < 0 {
			break
		}
		at += i
		if form := first[:at] + mark + first[at+len(index[0]):]; fits(form) {
			return form, true
		}
		at++
	}
	form := strings.ReplaceAll(first, index[0], mark)
	return form, fits(form)
}

// merged is the group as one app, with the variables that are each app's own.
func (r *result) merged(g *group) (*app, []map[string]string) {
	first := g.apps[0]
	a := *first
	if !g.gpu {
		return &a, nil
	}
	names := strings.Join(g.index, ", ")
	r.note(first.name, "name", "one service with a worker on each GPU; PM2 had it on %s", names)
	if len(g.apps) == 1 {
		r.note(first.name, "args", "there is only one of it, so what is another on another GPU, such as a port, has to be written with %%i")
	}
	a.cwd, _ = common(g.apps, g.index, func(a *app) string { return a.cwd })
	a.argv = slices.Clone(a.argv)
	each := make([]map[string]string, len(g.apps))
	for i := range each {
		each[i] = map[string]string{}
	}
	for i := range a.argv {
		form, ok := common(g.apps, g.index, func(a *app) string { return a.argv[i] })
		if !ok {
			for n, app := range g.apps {
				each[n][argument(i)] = app.argv[i]
			}
			a.argv[i], a.counts = standIn(i), true
			continue
		}
		a.argv[i] = form
		if strings.Contains(a.argv[i], mark) {
			r.note(first.name, "args", "the number of the GPU is %%i; a worker sees its own GPU alone, which CUDA counts as 0")
		}
	}
	for _, other := range g.apps[1:] {
		mine, theirs := a.settings, other.settings
		a.memory = max(a.memory, other.memory)
		if mine.memory == 0 || theirs.memory == 0 {
			a.memory = 0
		}
		mine.memory, theirs.memory = 0, 0
		if first.memory != other.memory || mine != theirs {
			r.note(other.name, "name", "its settings are not those of %s, which are taken for all, with the largest memory limit", first.name)
		}
	}

	var left []string
	all := map[string]bool{}
	for _, app := range g.apps {
		for name := range app.env {
			all[name] = true
		}
	}
	a.env = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if slices.Contains(byGpuherd, name) {
			left = append(left, name)
			continue
		}
		everywhere := true
		for _, app := range g.apps {
			_, ok := app.env[name]
			everywhere = everywhere && ok
		}
		form, ok := common(g.apps, g.index, func(a *app) string { return a.env[name] })
		if everywhere && ok && (form == first.env[name] || !r.system.Secret(name, first.env[name])) {
			a.env[name] = form
			continue
		}
		for i, app := range g.apps {
			if value, ok := app.env[name]; ok {
				each[i][name] = value
			}
		}
	}
	if len(left) > 0 {
		r.note(first.name, "env", "gpuherd sets %s for each worker", strings.Join(left, " "))
		if slices.Contains(left, "WORKER_ID") {
			r.note(first.name, "env", "WORKER_ID is PREFIX-gpuN; PREFIX is ID= in [Worker] of gpuherd.conf, by default the host's name")
		}
	}
	return &a, each
}
