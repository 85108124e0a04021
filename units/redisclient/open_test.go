package redisclient

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
)

// credentials writes a credentials folder as systemd lays it down.
func credentials(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenReadsURLAndCredentials(t *testing.T) {
	t.Parallel()
	type result struct {
		Network, Addr, User, Password, Name string
		DB                                  int
		TLS                                 bool
	}
	tests := []struct {
		name  string
		url   string
		files map[string]string
		opts  []Option
		want  result
	}{
		{"plain", "redis://127.0.0.1:6379/2", nil, nil, result{Network: "tcp", Addr: "127.0.0.1:6379", DB: 2}},
		{"no port", "redis://box", nil, nil, result{Network: "tcp", Addr: "box:6379"}},
		{"tls", "rediss://u:p@box:1", nil, nil, result{Network: "tcp", Addr: "box:1", User: "u", Password: "p", TLS: true}},
		{"unix", "unix:///run/redis.sock?db=3", nil, nil, result{Network: "unix", Addr: "/run/redis.sock", DB: 3}},
		{"credential URL", "redis://a", map[string]string{CredentialURL: "redis://b:7\n"}, nil, result{Network: "tcp", Addr: "b:7"}},
		{"empty credential URL", "redis://a", map[string]string{CredentialURL: "\n"}, nil, result{Network: "tcp", Addr: "a:6379"}},
		{"by hand", "redis://a", map[string]string{CredentialURL: "redis://b"}, []Option{WithURL("redis://c"), WithName("me")}, result{Network: "tcp", Addr: "c:6379", Name: "me"}},
		{"password", "redis://u:old@a", map[string]string{CredentialPassword: "new\n"}, nil, result{Network: "tcp", Addr: "a:6379", User: "u", Password: "new"}},
		{"empty password", "redis://u:old@a", map[string]string{CredentialPassword: ""}, nil, result{Network: "tcp", Addr: "a:6379", User: "u", Password: "old"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := Open(config.Redis{URL: tt.url}, credentials(t, tt.files), tt.opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			o := c.(*redis.Client).Options()
			got := result{o.Network, o.Addr, o.Username, o.Password, o.ClientName, o.DB, o.TLSConfig != nil}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
			// 0 is what go-redis makes of −1, no retry.
			if !o.ContextTimeoutEnabled || o.MaxRetries != 0 || o.DialerRetries != 1 || !o.DisableIdentity || o.MaintNotificationsConfig.Mode != "disabled" {
				t.Errorf("options are not the measured ones: %+v", o)
			}
		})
	}
}

func TestOpenKinds(t *testing.T) {
	t.Parallel()
	dir := credentials(t, map[string]string{CredentialPassword: "secret"})
	s, err := Open(config.Redis{URL: "redis://:sentinel@s1:26379/4?master_name=m&addr=s2:26379"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if o := s.(*redis.Client).Options(); o.Addr != "FailoverClient" || o.DB != 4 || o.Password != "secret" || !o.ContextTimeoutEnabled {
		t.Errorf("Sentinel: options %+v", o)
	}
	c, err := Open(config.Redis{URL: "rediss://n1:1?addr=n2:2"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := c.(*redis.ClusterClient).Options()
	if diff := cmp.Diff([]string{"n1:1", "n2:2"}, o.Addrs); diff != "" || o.Password != "secret" || o.TLSConfig == nil {
		t.Errorf("Cluster: options %+v, addresses %s", o, diff)
	}
}

func TestErrorsHoldNoPassword(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		"redis://u:hunter2@box:port", "redis://u:hun/ter2@box", "redis://:1/hunter2@box", "redis://:1?hunter2@box",
		"redis://u:%hunter2@box", "redis://u:hunter2@box?hunter2", "http://u:hunter2@box", "hunter2", "redis:hunter2",
		"redis://u:hunter2@box/hunter2", "redis://box?master_name=m&password=hunter2&x=hunter2", "redis://u:hunter2@\x00",
		"redis://u:hunter2@a?addr=hunter2", "unix://u:hunter2@", "redis://hunter2@box/x",
	} {
		c, err := Open(config.Redis{URL: raw}, "")
		if err == nil {
			c.Close()
			t.Errorf("Open(%q) took it", raw)
			continue
		}
		if strings.Contains(err.Error(), "ter2") {
			t.Errorf("Open(%q): error holds the password: %v", raw, err)
		}
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	const nonsense = "-----BEGIN nonsense"
	for _, tt := range []struct {
		url   string
		files map[string]string
		want  string
	}{
		{"redis://box", map[string]string{CredentialCA: nonsense}, "credential gpuherd.redis-ca, but the URL is not rediss://"},
		{"rediss://box", map[string]string{CredentialCA: nonsense}, "no certificate in PEM"},
		{"redis://box", map[string]string{CredentialCert: nonsense, CredentialKey: "hunter2"}, "credential gpuherd.redis-cert, but the URL is not rediss://"},
		{"rediss://box", map[string]string{CredentialCert: nonsense, CredentialKey: "hunter2"}, "gpuherd.redis-cert and gpuherd.redis-key: "},
		{"rediss://box", map[string]string{CredentialCert: nonsense}, "only one is there"},
		{"rediss://box", map[string]string{CredentialKey: "hunter2"}, "only one is there"},
		{"rediss://s?master_name=m", map[string]string{CredentialKey: "hunter2"}, "only one is there"},
		{"rediss://n:1?addr=m:1", map[string]string{CredentialKey: "hunter2"}, "only one is there"},
	} {
		_, err := Open(config.Redis{URL: tt.url}, credentials(t, tt.files))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%s) with %v = %v, want an error with %q", tt.url, tt.files, err, tt.want)
		}
	}
	c, err := Open(config.Redis{URL: "unix:///run/redis.sock"}, credentials(t, map[string]string{CredentialCA: nonsense, CredentialKey: "hunter2"}))
	if err != nil {
		t.Fatalf("a socket needs no certificate: %v", err)
	}
	_ = c.Close()
}

func TestRedacted(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"redis://127.0.0.1:6379/0":             "redis://127.0.0.1:6379/0",
		"redis://u:p@box/1":                    "redis://u:xxxxx@box/1",
		"redis://token@box":                    "redis://xxxxx@box",
		"redis://:p@box?master_name=m":         "redis://:xxxxx@box?master_name=m",
		"redis://box?master_name=m&password=p": "redis://box?master_name=m&password=xxxxx",
		"unix:///run/redis.sock":               "unix:///run/redis.sock",
		"redis://:p/w@box":                     "redis://xxxxx",
		"password":                             "(no URL)",
		"":                                     "(no URL)",
	} {
		if got := Redacted(raw); got != want {
			t.Errorf("Redacted(%q) = %q, want %q", raw, got, want)
		}
	}
}

func TestBackoffGrowsWithinBounds(t *testing.T) {
	t.Parallel()
	b := Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for i, want := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		want *= time.Millisecond
		if d := b.Next(); d < want/2 || d > want {
			t.Errorf("try %d: %v, want within %v and %v", i, d, want/2, want)
		}
	}
	for range 100 {
		if d := b.Next(); d > time.Second {
			t.Fatalf("%v is above the most", d)
		}
	}
	b.Reset()
	if d := b.Next(); d > 100*time.Millisecond {
		t.Errorf("after Reset: %v", d)
	}
}
