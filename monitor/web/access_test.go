package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testToken = "0123456789abcdef"

// certificate returns a certificate for 127.0.0.1 and its key, PEM.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gpu1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes}))
}

// credentials lays down a folder as systemd does; an empty value is left out.
func credentials(t *testing.T, token, cert, key string) string {
	t.Helper()
	dir := t.TempDir()
	for name, value := range map[string]string{CredentialToken: token, CredentialCert: cert, CredentialKey: key} {
		if value == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAccess(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	_, other := certificate(t)
	whole := credentials(t, testToken+"\n", cert, key)
	for _, tt := range []struct {
		name, listen, dir string
		tls               bool
		err               string
	}{
		{"loopback", "127.0.0.1:9720", "", false, ""},
		{"loopback, and a certificate", "[::1]:9720", whole, false, ""},
		{"everywhere", ":9720", whole, true, ""},
		{"an address", "10.0.0.1:9720", whole, true, ""},
		{"a name", "gpu1:9720", whole, true, ""},
		{"no port", "9720", whole, false, "write HOST:PORT"},
		{"no folder", "0.0.0.0:9720", "", false, "gpuherd.monitor-token, gpuherd.monitor-cert, gpuherd.monitor-key"},
		{"no token", "0.0.0.0:9720", credentials(t, "", cert, key), false, "put the credentials gpuherd.monitor-token into"},
		{"no key", "[::]:9720", credentials(t, testToken, cert, ""), false, "put the credentials gpuherd.monitor-key into"},
		{"short token", ":9720", credentials(t, "hunter2hunter2", cert, key), false, "a token is 16 or more"},
		{"two words", ":9720", credentials(t, "hunter2 hunter2 hunter2", cert, key), false, "a token is 16 or more"},
		{"another's key", ":9720", credentials(t, testToken, cert, other), false, "does not match"},
		{"no PEM", ":9720", credentials(t, testToken, "hunter2", key), false, "gpuherd.monitor-cert"},
	} {
		a, err := newAccess(tt.listen, tt.dir)
		switch {
		case tt.err == "" && err != nil, tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.err)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: the error holds the secret: %v", tt.name, err)
		case (a.tls != nil) != tt.tls:
			t.Errorf("%s: TLS is %v", tt.name, a.tls != nil)
		}
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	a, err := newAccess(":1", credentials(t, testToken, cert, key))
	if err != nil {
		t.Fatal(err)
	}
	const empty = "Bearer "
	basic := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	for header, want := range map[string]bool{
		"Bearer " + testToken: true, "bearer  " + testToken: true,
		"": false, "Bearer": false, empty: false, testToken: false, "Basic " + testToken: false,
		basic(":" + testToken): true, basic("anybody:" + testToken): true,
		basic(testToken): false, basic(testToken + ":"): false, basic("x:" + testToken + "0"): false, "Basic :" + testToken: false,
		"Bearer " + testToken + "0": false, "Bearer " + testToken[1:]: false,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Authorization", header)
		if a.trusts(r) != want {
			t.Errorf("%q: trusted is %v", header, !want)
		}
	}
}

// Over TLS: who has no token learns whether the monitor is well, and no more.
func TestRemote(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	a, err := newAccess(":1", credentials(t, testToken, cert, key))
	if err != nil {
		t.Fatal(err)
	}
	s := server()
	s.Machine = machine{}
	s.Checks = []Check{{"bus", func() error { return nil }}, {"redis", func() error { return errors.New("NOAUTH at redis.internal") }}}
	address := serve(t, s, a)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(cert))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	ask := func(path, token string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.ProtoMajor != 1 {
			t.Errorf("%s: HTTP/%d", path, answer.ProtoMajor)
		}
		if token != testToken && !answer.Close {
			t.Errorf("%s: the connection of a stranger stays open", path)
		}
		body, err := io.ReadAll(io.LimitReader(answer.Body, 64)) // of a stream only the beginning
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	for _, tt := range []struct {
		path          string
		without, with int
		brief, whole  string
	}{
		{"/healthz", 200, 200, "loop: ok\n", "loop: ok\n"},
		{"/readyz", 503, 503, "bus: ok\nredis: failing\n", "bus: ok\nredis: NOAUTH at redis.internal\n"},
		{"/health", 503, 503, `"brief"` + "\n", `"full"` + "\n"},
		{"/ready", 200, 200, `"ready"` + "\n", `"ready"` + "\n"},
		{"/", 401, 200, `{"error":"a token is needed`, "<!DOCTYPE html>"},
		{"/fleet", 401, 200, `{"error":"a token is needed`, "<!DOCTYPE html>"},
		{"/view/host", 401, 200, `{"error":"a token is needed`, `{"lines":[`},
		{"/assets/page.js", 401, 200, `{"error":"a token is needed`, "// Keeps the page"},
		{"/api/v1/hosts", 401, 200, `{"error":"a token is needed`, `{"at_ms":`},
		{"/api/v1/jobs", 401, 200, `{"error":"a token is needed`, `{"seq":`},
		{"/status", 401, 200, `{"error":"a token is needed`, `"status"` + "\n"},
		{"/metrics", 401, 200, `{"error":"a token is needed`, "# HELP"},
		{"/api/v1/host", 401, 200, `{"error":"a token is needed`, `{"host":"box"`},
		{"/api/v1/units", 401, 200, `{"error":"a token is needed`, `{"seq":`},
		{"/api/v1/gpus", 401, 200, `{"error":"a token is needed`, `{"seq":`},
		{"/nothing", 404, 404, `{"error":"there is nothing here`, `{"error":"there is nothing here`},
	} {
		for token, want := range map[string]struct {
			status int
			body   string
		}{"": {tt.without, tt.brief}, "wrong": {tt.without, tt.brief}, testToken: {tt.with, tt.whole}} {
			if status, body := ask(tt.path, token); status != want.status || !strings.HasPrefix(body, want.body) {
				t.Errorf("%s with token %q: %d %q, want %d %q", tt.path, token, status, body, want.status, want.body)
			}
		}
	}
	if status, _ := ask("/api/v1/events", ""); status != http.StatusUnauthorized {
		t.Errorf("/api/v1/events without a token: %d", status)
	}
	// Plain HTTP gets nothing.
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/healthz", nil)
	if answer, err := client.Do(r); err == nil {
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			t.Error("plain HTTP is answered")
		}
	}
}

// Without token and TLS there is no HTTP on another address, an error that says
// what to do, and the monitor runs on.
func TestRefused(t *testing.T) {
	t.Parallel()
	said := make(chan string, 10)
	s := server()
	s.Listen, s.Log = "0.0.0.0:0", slog.New(slog.NewTextHandler(lines(said), nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if line := <-said; !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "gpuherd.monitor-token") {
		t.Errorf("logged %q", line)
	}
	select {
	case err := <-done:
		t.Errorf("Run ended: %v", err)
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A name that says loopback and is none is not served in the clear.
func TestListenChecksTheAddress(t *testing.T) {
	t.Parallel()
	if l, err := (access{}).listen(t.Context(), "0.0.0.0:0"); err == nil {
		l.Close()
		t.Error("0.0.0.0 is served without TLS")
	}
	l, err := (access{}).listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// A page in a browser on this machine, whose name was made to point here, reads
// nothing.
func TestLocalNames(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]int{
		"127.0.0.1:9720": 200, "localhost:9720": 200, "localhost": 200, "[::1]:9720": 200, "[::1]": 200,
		"evil.example:9720": 403, "evil.example": 403, "127.0.0.1.evil.example": 403, "10.0.0.1:9720": 403, "": 403,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", nil)
		r.Host = host
		w := httptest.NewRecorder()
		server().handler(access{}).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
	}
}

// machine answers in the form of the PM2 machine.
type machine struct{}

func (machine) Health() (bool, any, any) { return false, "brief", "full" }
func (machine) Ready() (bool, any)       { return true, "ready" }
func (machine) Status() any              { return "status" }
