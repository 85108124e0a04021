package comfytest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// A process is what a restart ends.
type process struct {
	*Server
	*queue
	ctx    context.Context
	cancel context.CancelFunc
	http   http.Server
	work   sync.WaitGroup

	mu       sync.Mutex
	sockets  map[string]*websocket.Conn
	client   string // whose prompt is executed
	lastNode string
	events   chan event
	cache    map[string]result
	flag     bool // interrupt
}

type event struct {
	kind string // empty: data is a binary message
	data any
	to   string // client; empty: all
}

func newProcess(s *Server) *process {
	p := &process{Server: s, sockets: map[string]*websocket.Conn{}, events: make(chan event, 4096), cache: map[string]result{}}
	p.queue = newQueue(func() { p.tell("status", map[string]any{"status": p.info()}, "") })
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

func (p *process) start(l net.Listener) {
	mux := http.NewServeMux()
	routes := map[string]http.HandlerFunc{
		"GET /ws":                  p.websocket,
		"GET /system_stats":        p.stats,
		"GET /prompt":              func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, p.info()) },
		"POST /prompt":             p.postPrompt,
		"GET /queue":               p.getQueue,
		"POST /queue":              removal(p.remove),
		"POST /interrupt":          p.interrupt,
		"GET /history":             func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, p.past("")) },
		"GET /history/{prompt_id}": func(w http.ResponseWriter, r *http.Request) { answer(w, 200, p.past(r.PathValue("prompt_id"))) },
		"POST /history":            removal(p.forget),
	}
	for route, handler := range routes {
		method, path, _ := strings.Cut(route, " ")
		mux.HandleFunc(route, handler)
		mux.HandleFunc(method+" /api"+path, handler)
	}
	p.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.Server.mu.Lock()
		what := r.Method + " " + r.URL.Path
		p.counts[what]++
		deaf, swallow := p.deaf, p.swallow == what
		if swallow {
			p.swallow = ""
		}
		p.Server.mu.Unlock()
		if deaf != nil {
			select {
			case <-deaf:
			case <-r.Context().Done():
				return
			}
		}
		if swallow {
			mux.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	})
	p.work.Go(func() { _ = p.http.Serve(l) })
	p.work.Go(p.publish)
	p.work.Go(p.execute)
}

func (p *process) stop() {
	p.cancel()
	_ = p.http.Close()
	for _, c := range p.clients() {
		_ = c.CloseNow()
	}
	p.work.Wait()
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// trouble is what aiohttp answers where a handler raised.
func trouble(w http.ResponseWriter) {
	http.Error(w, "500 Internal Server Error\n\nServer got itself in trouble", http.StatusInternalServerError)
}

func (p *process) stats(w http.ResponseWriter, _ *http.Request) {
	answer(w, 200, map[string]any{
		"system": map[string]any{
			"os": "linux", "ram_total": 67430973440, "ram_free": 40430973440, "comfyui_version": "0.38.1",
			"python_version": "3.13.5", "pytorch_version": "2.12.0+cu130", "embedded_python": false, "argv": []string{"main.py"},
		},
		"devices": []any{map[string]any{
			"name": "cuda:0 NVIDIA H100 80GB HBM3 : cudaMallocAsync", "type": "cuda", "index": 0,
			"vram_total": 84929478656, "vram_free": 84000000000, "torch_vram_total": 0, "torch_vram_free": 0,
		}},
	})
}

func (p *process) info() any {
	return map[string]any{"exec_info": map[string]any{"queue_remaining": p.remaining()}}
}

func (p *process) postPrompt(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Prompt    *json.RawMessage           `json:"prompt"`
		ID        *string                    `json:"prompt_id"`
		Client    string                     `json:"client_id"`
		Number    *float64                   `json:"number"`
		Front     bool                       `json:"front"`
		ExtraData map[string]json.RawMessage `json:"extra_data"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		trouble(w)
		return
	}
	refuse := func(kind, message, details string) {
		e := problem{Type: kind, Message: message, Details: details, Extra: map[string]any{}}
		answer(w, 400, map[string]any{"error": e, "node_errors": map[string]any{}})
	}
	number := p.number(body.Number, body.Front)
	if body.Prompt == nil {
		refuse("no_prompt", "No prompt provided", "No prompt provided")
		return
	}
	id := newUUID()
	if body.ID != nil && p.IDs != Own {
		if id = *body.ID; p.IDs == UUIDs && !uuid.MatchString(id) {
			refuse("invalid_prompt_id", "prompt_id must be a valid UUID", "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one")
			return
		}
	}
	var workflow map[string]*workflowNode
	if err := json.Unmarshal(*body.Prompt, &workflow); err != nil {
		trouble(w)
		return
	}
	outputs, failure, nodeErrors := validate(workflow)
	if failure != nil {
		answer(w, 400, map[string]any{"error": failure, "node_errors": nodeErrors})
		return
	}
	extra := map[string]any{}
	for k, v := range body.ExtraData {
		extra[k] = v
	}
	if body.Client != "" {
		extra["client_id"] = body.Client
	}
	extra["create_time"] = time.Now().UnixMilli()
	p.put(&item{number: number, id: id, prompt: *body.Prompt, workflow: workflow, extra: extra, client: body.Client, outputs: outputs})
	answer(w, 200, map[string]any{"prompt_id": id, "number": number, "node_errors": nodeErrors})
}

func (p *process) getQueue(w http.ResponseWriter, _ *http.Request) {
	running, pending := p.current()
	answer(w, 200, map[string]any{"queue_running": running, "queue_pending": pending})
}

// removal answers what takes items away, all or some: of the queue as of the
// history.
func removal(remove func(all bool, ids []string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Clear  bool     `json:"clear"`
			Delete []string `json:"delete"`
		}
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			trouble(w)
			return
		}
		remove(body.Clear, body.Delete)
	}
}

func (p *process) interrupt(_ http.ResponseWriter, r *http.Request) {
	var body struct {
		ID string `json:"prompt_id"`
	}
	_ = json.NewDecoder(r.Body).Decode(&body) // none: whatever is running
	if body.ID == "" || p.isRunning(body.ID) {
		p.setInterrupt(true)
	}
}

func (p *process) websocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	sid := r.URL.Query().Get("clientId")
	if sid == "" {
		sid = newUUID()
	}
	p.mu.Lock()
	p.sockets[sid] = c
	node := p.lastNode
	if p.client != sid {
		node = ""
	}
	p.mu.Unlock()
	p.tell("status", map[string]any{"status": p.info(), "sid": sid}, sid)
	if node != "" {
		p.tell("executing", map[string]any{"node": node}, sid)
	}
	for first := true; ; first = false {
		_, data, err := c.Read(p.ctx)
		if err != nil {
			break
		}
		var m struct{ Type string }
		if first && json.Unmarshal(data, &m) == nil && m.Type == "feature_flags" {
			p.tell("feature_flags", map[string]any{"supports_preview_metadata": true}, sid)
		}
	}
	p.mu.Lock()
	if p.sockets[sid] == c {
		delete(p.sockets, sid)
	}
	p.mu.Unlock()
	_ = c.CloseNow()
}

func (p *process) clients() []*websocket.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.sockets))
}

// tell queues a message, which publish sends.
func (p *process) tell(kind string, data any, to string) {
	select {
	case p.events <- event{kind, data, to}:
	case <-p.ctx.Done():
	}
}

func (p *process) publish() {
	for {
		var e event
		select {
		case e = <-p.events:
		case <-p.ctx.Done():
			return
		}
		kind, data := websocket.MessageBinary, []byte(nil)
		if e.kind == "" {
			data = e.data.([]byte)
		} else {
			kind = websocket.MessageText
			var err error
			if data, err = json.Marshal(map[string]any{"type": e.kind, "data": e.data}); err != nil {
				panic(fmt.Sprintf("comfytest: %v", err)) // of what this package made
			}
		}
		p.Server.mu.Lock()
		mute := p.mute
		p.Server.mu.Unlock()
		if mute {
			continue
		}
		p.mu.Lock()
		var to []*websocket.Conn
		for sid, c := range p.sockets {
			if e.to == "" || e.to == sid {
				to = append(to, c)
			}
		}
		p.mu.Unlock()
		for _, c := range to {
			ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
			_ = c.Write(ctx, kind, data)
			cancel()
		}
	}
}
