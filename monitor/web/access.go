package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"gpuherd/generator/config"
)

// Credentials that other machines' access needs, see systemd.exec(5) on
// LoadCredential=.
const (
	CredentialToken = "gpuherd.monitor-token" // what clients show, at least minToken characters
	CredentialCert  = "gpuherd.monitor-cert"  // the certificate with its chain, PEM
	CredentialKey   = "gpuherd.monitor-key"   // its private key, PEM
)

// minToken keeps out words that can be guessed.
const minToken = 16

// access says who may ask for what. On a loopback address that is everyone,
// for everything; elsewhere those with the token, over TLS, and others only
// whether the monitor is well.
type access struct {
	tls   *tls.Config // nil: a loopback address
	token [sha256.Size]byte
}

// newAccess returns the access to an address of Listen=. credentials is the
// folder of the service's credentials; "" for none.
func newAccess(listen, credentials string) (access, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return access{}, fmt.Errorf("[Monitor] Listen=%s: %w; write HOST:PORT", listen, err)
	}
	if config.Loopback(host) {
		return access{}, nil
	}
	values := map[string][]byte{}
	var missing []string
	for _, name := range []string{CredentialToken, CredentialCert, CredentialKey} {
		data, err := os.ReadFile(filepath.Join(credentials, name))
		if credentials == "" || errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return access{}, fmt.Errorf("cannot read credential: %w", err)
		}
		values[name] = data
	}
	if len(missing) > 0 {
		return access{}, fmt.Errorf("[Monitor] Listen=%s is no loopback address, so it needs a token and TLS: put the credentials %s into /etc/credstore, see gpuherd.conf(5)",
			listen, strings.Join(missing, ", "))
	}
	token := strings.TrimSpace(string(values[CredentialToken]))
	if len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return access{}, fmt.Errorf("credential %s: a token is %d or more letters, digits and signs of ASCII, without spaces", CredentialToken, minToken)
	}
	pair, err := tls.X509KeyPair(values[CredentialCert], values[CredentialKey])
	if err != nil {
		return access{}, fmt.Errorf("credentials %s and %s: %w", CredentialCert, CredentialKey, err)
	}
	return access{
		tls:   &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		token: sha256.Sum256([]byte(token)),
	}, nil
}

// trusts reports whether a client may know everything.
func (a access) trusts(r *http.Request) bool {
	if a.tls == nil {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	known := strings.EqualFold(scheme, "Bearer")
	// A browser has no other way to show a token than as a password.
	if _, password, ok := r.BasicAuth(); ok {
		known, token = true, password
	}
	// Of the hashes, so that the time taken does not even tell the length.
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return subtle.ConstantTimeCompare(sum[:], a.token[:]) == 1 && known
}

// guard serves those who are trusted.
func (a access) guard(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !a.trusts(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="gpuherd", Basic realm="gpuherd: the token is the password", charset="UTF-8"`)
			fail(w, http.StatusUnauthorized, "a token is needed: Authorization: Bearer TOKEN")
			return
		}
		h(w, r)
	}
}

// briefly closes the connections of those who are not trusted after each
// answer, so that they do not hold the places of others.
func (a access) briefly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.trusts(r) {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// localNames refuses requests to a host that is not this one by its loopback
// name or address: a page in a browser here could have its own name point to
// 127.0.0.1, and would read what has no token.
func localNames(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if !config.Loopback(host) {
			fail(w, http.StatusForbidden, "only requests to localhost or a loopback address are answered without a token")
			return
		}
		h.ServeHTTP(w, r)
	})
}
