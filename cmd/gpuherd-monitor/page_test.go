//go:build browser

package main

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
	"github.com/redis/go-redis/v9"

	"gpuherd/monitor/bus/bustest"
	"gpuherd/units/queue/redistest"
)

// browser is one of Chromium's kind. It is too large to ask for in every test.
var browser = flag.String("browser", "/usr/bin/chromium", "path of Chromium, to look at the pages with")

// A tab is a page open in a browser, reached by its DevTools protocol.
type tab struct {
	t      *testing.T
	conn   *websocket.Conn
	id     int
	errors []string // what the page and its policy complained of
}

func openTab(t *testing.T, url string) *tab {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(*browser, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--user-data-dir="+dir, "about:blank")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	var targets []struct {
		Type                 string
		WebSocketDebuggerURL string `json:"webSocketDebuggerUrl"`
	}
	eventually(t, "the browser answers", func() bool {
		port, _, _ := strings.Cut(read(filepath.Join(dir, "DevToolsActivePort")), "\n")
		resp, err := http.Get("http://127.0.0.1:" + port + "/json/list")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(&targets) == nil && len(targets) > 0 && targets[0].Type == "page"
	})
	conn, _, err := websocket.Dial(t.Context(), targets[0].WebSocketDebuggerURL, nil) //nolint:bodyclose // it is the connection
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(16 << 20)
	b := &tab{t: t, conn: conn}
	b.call("Log.enable", nil)
	b.call("Runtime.enable", nil)
	b.call("Page.navigate", map[string]any{"url": url})
	return b
}

func read(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}

// call calls a method of the protocol and returns its result. Events that come
// meanwhile are noted where they are errors.
func (b *tab) call(method string, params any) json.RawMessage {
	b.t.Helper()
	b.id++
	if err := wsjson.Write(b.t.Context(), b.conn, map[string]any{"id": b.id, "method": method, "params": params}); err != nil {
		b.t.Fatal(err)
	}
	for {
		var m struct {
			ID             int
			Method         string
			Params, Result json.RawMessage
		}
		if err := wsjson.Read(b.t.Context(), b.conn, &m); err != nil {
			b.t.Fatal(err)
		}
		switch {
		case m.ID == b.id:
			return m.Result
		case m.Method == "Log.entryAdded" || m.Method == "Runtime.exceptionThrown" || m.Method == "Runtime.consoleAPICalled":
			b.errors = append(b.errors, string(m.Params))
		}
	}
}

// eval returns what a JavaScript expression is, as text.
func (b *tab) eval(expression string) string {
	b.t.Helper()
	var r struct{ Result struct{ Value any } }
	if err := json.Unmarshal(b.call("Runtime.evaluate", map[string]any{"expression": expression}), &r); err != nil {
		b.t.Fatal(err)
	}
	text, _ := r.Result.Value.(string)
	return text
}

// becomes waits until the page holds all of want.
func (b *tab) becomes(want ...string) {
	b.t.Helper()
	dom := ""
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		dom = b.eval("document.documentElement.outerHTML")
		missing := ""
		for _, w := range want {
			if !strings.Contains(dom, w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("the page has no %s:\n%s", missing, dom)
		}
	}
}

// listen takes what the monitor tells systemd from now on, so that it can go on
// telling.
func (p *process) listen() {
	_ = p.notify.SetReadDeadline(time.Time{})
	go func() {
		for buf := make([]byte, 4096); ; {
			if _, err := p.notify.Read(buf); err != nil {
				return
			}
		}
	}()
}

// In a browser the pages follow what happens, say when they cannot, and take no
// text for anything else.
func TestPagesInABrowser(t *testing.T) {
	const hostile = `<img src=x onerror="document.title='broken'">`
	const shown = `<td class="">&lt;img src=x onerror=`
	const live = `<span id="live">live</span>`
	first := herd(2)
	first[0].StatusText = hostile
	systemd := bustest.Start(t, first...)
	srv := redistest.Start(t)
	p := start(t, systemd, srv, t.TempDir())
	p.hears("READY=1")
	eventually(t, "it is ready", func() bool { code, _ := p.get("/readyz"); return code == 200 })
	p.listen()

	host := openTab(t, "http://127.0.0.1:"+p.port+"/")
	host.becomes(live, shown, `<td class="">w@1</td><td class="right">1</td><td class="good">active/running</td>`)
	systemd.Announce(unit(1, "failed", "failed", 2, 1001))
	host.becomes(`<td class="">w@1</td><td class="right">1</td><td class="bad">failed/failed</td>`, `<td class="bad">w@1 failed</td>`)
	if text := host.eval("getComputedStyle(document.querySelector('td.bad')).color"); text == host.eval("getComputedStyle(document.body).color") {
		t.Errorf("what failed is of the colour %s, like the rest", text)
	}

	c := srv.Client(t)
	c.ZAdd(t.Context(), "gpuherd:hosts", redis.Z{Score: 1, Member: hostile})
	fleet := openTab(t, "http://127.0.0.1:"+p.port+"/fleet")
	fleet.becomes(live, shown, `<td class="">box</td><td class="good">alive</td>`)
	c.ZAdd(t.Context(), "gpuherd:hosts", redis.Z{Score: 2, Member: "late"})
	fleet.becomes(`late</td><td class="bad">lost `)
	c.ZRem(t.Context(), "gpuherd:hosts", "late", hostile)
	fleet.becomes("<p class=\"\">1 host: 1 alive;")
	if text := fleet.eval("document.body.innerText"); strings.Contains(text, "late") {
		t.Errorf("a host that is no more is still shown: %s", text)
	}
	srv.Kill()
	fleet.becomes(`<p class="bad">cannot read the list of hosts: `, live)
	host.becomes(`<p class="bad">redis: cannot write to Redis: `, `<p class="bad">queue: `, live)
	for _, b := range []*tab{host, fleet} {
		if len(b.errors) > 0 {
			t.Errorf("the browser says: %s", strings.Join(b.errors, "\n"))
		}
		if text := b.eval("document.title"); strings.Contains(text, "broken") {
			t.Error("a text was taken for a tag")
		}
	}

	p.end(syscall.SIGKILL)
	host.becomes(`<body data-view="/view/host" data-events="/api/v1/events" class="old">`, "not current: the monitor does not answer")
}
