package unitfile

import "strings"

// Nearest returns the known word that word is most likely meant to be, for a
// "did you mean", or "" where none is near: one whose spelling differs in case
// only, else the one with the fewest letters inserted, left out, replaced or
// swapped, at most a third of them.
func Nearest(word string, known []string) string {
	if len(word) > 64 { // a key of ours is shorter; bounds the work
		return ""
	}
	best, bestCost := "", len(word)/3+1
	if len(word) < 3 {
		bestCost = 1 // "X" is not meant to be every other key of one letter
	}
	lower := strings.ToLower(word)
	for _, k := range known {
		if cost := editDistance(lower, strings.ToLower(k)); cost < bestCost {
			best, bestCost = k, cost
		}
	}
	return best
}

// editDistance is the optimal string alignment distance in bytes.
func editDistance(a, b string) int {
	before := make([]int, len(b)+1) // the row before last
	last := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
