package nvml

import "strconv"

// A Sample is what NVML says of one GPU at one moment.
type Sample struct {
	PCI         string    // as Device has it
	Temperature *int      // °C; nil: not told
	Utilisation *int      // percent of the last moments in which something ran; nil: not told, as with MIG
	Recovery    *Recovery // nil: not told, by drivers before 560 or so
	Lost        bool      // it fell off the bus
	NeedsReset  bool      // it must be reset before it can be used
	Err         string    // otherwise why it cannot be read; empty: it can
}

// A Recovery is what has to be done with a GPU before it works again, as the
// driver sees it: nvmlDeviceGpuRecoveryAction_t.
type Recovery int

// RecoveryNone says that the GPU works.
const RecoveryNone Recovery = 0

// String returns what has to be done, in a few words.
func (r Recovery) String() string {
	switch r {
	case RecoveryNone:
		return "nothing"
	case 1:
		return "reset of the GPU"
	case 2:
		return "reboot of the machine"
	case 3:
		return "end of all peer-to-peer traffic"
	case 4:
		return "end of all peer-to-peer traffic and reset of the GPU"
	case 5:
		return "recovery of its IMEX domain"
	case 6:
		return "reset of its PCI bus"
	case 7:
		return "reboot of the system"
	}
	return "recovery action " + strconv.Itoa(int(r))
}

// An Event is something that NVML told of a GPU.
type Event struct {
	PCI      string // as Device has it
	XID      uint64 // the number of an XID error; 0: none, but what a Sample says may have changed
	Recovery bool   // what has to be done with the GPU has changed: a Sample tells to what
}
