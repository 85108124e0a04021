package redisworker

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"gpuherd/units/redisclient"
)

const (
	socketWait = 2 * time.Second  // for the websocket, before the prompt is posted without
	pingEvery  = 20 * time.Second // a connection whose other end is gone says nothing
	pingWait   = 10 * time.Second
	maxMessage = 4 << 20 // of JSON; pictures are not read
)

// listen tells of the progress of a prompt, and of its end through nudge. It
// goes on, whatever becomes of the connection, until stop is called. It
// returns when ComfyUI knows the client, so that nothing is missed, or there
// is no hope of that soon.
func (c *ComfyUI) listen(ctx context.Context, p *prompt, progress func(string)) (nudge <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	end, known, done := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(known) })
	track := newTracker(p)
	handle := func(data []byte) {
		once() // the first is ComfyUI's greeting
		percent, over := track.message(data)
		if percent > 0 {
			progress(strconv.Itoa(percent))
		}
		if over {
			select {
			case end <- struct{}{}:
			default:
			}
		}
	}
	go func() {
		defer close(done)
		backoff := redisclient.Backoff{Min: 100 * time.Millisecond, Max: 5 * time.Second}
		for {
			if conn, err := c.dial(ctx, p.id); err == nil {
				backoff.Reset()
				hear(ctx, conn, handle)
			}
			once()
			if backoff.Wait(ctx) != nil {
				return
			}
		}
	}()
	wait := time.NewTimer(socketWait)
	defer wait.Stop()
	select {
	case <-known:
	case <-wait.C:
	}
	return end, func() { cancel(); <-done }
}

// dial connects to the websocket of a client. There may be one of each.
func (c *ComfyUI) dial(ctx context.Context, client string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	u := c.server.url.JoinPath("ws")
	query := u.Query()
	query.Set("clientId", client)
	u.RawQuery = query.Encode()
	conn, _, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: c.server.client}) //nolint:bodyclose // it is the connection
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1)
	return conn, nil
}

// hear hands on each text message until the connection is gone or ctx is done.
func hear(ctx context.Context, conn *websocket.Conn, handle func([]byte)) {
	ctx, cancel := context.WithCancel(ctx)
	pinged := make(chan struct{})
	go func() {
		defer close(pinged)
		ping(ctx, conn)
		cancel()
	}()
	for {
		kind, r, err := conn.Reader(ctx)
		if err != nil {
			break
		}
		if kind != websocket.MessageText {
			_, err = io.Copy(io.Discard, r)
		} else {
			text := capture{most: maxMessage}
			if _, err = io.Copy(&text, r); err == nil && !text.over {
				handle(text.buf)
			}
		}
		if err != nil {
			break
		}
	}
	cancel()
	<-pinged
	_ = conn.CloseNow()
}

// ping returns when the other end does not answer, or ctx is done.
func ping(ctx context.Context, conn *websocket.Conn) {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		wait, cancel := context.WithTimeout(ctx, pingWait)
		err := conn.Ping(wait)
		cancel()
		if err != nil {
			return
		}
	}
}

// A tracker makes a percentage of what the websocket tells.
type tracker struct {
	id      string
	nodes   map[string]float64 // how much of each is done, from 0 to 1
	current string
	told    int
}

func newTracker(p *prompt) *tracker {
	t := &tracker{id: p.id, nodes: make(map[string]float64, len(p.nodes))}
	for _, id := range p.nodes {
		t.nodes[id] = 0
	}
	return t
}

// message takes one message. percent is 0 where it is no more than before;
// over says that the prompt has ended, or is about to.
func (t *tracker) message(data []byte) (percent int, over bool) {
	var m struct {
		Type string `json:"type"`
		Data struct {
			Prompt string          `json:"prompt_id"`
			Node   *string         `json:"node"`
			Value  float64         `json:"value"`
			Max    float64         `json:"max"`
			Nodes  json.RawMessage `json:"nodes"`
		} `json:"data"`
	}
	if json.Unmarshal(data, &m) != nil {
		return 0, false
	}
	d := &m.Data
	if d.Prompt != t.id && (d.Prompt != "" || m.Type != "executing") {
		return 0, false
	}
	switch m.Type {
	case "execution_cached":
		var ids []string
		_ = json.Unmarshal(d.Nodes, &ids)
		for _, id := range ids {
			t.set(id, 1)
		}
	case "executing": // of a connection that comes in between, without prompt_id
		t.set(t.current, 1)
		if d.Node == nil {
			return 0, d.Prompt != ""
		}
		t.current = *d.Node
	case "progress":
		if d.Node != nil && d.Max > 0 {
			t.set(*d.Node, d.Value/d.Max)
		}
	case "progress_state":
		var states map[string]struct {
			State string  `json:"state"`
			Value float64 `json:"value"`
			Max   float64 `json:"max"`
		}
		_ = json.Unmarshal(d.Nodes, &states)
		for id, s := range states {
			switch {
			case s.State == "finished":
				t.set(id, 1)
			case s.Max > 0:
				t.set(id, s.Value/s.Max)
			}
		}
	case "execution_success", "execution_error", "execution_interrupted":
		return 0, true
	}
	return t.percent(), false
}

// set notes how much of a node is done. Nodes that a node put in its own place
// are not the workflow's.
func (t *tracker) set(id string, part float64) {
	if _, ok := t.nodes[id]; ok {
		t.nodes[id] = min(max(part, t.nodes[id]), 1)
	}
}

// percent is that of the nodes, once for each value. 100 is for the result.
func (t *tracker) percent() int {
	sum := 0.0
	for _, part := range t.nodes {
		sum += part
	}
	p := min(int(100*sum/float64(max(len(t.nodes), 1))), 99)
	if p <= t.told {
		return 0
	}
	t.told = p
	return p
}
