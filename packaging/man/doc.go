// Package man holds the manual pages, and the tests that hold each of them
// against the source that it tells of: a page that lacks a key, a field, a flag
// or a metric fails, and so does one that names what there is not.
package man
