package gpu

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// An address is a PCI address, "0000:17:00.0", taken apart for ordering: bus
// numbers and domains are hexadecimal and domains may have more digits.
type address struct {
	name                          string
	domain, bus, device, function uint64
}

func parseAddress(s string) (address, bool) {
	domain, rest, ok1 := strings.Cut(s, ":")
	bus, rest, ok2 := strings.Cut(rest, ":")
	dev, fn, ok3 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || !ok3 || len(domain) < 4 || len(domain) > 8 || len(bus) != 2 || len(dev) != 2 || len(fn) != 1 {
		return address{}, false
	}
	a := address{name: s}
	for _, f := range []struct {
		to   *uint64
		text string
	}{{&a.domain, domain}, {&a.bus, bus}, {&a.device, dev}, {&a.function, fn}} {
		n, err := strconv.ParseUint(f.text, 16, 32)
		if err != nil || strings.ToLower(f.text) != f.text {
			return address{}, false
		}
		*f.to = n
	}
	return a, true
}

// addresses returns those of names that are PCI addresses, in bus order.
func addresses(names []string) []string {
	list := make([]address, 0, len(names))
	for _, name := range names {
		if a, ok := parseAddress(name); ok {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, compareAddress)
	sorted := make([]string, len(list))
	for i, a := range list {
		sorted[i] = a.name
	}
	return sorted
}

func compareAddress(a, b address) int {
	return cmp.Or(
		cmp.Compare(a.domain, b.domain),
		cmp.Compare(a.bus, b.bus),
		cmp.Compare(a.device, b.device),
		cmp.Compare(a.function, b.function),
	)
}
