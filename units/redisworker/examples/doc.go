// Package examples holds programs that put jobs in, programs that run them,
// and ComfyUI's configuration, each run by a test.
package examples
