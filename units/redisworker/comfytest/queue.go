package comfytest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"sync"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func newUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// An item is a prompt in the queue.
type item struct {
	number   float64
	id       string
	prompt   json.RawMessage
	workflow map[string]*workflowNode
	extra    map[string]any
	client   string
	outputs  []string
}

// MarshalJSON writes the tuple that ComfyUI shows.
func (i *item) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{i.number, i.id, i.prompt, i.extra, i.outputs})
}

// A record is a prompt in the history.
type record struct {
	Prompt  *item          `json:"prompt"`
	Outputs map[string]any `json:"outputs"`
	Status  status         `json:"status"`
	Meta    map[string]any `json:"meta"`
}

type status struct {
	Str       string   `json:"status_str"`
	Completed bool     `json:"completed"`
	Messages  [][2]any `json:"messages"`
}

// A queue is PromptQueue of execution.py.
type queue struct {
	updated func()

	mu      sync.Mutex
	next    int
	pending []*item
	running *item
	history map[string]*record
	more    chan struct{}
}

func newQueue(updated func()) *queue {
	return &queue{updated: updated, pending: []*item{}, history: map[string]*record{}, more: make(chan struct{}, 1)}
}

// number gives a prompt its place: smaller is sooner.
func (q *queue) number(given *float64, front bool) float64 {
	if given != nil {
		return *given
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := float64(q.next)
	q.next++
	if front {
		n = -n
	}
	return n
}

func (q *queue) put(i *item) {
	q.mu.Lock()
	q.pending = append(q.pending, i)
	slices.SortStableFunc(q.pending, func(a, b *item) int { return cmp.Compare(a.number, b.number) })
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
	q.updated()
}

// get waits for a prompt, and makes it the running one; nil when ctx is done.
func (q *queue) get(ctx context.Context) *item {
	for {
		q.mu.Lock()
		if len(q.pending) > 0 {
			i := q.pending[0]
			q.pending, q.running = q.pending[1:], i
			q.mu.Unlock()
			q.updated()
			return i
		}
		q.mu.Unlock()
		select {
		case <-q.more:
		case <-ctx.Done():
			return nil
		}
	}
}

// done moves the running prompt to the history.
func (q *queue) done(r *record) {
	q.mu.Lock()
	q.running = nil
	q.history[r.Prompt.id] = r
	q.mu.Unlock()
	q.updated()
}

func (q *queue) current() (running, pending []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	running = []*item{}
	if q.running != nil {
		running = append(running, q.running)
	}
	return running, slices.Clone(q.pending)
}

func (q *queue) isRunning(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running != nil && q.running.id == id
}

func (q *queue) remaining() int {
	running, pending := q.current()
	return len(running) + len(pending)
}

func (q *queue) remove(all bool, ids []string) {
	q.mu.Lock()
	q.pending = slices.DeleteFunc(q.pending, func(i *item) bool { return all || slices.Contains(ids, i.id) })
	q.mu.Unlock()
	q.updated()
}

// past returns the history, or what it has of one prompt.
func (q *queue) past(id string) map[string]*record {
	q.mu.Lock()
	defer q.mu.Unlock()
	found := map[string]*record{}
	for k, r := range q.history {
		if id == "" || id == k {
			found[k] = r
		}
	}
	return found
}

func (q *queue) forget(all bool, ids []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id := range q.history {
		if all || slices.Contains(ids, id) {
			delete(q.history, id)
		}
	}
}
