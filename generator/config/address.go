package config

import (
	"errors"
	"fmt"
	"strings"
)

// redisURL says what is wrong with a Redis URL, as far as that can be told
// without package net/url, which would cost the generator start-up time. The
// message repeats nothing of it: any piece may be the password.
func redisURL(value string) error {
	scheme, rest, ok := strings.Cut(value, "://")
	if !ok || rest == "" || (scheme != "redis" && scheme != "rediss" && scheme != "unix") {
		return errors.New("a Redis URL begins with redis://, rediss:// or unix://")
	}
	if err := plain(value, 4096); err != nil {
		return err
	}
	authority, after := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, after = rest[:i], rest[i:]
	}
	if strings.Contains(after, "@") || !escaped(rest) {
		return errors.New("characters like / ? # @ % in a password are written %2F %3F %23 %40 %25")
	}
	host := authority[strings.LastIndexByte(authority, '@')+1:]
	if strings.ContainsAny(authority, " \"<>\\^`{|}") {
		return errors.New("a space, quote, brace or one of < > \\ ^ ` | stands before the path")
	}
	path, query, _ := strings.Cut(after, "?")
	path = strings.Trim(path, "/")
	if scheme == "unix" {
		if host != "" || path == "" {
			return errors.New("a socket is written unix:///run/redis/redis.sock")
		}
		return nil
	}
	if err := hostPort(host); err != nil {
		return err
	}
	// With addr= it is a cluster, which has no numbered databases.
	if path != "" && !strings.Contains(query, "addr=") && strings.Trim(path, "0123456789") != "" {
		return errors.New("behind the host stands the number of a database, as in redis://HOST:6379/0")
	}
	return nil
}

// workerURL says what is wrong with [Worker] URL=, in which %i stands for the
// GPU's index; as far as that can be told without package net/url, as above.
func workerURL(value string) error {
	scheme, rest, ok := strings.Cut(value, "://")
	if !ok || (scheme != "http" && scheme != "https") {
		return errors.New("a URL here begins with http:// or https://")
	}
	if err := plain(value, 4096); err != nil {
		return err
	}
	rest = strings.ReplaceAll(rest, "%i", "0")
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	switch {
	case strings.Contains(authority, "@"):
		return errors.New("a user and a password have no place here: everyone can read this file")
	case authority == "" || authority[0] == ':' || strings.ContainsAny(authority, " \t\"%<>\\^`{|}"):
		return errors.New("the host is missing, or has characters that no host has")
	case strings.Contains(rest, "#") || !escaped(rest):
		return errors.New("% stands before two hexadecimal digits, or is %i, the GPU's index; # has no place here")
	}
	return hostPort(authority)
}

// escaped reports whether every % stands before two hexadecimal digits.
func escaped(s string) bool {
	for {
		_, after, ok := strings.Cut(s, "%")
		if !ok {
			return true
		}
		if len(after) < 2 || strings.Trim(after[:2], "0123456789abcdefABCDEF") != "" {
			return false
		}
		s = after
	}
}

// hostPort takes HOST, HOST:PORT and [IPv6]:PORT; HOST may be empty.
func hostPort(s string) error {
	port := ""
	if strings.HasPrefix(s, "[") {
		address, after, ok := strings.Cut(s[1:], "]")
		if !ok || address == "" || after != "" && after[0] != ':' {
			return errors.New("an IPv6 address is written [ADDRESS]:PORT")
		}
		port = strings.TrimPrefix(after, ":")
	} else {
		var host string
		host, port, _ = strings.Cut(s, ":")
		if strings.Contains(port, ":") || strings.ContainsAny(host, "[]") {
			return errors.New("an IPv6 address is written [ADDRESS]:PORT")
		}
	}
	if port == "" {
		return nil
	}
	if _, err := number(port, 1, 65535); err != nil {
		// What stands there may be a password whose @ is missing.
		return errors.New("the port is no number from 1 to 65535")
	}
	return nil
}

// Loopback reports whether the host of a Listen= can be reached from this
// machine alone. A name other than localhost counts as one that others reach,
// whatever it resolves to.
func Loopback(host string) bool {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "localhost" || host == "::1" {
		return true
	}
	parts := strings.Split(strings.TrimPrefix(host, "::ffff:"), ".")
	if len(parts) != 4 || parts[0] != "127" {
		return false
	}
	for _, part := range parts {
		if n, err := number(part, 0, 255); err != nil || fmt.Sprint(n) != part {
			return false
		}
	}
	return true
}
