package loss

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// ReadJournal reads the starts and ends of units out of what
// `journalctl --output=json _PID=1` says, from the message ids that
// `journalctl --catalog` explains.
func ReadJournal(in io.Reader) ([]Logged, error) {
	const (
		starting = "7d4958e842da4a758f6c1cdc7b36dcc5"
		started  = "39f53479d3a045ac8e11786248231fbf"
		success  = "7ad2d189f7e94e70a38c781354912448"
		skipped  = "0e4284a0caca4bfc81c0bb6786972673"
		failure  = "d9b373ed55a64feb8242e02dbe79a49c"
	)
	type key struct {
		unit, invocation string
		end              bool
	}
	seen := map[key]bool{}
	var all []Logged
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var e map[string]any
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		get := func(name string) string { s, _ := e[name].(string); return s }
		k := key{unit: get("UNIT"), invocation: get("INVOCATION_ID")}
		switch get("MESSAGE_ID") {
		case starting, started:
		case success, skipped, failure:
			k.end = true
		default:
			continue
		}
		if k.unit == "" || k.invocation == "" {
			continue // a condition kept it from starting
		}
		if seen[k] || !k.end && seen[key{k.unit, k.invocation, true}] {
			continue // told once more: started after starting, "Finished" of a oneshot
		}
		seen[k] = true
		l := Logged{Unit: k.unit, Invocation: k.invocation, End: k.end}
		if _, err := fmt.Sscan(get("__REALTIME_TIMESTAMP"), &l.AtUS); err != nil {
			return nil, fmt.Errorf("line %d: __REALTIME_TIMESTAMP: %w", n, err)
		}
		all = append(all, l)
	}
	return all, lines.Err()
}
