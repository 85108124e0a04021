package gpuhealth

import (
	"sync/atomic"
	"time"

	"gpuherd/generator/gpu/nvml"
)

const (
	listen = 500 * time.Millisecond // that one wait for an event takes
	pause  = time.Second            // after NVML failed, and between samples for events
)

// A report is what a reader has to say.
type report struct {
	opened  *opening
	event   *nvml.Event
	samples []nvml.Sample
	missed  error // events may have been missed
	closed  error // NVML could not be opened; nothing follows
}

// An opening says that NVML is open.
type opening struct {
	gpus    []string // the PCI addresses of those that it has
	faults  []nvml.Fault
	unheard []string // the PCI addresses of those that tell of no errors
}

// A reader keeps NVML open in a goroutine of its own: a call into NVML may
// never return, and cannot be interrupted.
type reader struct {
	open  func() (*nvml.Session, error)
	every time.Duration // between samples
	out   chan<- report

	quit  chan struct{}
	done  chan struct{}
	since atomic.Int64 // when the call that runs began, unix time in ns; 0: none runs
}

func startReader(open func() (*nvml.Session, error), every time.Duration, out chan<- report) *reader {
	r := &reader{open: open, every: every, out: out, quit: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

// stuck returns for how long NVML has not returned.
func (r *reader) stuck() time.Duration {
	since := r.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// ended reports whether it has let go of NVML.
func (r *reader) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// call notes that a call into NVML runs.
func (r *reader) call(f func()) {
	r.since.Store(time.Now().UnixNano())
	defer r.since.Store(0)
	f()
}

// run reports until it is told to quit. Events are registered for before the
// first sample, so nothing falls between the two.
func (r *reader) run() {
	defer close(r.done)
	var (
		s   *nvml.Session
		err error
	)
	r.call(func() { s, err = r.open() })
	if err != nil {
		r.send(report{closed: err})
		return
	}
	defer r.call(s.Close)
	if !r.send(report{opened: &opening{gpus: s.GPUs(), faults: s.Faults, unheard: s.Unheard}}) {
		return
	}
	for n := len(s.GPUs()); ; {
		began := time.Now()
		samples := make([]nvml.Sample, n)
		for i := range samples {
			r.call(func() { samples[i] = s.Sample(i) })
		}
		if !r.send(report{samples: samples}) || !r.listen(s, began) {
			return
		}
	}
}

// listen reports events until the next sample is due, which an event can bring
// forward. It returns false where the reader is to quit.
func (r *reader) listen(s *nvml.Session, began time.Time) bool {
	due := began.Add(r.every)
	for time.Now().Before(due) {
		var (
			e   nvml.Event
			ok  bool
			err error
		)
		r.call(func() { e, ok, err = s.Wait(min(listen, max(time.Until(due), time.Millisecond))) })
		soon := began.Add(pause)
		if err != nil {
			return r.send(report{missed: err}) && r.rest(time.Until(soon))
		}
		if ok && !applicationFault(e.XID) && soon.Before(due) {
			due = soon
		}
		if ok && !r.send(report{event: &e}) || r.quits() {
			return false
		}
	}
	return true
}

// quits reports whether the reader is to quit.
func (r *reader) quits() bool {
	select {
	case <-r.quit:
		return true
	default:
		return false
	}
}

// rest waits. It returns false where the reader is to quit.
func (r *reader) rest(d time.Duration) bool {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-r.quit:
	case <-t.C:
	}
	return !r.quits()
}

// send reports whether the report was taken, and the reader is to go on.
func (r *reader) send(rep report) bool {
	select {
	case <-r.quit:
	case r.out <- rep:
	}
	return !r.quits()
}
