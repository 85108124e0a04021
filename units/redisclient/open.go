// Package redisclient opens the connection to Redis in one way for every
// program of gpuherd: the same reading of URL and credentials, the same
// time-outs, the same pace of trying again.
package redisclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"gpuherd/generator/config"
)

// Names of the credentials in $CREDENTIALS_DIRECTORY. Each may be absent or
// empty, see systemd.exec(5), LoadCredential=.
const (
	CredentialURL      = "gpuherd.redis-url"
	CredentialPassword = "gpuherd.redis-password"
	CredentialCA       = "gpuherd.redis-ca"
	CredentialCert     = "gpuherd.redis-cert"
	CredentialKey      = "gpuherd.redis-key"
)

// Time-outs and sizes, where the URL says nothing else. Five connections are
// a blocked read, a renewal, a settlement and room for two more.
const (
	dialTimeout = 2 * time.Second
	ioTimeout   = 3 * time.Second
	poolSize    = 5
)

type settings struct {
	url      string
	name     string
	poolSize int
}

// An Option changes how Open connects.
type Option func(*settings)

// WithURL beats the URL of the configuration and of the credentials: an
// operator has given it by hand.
func WithURL(url string) Option { return func(s *settings) { s.url = url } }

// WithName sets what CLIENT LIST shows.
func WithName(name string) Option { return func(s *settings) { s.name = name } }

// WithPoolSize sets how many connections a node gets where the URL has no
// pool_size=.
func WithPoolSize(n int) Option { return func(s *settings) { s.poolSize = n } }

// Open makes a client and does not connect yet: that is the first command's
// part. The URL is that of the credential gpuherd.redis-url in the folder
// credentials ("" for none), else cfg.URL. redis:// is one server, rediss://
// the same over TLS, unix:// a socket; ?master_name= is Sentinel, whose own
// user and password stand before the @ and Redis' in ?username=&password=;
// ?addr= names more nodes of a Cluster.
//
// The credential gpuherd.redis-password beats a password in the URL,
// gpuherd.redis-ca (PEM) replaces the system's authorities, gpuherd.redis-cert
// and gpuherd.redis-key (PEM) are shown to a server that asks its clients for a
// certificate. No error of Open holds a password or a key.
//
// Commands are not repeated behind the caller's back, since a write that timed
// out may have been done: the caller does it, with a Backoff. Only a Cluster's
// client repeats one, up to three times, as it follows a slot to its node.
func Open(cfg config.Redis, credentials string, opts ...Option) (redis.UniversalClient, error) {
	set := settings{poolSize: poolSize}
	for _, opt := range opts {
		opt(&set)
	}
	raw, err := URL(cfg, credentials)
	if err != nil {
		return nil, err
	}
	if set.url != "" {
		raw = set.url
	}
	given, err := open(credentials)
	if err != nil {
		return nil, err
	}

	u, err := url.Parse(raw)
	if err != nil || ambiguous(u) {
		return nil, unreadable(raw, nil)
	}
	query := u.Query()
	switch {
	case query.Has("master_name"):
		o, err := redis.ParseFailoverURL(raw)
		if err != nil {
			return nil, unreadable(raw, err)
		}
		if err := given.secure(o.TLSConfig, u.Scheme); err != nil {
			return nil, err
		}
		if given.password != "" {
			o.Password = given.password
		}
		failover(o, set)
		return redis.NewFailoverClient(o), nil
	case query.Has("addr"):
		o, err := redis.ParseClusterURL(raw)
		if err != nil {
			return nil, unreadable(raw, err)
		}
		if err := given.secure(o.TLSConfig, u.Scheme); err != nil {
			return nil, err
		}
		if given.password != "" {
			o.Password = given.password
		}
		cluster(o, set)
		c := redis.NewClusterClient(o)
		c.AddHook(reload{c})
		return c, nil
	default:
		o, err := redis.ParseURL(raw)
		if err != nil {
			return nil, unreadable(raw, err)
		}
		if err := given.secure(o.TLSConfig, u.Scheme); err != nil {
			return nil, err
		}
		if given.password != "" {
			o.Password = given.password
		}
		single(o, set)
		return redis.NewClient(o), nil
	}
}

// URL returns the URL that Open takes: with its password, so never for a log.
func URL(cfg config.Redis, credentials string) (string, error) {
	raw, err := credential(credentials, CredentialURL)
	if err != nil || raw != "" {
		return raw, err
	}
	if cfg.URL == "" {
		return "", errors.New("cannot open Redis: no URL is configured")
	}
	return cfg.URL, nil
}

func credential(dir, name string) (string, error) {
	if dir == "" {
		return "", nil
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read credential: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// vault is what the credentials say of a connection; "" for what they do not.
type vault struct{ password, ca, cert, key string }

// open reads the folder dir; "" is none.
func open(dir string) (v vault, err error) {
	for name, to := range map[string]*string{
		CredentialPassword: &v.password, CredentialCA: &v.ca, CredentialCert: &v.cert, CredentialKey: &v.key,
	} {
		if *to, err = credential(dir, name); err != nil {
			return vault{}, err
		}
	}
	return v, nil
}

// secure makes ca the only authority that conf accepts, and cert what it shows
// of itself.
func (v vault) secure(conf *tls.Config, scheme string) error {
	if scheme == "unix" {
		return nil
	}
	if (v.cert == "") != (v.key == "") {
		return fmt.Errorf("cannot open Redis: of the credentials %s and %s only one is there", CredentialCert, CredentialKey)
	}
	for _, c := range []struct{ name, value string }{{CredentialCA, v.ca}, {CredentialCert, v.cert}} {
		if c.value != "" && conf == nil {
			// Whoever laid down a certificate wants TLS; going on without would
			// send the password in the clear.
			return fmt.Errorf("cannot open Redis: there is a credential %s, but the URL is not rediss://", c.name)
		}
	}
	if v.ca != "" {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(v.ca)) {
			return fmt.Errorf("cannot open Redis: credential %s holds no certificate in PEM", CredentialCA)
		}
		conf.RootCAs = pool
	}
	if v.cert != "" {
		pair, err := tls.X509KeyPair([]byte(v.cert), []byte(v.key))
		if err != nil {
			return fmt.Errorf("cannot open Redis: credentials %s and %s: %w", CredentialCert, CredentialKey, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// The three kinds of go-redis options have these fields in common, but no
// type. The values are measured ones:
//   - without ContextTimeoutEnabled a deadline does not reach the socket;
//   - repeated dials make a refused port cost 1.7 s a command;
//   - hand-over notices and identity cost three errors a connection on a
//     server of version 7.0;
//   - without PipelinePoolSize there is a second pool of ten connections.
type common struct {
	name             *string
	contextTimeout   *bool
	maxRetries       *int
	dialerRetries    *int
	dial, read, wr   *time.Duration
	poolSize         *int
	pipelinePoolSize *int
	disableIdentity  *bool
}

func (c common) set(s settings) {
	*c.contextTimeout = true
	*c.maxRetries = -1
	*c.dialerRetries = 1
	*c.disableIdentity = true
	if s.name != "" {
		*c.name = s.name
	}
	orDuration(c.dial, dialTimeout)
	orDuration(c.read, ioTimeout)
	orDuration(c.wr, ioTimeout)
	if *c.poolSize == 0 {
		*c.poolSize = s.poolSize
	}
	if *c.pipelinePoolSize == 0 {
		*c.pipelinePoolSize = -1
	}
}

func orDuration(d *time.Duration, fallback time.Duration) {
	if *d == 0 {
		*d = fallback
	}
}

func noHandover() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

func single(o *redis.Options, s settings) {
	common{
		&o.ClientName, &o.ContextTimeoutEnabled, &o.MaxRetries, &o.DialerRetries, &o.DialTimeout,
		&o.ReadTimeout, &o.WriteTimeout, &o.PoolSize, &o.PipelinePoolSize, &o.DisableIdentity,
	}.set(s)
	o.MaintNotificationsConfig = noHandover()
}

// failover leaves hand-over notices alone: go-redis has them off for Sentinel.
func failover(o *redis.FailoverOptions, s settings) {
	common{
		&o.ClientName, &o.ContextTimeoutEnabled, &o.MaxRetries, &o.DialerRetries, &o.DialTimeout,
		&o.ReadTimeout, &o.WriteTimeout, &o.PoolSize, &o.PipelinePoolSize, &o.DisableIdentity,
	}.set(s)
}

func cluster(o *redis.ClusterOptions, s settings) {
	common{
		&o.ClientName, &o.ContextTimeoutEnabled, &o.MaxRetries, &o.DialerRetries, &o.DialTimeout,
		&o.ReadTimeout, &o.WriteTimeout, &o.PoolSize, &o.PipelinePoolSize, &o.DisableIdentity,
	}.set(s)
	o.MaintNotificationsConfig = noHandover()
}

// LogTo sends what go-redis itself has to say to log, at level debug: its own
// logger writes to stderr with a time of its own. It holds for the process.
func LogTo(log *slog.Logger) { redis.SetLogger(printer{log}) }

type printer struct{ log *slog.Logger }

func (p printer) Printf(ctx context.Context, format string, v ...any) {
	if p.log.Enabled(ctx, slog.LevelDebug) {
		p.log.DebugContext(ctx, fmt.Sprintf(format, v...))
	}
}
