// Package layout holds the tests of the tree itself: what every folder owes a
// reader, and which way imports go.
package layout
