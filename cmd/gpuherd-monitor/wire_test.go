package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gpuherd/generator/config"
	"gpuherd/monitor/bus/bustest"
	"gpuherd/monitor/web"
	"gpuherd/units/queue/redistest"
)

// layCredentials writes a token, and a certificate for 127.0.0.1, which it
// returns as the authority to trust.
func layCredentials(t *testing.T, token string) (dir string, authority *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir, authority = t.TempDir(), x509.NewCertPool()
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	authority.AppendCertsFromPEM(chain)
	for name, data := range map[string][]byte{
		web.CredentialToken: []byte(token), web.CredentialCert: chain,
		web.CredentialKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return dir, authority
}

// A monitor that others may ask, and that also tells of the machine in the form
// of the PM2 machine.
func TestRemoteMachine(t *testing.T) {
	const token = "correct-horse-battery"
	dir, authority := layCredentials(t, token)
	systemd, redis := bustest.Start(t, herd(2)...), redistest.Start(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", systemd.Address)
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	conf := config.Default()
	port := freePort(t)
	conf.Monitor = config.Monitor{Listen: "0.0.0.0:" + port, MachineStatus: true}
	conf.Redis.URL, conf.Redis.Host = redis.URL(), "gpu1"

	sub := redis.Client(t).PSubscribe(t.Context(), "machine:status:*")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := wire(conf, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- supervise(ctx, m.tasks, slog.New(slog.DiscardHandler)) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.close()
	}()

	message, err := sub.ReceiveMessage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var told struct {
		UpdateType string `json:"update_type"`
	}
	if err := json.Unmarshal([]byte(message.Payload), &told); err != nil || message.Channel != "machine:status:gpu1" || told.UpdateType != "machine_ready" {
		t.Errorf("on %s: %s: %v", message.Channel, message.Payload, err)
	}

	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: authority}}}
	get := func(path, token string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://127.0.0.1:"+port+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := client.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	eventually(t, "the machine is healthy", func() bool { code, _ := get("/health", ""); return code == 200 })
	if code, body := get("/ready", ""); code != 200 || body != `{"ready":true}`+"\n" {
		t.Errorf("/ready is %d %s", code, body)
	}
	for _, path := range []string{"/status", "/api/v1/units"} {
		if code, body := get(path, "wrong"); code != 401 {
			t.Errorf("%s without the token is %d %s", path, code, body)
		}
		if code, body := get(path, token); code != 200 || !strings.Contains(body, "w@1") && !strings.Contains(body, "w-gpu1") {
			t.Errorf("%s is %d %s", path, code, body)
		}
	}
}
