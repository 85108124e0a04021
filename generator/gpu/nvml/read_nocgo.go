//go:build !cgo

package nvml

import "fmt"

// Read answers ErrAbsent: NVML is C, and this program was built without cgo.
func Read(string) (*Answer, error) {
	return nil, fmt.Errorf("%w: this program was built without cgo", ErrAbsent)
}
