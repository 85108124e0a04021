package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"gpuherd/generator/config"
	"gpuherd/generator/rootfs"
	"gpuherd/units/redisclient"
)

// skew is how far two clocks may be apart before it shows.
const skew = 2 * time.Second

// Redis says whether Redis answers as the workers ask it, and whether it keeps
// what it is given.
func Redis(ctx context.Context, root string, cfg config.Redis) []Finding {
	const check = "redis"
	credentials, incomplete, err := credentials(root)
	if err != nil {
		return []Finding{found(check, Skipped, "", "cannot gather the credentials: %v", err)}
	}
	defer os.RemoveAll(credentials) //nolint:errcheck // links only
	where, err := redisclient.URL(cfg, credentials)
	if err != nil {
		return []Finding{found(check, Problem, "gpuherd verify", "%v", err)}
	}
	client, err := redisclient.Open(cfg, credentials, redisclient.WithURL(where), redisclient.WithName("gpuherd-doctor"))
	if err != nil {
		return []Finding{found(check, Problem, "gpuherd verify", "%v", err)}
	}
	defer client.Close() //nolint:errcheck // nothing was written
	shown := redisclient.Redacted(where)
	before := time.Now()
	theirs, err := client.Time(ctx).Result()
	took := time.Since(before)
	if err != nil {
		if incomplete {
			return []Finding{found(check, Skipped, "sudo gpuherd doctor", "Redis at %s: %v; only root may read the credentials that belong to it", shown, err)}
		}
		mend := "look at [Redis] URL= in gpuherd.conf(5), and at Redis' own log"
		trouble := redisclient.Diagnose(err)
		if trouble.Mend != "" {
			mend = trouble.Mend
		}
		return []Finding{found(check, Problem, mend, "Redis at %s %s: %v", shown, trouble.Says(), trouble.Err)}
	}
	all := []Finding{found(check, OK, "", "Redis at %s answers in %s", shown, took.Round(100*time.Microsecond))}
	if d := theirs.Sub(before.Add(took / 2)).Abs(); d > skew {
		all = append(all, found("redis clock", Warning, "synchronise both clocks: timedatectl set-ntp yes", "the clocks of this host and of Redis are %s apart", Span(d)))
	}
	return append(all, policy(ctx, client)...)
}

// policy reads what INFO tells: it is open to more users than CONFIG.
func policy(ctx context.Context, client redis.UniversalClient) []Finding {
	info := func(section string) (map[string]string, error) {
		text, err := client.Info(ctx, section).Result()
		fields := map[string]string{}
		for line := range strings.Lines(text) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				fields[key] = value
			}
		}
		return fields, err
	}
	memory, err := info("memory")
	if err != nil {
		mend := ""
		if redisclient.Diagnose(err).Reason == redisclient.Forbidden {
			mend = "ACL SETUSER with +info for the user in [Redis] URL= lets doctor look: gpuherd-redis(7), USERS"
		}
		return []Finding{found("redis policy", Skipped, mend, "Redis does not tell its policy: %v", err)}
	}
	var all []Finding
	policy, most := memory["maxmemory_policy"], memory["maxmemory"]
	switch {
	case policy == "noeviction" || policy == "":
		all = append(all, found("redis policy", OK, "", "Redis throws nothing away when it is full (noeviction)"))
	case most == "0" || most == "":
		all = append(all, found("redis policy", OK, "", "Redis has no limit of memory, so its policy %s does nothing", policy))
	default:
		all = append(all, found("redis policy", Problem, "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf", "Redis throws keys away when it is full (%s): jobs can be lost", policy))
	}
	if persistence, err := info("persistence"); err == nil && persistence["aof_enabled"] == "0" {
		all = append(all, found("redis persistence", Warning, "redis-cli CONFIG SET appendonly yes, and the same in redis.conf", "Redis has no append-only file: jobs since its last snapshot are lost when it ends"))
	} else if err == nil {
		all = append(all, found("redis persistence", OK, "", "Redis has an append-only file"))
	}
	return all
}

// credentials makes a folder like the one that systemd gives to the workers.
// incomplete: some are there and cannot be read.
func credentials(root string) (dir string, incomplete bool, err error) {
	if dir, err = os.MkdirTemp("", "gpuherd-doctor-"); err != nil {
		return "", false, err
	}
	for _, name := range []string{redisclient.CredentialURL, redisclient.CredentialPassword, redisclient.CredentialCA, redisclient.CredentialCert, redisclient.CredentialKey} {
		for _, from := range []string{"/run/gpuherd/credentials", "/etc/credstore", "/run/credstore", "/usr/lib/credstore"} {
			file := rootfs.Path(root, filepath.Join(from, name))
			f, err := os.Open(file)
			if errors.Is(err, fs.ErrPermission) {
				incomplete = true
			}
			if err != nil {
				continue
			}
			_ = f.Close()
			if err := os.Symlink(file, filepath.Join(dir, name)); err != nil {
				return "", false, errors.Join(err, os.RemoveAll(dir))
			}
			break
		}
	}
	return dir, incomplete, nil
}
