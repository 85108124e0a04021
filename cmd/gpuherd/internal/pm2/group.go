package pm2

import (
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
// GPU by their names, in the order of the first.
func (r *result) groups(apps []*app) []*group {
	var all []*group
	byName, byGPU := map[string]*group{}, map[string]*group{}
	for _, a := range apps {
		if g := byName[a.name]; g != nil && a.dumped {
			g.apps = append(g.apps, a)
			continue
		}
		g := &group{apps: []*app{a}, prefix: a.name}
		if m := gpuName().FindStringSubmatch(a.name); m != nil && !a.cluster && a.instances == 1 {
			n, _ := strconv.Atoi(m[2])
			index := strconv.Itoa(n)
			if first := byGPU[m[1]]; first != nil {
				if !slices.Contains(first.index, index) && first.takes(a, index) {
					first.apps, first.index = append(first.apps, a), append(first.index, index)
					continue
				}
				r.note(a.name, "name", "looks like one of %s for another GPU, but its command line is another one: it is a service of its own", m[1])
			} else {
				g.gpu, g.index, g.prefix = true, []string{index}, m[1]
				byGPU[m[1]] = g
			}
		}
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

// takes says whether a's command line is that of the group with another number.
func (g *group) takes(a *app, index string) bool {
	apps, indexes := append(slices.Clone(g.apps), a), append(slices.Clone(g.index), index)
	if _, ok := common(apps, indexes, func(a *app) string { return a.cwd }); !ok {
		return false
	}
	for i := range a.argv {
		if len(a.argv) != len(g.apps[0].argv) {
			return false
		}
		if _, ok := common(apps, indexes, func(a *app) string { return a.argv[i] }); !ok {
			return false
		}
	}
	return true
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
	for i := range a.argv {
		a.argv[i], _ = common(g.apps, g.index, func(a *app) string { return a.argv[i] })
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
	each := make([]map[string]string, len(g.apps))
	all := map[string]bool{}
	for i, app := range g.apps {
		each[i] = map[string]string{}
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
