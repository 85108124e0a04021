// Command release tells what packages and releases say of the sources and the
// programs: the version in the packages' own terms, the changelog in Debian's
// form, the notes of a release, the bill of materials, and the licences of all
// that is linked in. The Makefile calls it; what it prints depends on the
// sources and its arguments alone, so that two builds are the same.
package main
