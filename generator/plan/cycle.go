package plan

import "slices"

// A wait says that a unit starts after another one, and by whose word.
type wait struct {
	on int // the other one's place in graph.units
	by *word
}

// A graph holds units and what each waits for.
type graph struct {
	units []string
	waits [][]wait // of each unit
	index map[string]int
	size  int // waits that were asked for
	// tangled: the unit waits, in the end, for itself or for one that does.
	tangled []bool
}

const (
	maxWaits = 1 << 20 // bounds the work that a file full of names can make
	maxTried = 8       // units of a cycle from which a shorter one is looked for
)

func newGraph() *graph { return &graph{index: map[string]int{}} }

func (g *graph) add(unit string) {
	if _, ok := g.index[unit]; !ok {
		g.index[unit] = len(g.units)
		g.units = append(g.units, unit)
		g.waits = append(g.waits, nil)
	}
}

// wait makes one unit wait for another where both are there. One that waits
// for itself does not: systemd drops that.
func (g *graph) wait(unit, on string, by *word) {
	if g.size++; g.size > maxWaits {
		return
	}
	from, ok := g.index[unit]
	to, known := g.index[on]
	if ok && known && from != to {
		g.waits[from] = append(g.waits[from], wait{to, by})
	}
}

// open lists what a unit waits for, but for words that are gone.
func (g *graph) open(n int) []wait {
	return slices.DeleteFunc(slices.Clone(g.waits[n]), func(w wait) bool { return w.by.gone })
}

// A step is one unit of a cycle, with the word that makes it wait for the next.
type step struct {
	unit string
	by   *word
}

// cycle returns one whose units each wait for the next and the last for the
// first, or nil where there is none.
func (g *graph) cycle() []step {
	n := g.tangle()
	if n < 0 {
		return nil
	}
	// What is tangled waits for something tangled: walking on comes round.
	seen := map[int]bool{}
	for !seen[n] {
		seen[n] = true
		waits := g.open(n)
		n = waits[slices.IndexFunc(waits, func(w wait) bool { return g.tangled[w.on] })].on
	}
	best := g.round(n)
	// A shorter one may go by another of its units.
	for _, s := range best[:min(len(best), maxTried)] {
		if other := g.round(g.index[s.unit]); len(other) < len(best) {
			best = other
		}
	}
	return best
}

// tangle finds what is tangled and returns the first, or −1. It takes away what
// waits for nothing, again and again: the rest is tangled.
func (g *graph) tangle() int {
	left := make([]int, len(g.units))
	waiting := make([][]int, len(g.units))
	var free []int
	for n := range g.units {
		for _, w := range g.waits[n] {
			if !w.by.gone {
				left[n]++
				waiting[w.on] = append(waiting[w.on], n)
			}
		}
		if left[n] == 0 {
			free = append(free, n)
		}
	}
	for len(free) > 0 {
		n := free[len(free)-1]
		free = free[:len(free)-1]
		for _, other := range waiting[n] {
			if left[other]--; left[other] == 0 {
				free = append(free, other)
			}
		}
	}
	g.tangled = make([]bool, len(g.units))
	first := -1
	for n := range g.units {
		if g.tangled[n] = left[n] > 0; g.tangled[n] && first < 0 {
			first = n
		}
	}
	return first
}

// round returns a shortest way from a unit back to itself.
func (g *graph) round(start int) []step {
	type arrival struct {
		from int
		by   *word
	}
	came := map[int]arrival{}
	for queue := []int{start}; len(queue) > 0; queue = queue[1:] {
		n := queue[0]
		for _, w := range g.open(n) {
			if _, been := came[w.on]; been || !g.tangled[w.on] {
				continue
			}
			came[w.on] = arrival{n, w.by}
			if w.on != start {
				queue = append(queue, w.on)
				continue
			}
			var way []step
			for at := start; ; {
				a := came[at]
				way = append(way, step{g.units[a.from], a.by})
				if at = a.from; at == start {
					slices.Reverse(way)
					return way
				}
			}
		}
	}
	return nil
}
