package queue

import "strconv"

// An answer is what a script gave, read piece by piece.
type answer struct {
	list []any
	bad  bool // a piece was missing, or of another type
}

func piece[T any](a *answer) (v T) {
	ok := false
	if len(a.list) > 0 {
		v, ok = a.list[0].(T)
		a.list = a.list[1:]
	}
	a.bad = a.bad || !ok
	return v
}

func (a *answer) text() string { return piece[string](a) }

// number reads an integer, which may have come as text.
func (a *answer) number() int64 {
	if len(a.list) > 0 {
		if s, ok := a.list[0].(string); ok {
			n, err := strconv.ParseInt(s, 10, 64)
			a.list, a.bad = a.list[1:], a.bad || err != nil
			return n
		}
	}
	return piece[int64](a)
}

// rest reads all that is left as fields.
func (a *answer) rest() map[string]string {
	fields := make(map[string]string, len(a.list)/2)
	for len(a.list) > 1 {
		name := a.text()
		fields[name] = a.text()
	}
	return fields
}

// fields reads one piece that is a list of fields.
func (a *answer) fields() map[string]string {
	list := answer{list: piece[[]any](a)}
	fields := list.rest()
	a.bad = a.bad || list.bad
	return fields
}

// counted reads as many pieces as the first of them says, as fields.
func (a *answer) counted() map[string]string {
	n := a.number()
	if n < 0 || n > int64(len(a.list)) {
		a.bad = true
		return nil
	}
	of := answer{list: a.list[:n]}
	a.list = a.list[n:]
	fields := of.rest()
	a.bad = a.bad || of.bad
	return fields
}
