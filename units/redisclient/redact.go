package redisclient

import (
	"fmt"
	"net/url"
	"strings"
)

const mask = "xxxxx"

// Redacted returns a Redis URL as a log may show it: without passwords, and
// without a lone user name, which may be a password in the wrong place.
func Redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || ambiguous(u) {
		scheme, _, ok := strings.Cut(raw, "://")
		if !ok || strings.ContainsAny(scheme, "@:/") {
			return "(no URL)"
		}
		return scheme + "://" + mask
	}
	if u.User != nil {
		if _, ok := u.User.Password(); ok {
			u.User = url.UserPassword(u.User.Username(), mask)
		} else {
			u.User = url.User(mask)
		}
	}
	if q := u.Query(); q.Has("password") {
		q.Set("password", mask)
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// ambiguous says that the password may not be where url.Parse saw it: in
// redis://:1/2@host the slash was meant to be part of it.
func ambiguous(u *url.URL) bool {
	rest := u.Path + u.RawQuery + u.Fragment
	return u.Scheme == "" || u.Opaque != "" || strings.Contains(rest, "@")
}

// unreadable is the error for a URL that cannot be used. Both url.Parse and
// go-redis quote the piece they stumble over, and that may be the password:
// the reason is told only where it cannot be.
func unreadable(raw string, err error) error {
	u, parse := url.Parse(raw)
	if err == nil || parse != nil || ambiguous(u) {
		return fmt.Errorf("cannot read Redis URL %s: it is none; characters like / ? # @ %% in a password are written %%2F %%3F %%23 %%40 %%25", Redacted(raw))
	}
	reason := Redacted(raw) + ": " + strings.TrimPrefix(err.Error(), "redis: ")
	for _, secret := range secrets(u) {
		reason = strings.ReplaceAll(reason, secret, mask)
	}
	return fmt.Errorf("cannot read Redis URL %s", reason)
}

func secrets(u *url.URL) []string {
	var all []string
	if u.User != nil {
		p, ok := u.User.Password()
		if !ok {
			p = u.User.Username()
		}
		all = append(all, p)
	}
	all = append(all, u.Query()["password"]...)
	kept := all[:0]
	for _, s := range all {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return kept
}
