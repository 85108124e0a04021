package fleet

import (
	"context"
	"sync"
	"time"
)

// How long a reading may take, and how long what it gave is handed out: so long
// that readings take no more than a twentieth of the time, however many ask.
const (
	readTimeout = 5 * time.Second
	minFresh    = 2 * time.Second
	maxFresh    = 15 * time.Second
	share       = 20
)

// A Shared is a value that is read when somebody asks for it: once for all who
// ask meanwhile, and not again while it is fresh. An error is kept as well, so
// that nobody who asks often keeps knocking.
type Shared[T any] struct {
	read  func(context.Context) (T, error)
	now   func() time.Time
	limit time.Duration

	mu     sync.Mutex
	flight chan struct{} // closed when the reading under way has ended; nil: none is
	until  time.Time     // what is kept is fresh
	value  T
	err    error
}

// NewShared returns a Shared of what read returns. read is called by one
// goroutine at a time, with a context that ends after 5 s.
func NewShared[T any](read func(context.Context) (T, error)) *Shared[T] {
	return &Shared[T]{read: read, now: time.Now, limit: readTimeout}
}

// Get returns the value. It waits for a reading no longer than ctx lives; the
// reading goes on, for the next who asks.
func (s *Shared[T]) Get(ctx context.Context) (T, error) {
	s.mu.Lock()
	if s.flight == nil && s.now().Before(s.until) {
		defer s.mu.Unlock()
		return s.value, s.err
	}
	if s.flight == nil {
		s.flight = make(chan struct{})
		go s.fly(context.WithoutCancel(ctx), s.flight)
	}
	flight := s.flight
	s.mu.Unlock()
	select {
	case <-flight:
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.value, s.err
}

// fly makes one reading.
func (s *Shared[T]) fly(ctx context.Context, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	began := s.now()
	value, err := s.read(ctx)
	ended := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.err, s.flight = value, err, nil
	s.until = ended.Add(min(max(minFresh, share*ended.Sub(began)), maxFresh))
	if err != nil {
		s.until = ended.Add(minFresh)
	}
	close(done)
}
