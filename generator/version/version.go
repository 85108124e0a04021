// Package version tells which gpuherd this is.
package version

import "runtime/debug"

// version is set by the linker: -X gpuherd/generator/version.version=1.2.3.
var version string

// String returns the version the program was built as, or what the Go
// toolchain recorded where it was built without the Makefile.
func String() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
