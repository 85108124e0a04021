package redistest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"gpuherd/units/redisclient"
)

// A Form is one of the ways in which an operator runs Redis.
type Form struct {
	Name  string
	Start func(testing.TB) *Deployment
}

// Forms returns all of them. rights are what the user of the form ACL may do,
// as ACL SETUSER has it; in the other forms everything is allowed.
func Forms(rights string) []Form {
	return []Form{
		{"TCP", TCP},
		{"unix socket", Unix},
		{"TLS", TLS},
		{"ACL", func(tb testing.TB) *Deployment { return ACL(tb, rights) }},
		{"Sentinel", func(tb testing.TB) *Deployment { return &StartSentinel(tb).Deployment }},
		{"Cluster", func(tb testing.TB) *Deployment { return &StartCluster(tb).Deployment }},
	}
}

// A Deployment is Redis in one form.
type Deployment struct {
	URL         string // for [Redis] URL=
	Credentials string // the folder of credentials; "": none
	Servers     []*Server

	admin   string // URL of one who may do everything
	primary func(key string) *Server
}

// Client opens a client as the programs do; it is closed with the test.
func (d *Deployment) Client(tb testing.TB, opts ...redisclient.Option) redis.UniversalClient {
	tb.Helper()
	return open(tb, d.URL, d.Credentials, opts...)
}

// Admin opens a client that may do everything and sees the same data.
func (d *Deployment) Admin(tb testing.TB) redis.UniversalClient {
	tb.Helper()
	if d.admin == "" {
		return d.Client(tb)
	}
	return open(tb, d.admin, "")
}

// Primary returns the server that takes the writes of key now.
func (d *Deployment) Primary(key string) *Server { return d.primary(key) }

// alone is a Deployment of one server, whose socket is for the admin.
func alone(url string, srv *Server) *Deployment {
	return &Deployment{URL: url, Servers: []*Server{srv}, admin: srv.URL(), primary: func(string) *Server { return srv }}
}

// Alone is a server that was started already, reached by its socket.
func Alone(srv *Server) *Deployment { return alone(srv.URL(), srv) }

// Unix is one server, reached by its socket.
func Unix(tb testing.TB) *Deployment {
	tb.Helper()
	return Alone(Start(tb))
}

// TCP is one server, reached by its port.
func TCP(tb testing.TB) *Deployment {
	tb.Helper()
	srv := startPort(tb, "--port")
	return alone("redis://"+srv.Addr(), srv)
}

// TLS is one server with a certificate of an authority of its own, that asks
// its clients for one, too.
func TLS(tb testing.TB) *Deployment {
	tb.Helper()
	a := NewAuthority(tb)
	dir := tb.TempDir()
	cert, key := a.Issue()
	write(tb, dir, "cert", cert)
	write(tb, dir, "key", key)
	write(tb, dir, "ca", a.PEM)
	srv := startPort(tb, "--tls-port", "--tls-auth-clients", "yes", "--tls-ca-cert-file", filepath.Join(dir, "ca"),
		"--tls-cert-file", filepath.Join(dir, "cert"), "--tls-key-file", filepath.Join(dir, "key"))
	d := alone("rediss://"+srv.Addr(), srv)
	cert, key = a.Issue()
	d.Credentials = Credentials(tb, map[string][]byte{
		redisclient.CredentialCA: a.PEM, redisclient.CredentialCert: cert, redisclient.CredentialKey: key,
	})
	return d
}

// ACL is one server with a user who has rights alone, and a password in a
// credential.
func ACL(tb testing.TB, rights string) *Deployment {
	tb.Helper()
	dir := tb.TempDir()
	// The socket's user stays as it is, for the admin.
	write(tb, dir, "users", []byte("user default on nopass ~* &* +@all\nuser gpuherd on >secret "+rights+"\n"))
	srv := startPort(tb, "--port", "--aclfile", filepath.Join(dir, "users"))
	d := alone("redis://gpuherd@"+srv.Addr(), srv)
	d.Credentials = Credentials(tb, map[string][]byte{redisclient.CredentialPassword: []byte("secret\n")})
	return d
}

// Rights returns what the file that we ship for an ACL user gives it, so that
// tests run with just that.
func Rights(tb testing.TB, file string) string {
	tb.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// Credentials writes a folder as systemd lays one down for a service.
func Credentials(tb testing.TB, files map[string][]byte) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, data := range files {
		write(tb, dir, name, data)
	}
	return dir
}

func write(tb testing.TB, dir, name string, data []byte) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		tb.Fatal(err)
	}
}
