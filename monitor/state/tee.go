package state

// Tee returns a sink for a Herd that hands each Delta to all sinks, in order.
// What holds for a Herd's sink holds for each: it must not block. What a Delta
// points to is shared among them, so no sink may change it, not even later.
func Tee(sinks ...func(Delta)) func(Delta) {
	return func(d Delta) {
		for _, sink := range sinks {
			sink(d)
		}
	}
}
