package config

import (
	"strings"
	"testing"
)

func TestRedisURL(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"redis://h", "redis://h:6379", "redis://h:", "redis://:6379/3", "redis:///2", "rediss://u:p%40s@h:1/0?dial_timeout=5s",
		"redis://[::1]:6379/0", "redis://[::1]", "redis://h:1?addr=h2:2&addr=h3:3", "redis://u:p:q@h", "redis://h:26379/1?master_name=m",
		"unix:///run/redis.sock", "unix://u:p@/run/redis.sock?db=1",
	} {
		if err := redisURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "redis://", "http://hunter2", "redis://h:hunter2", "redis://h:0", "redis://h:65536", "redis://u:hun/ter2@h", "redis://u:hunter2%@h",
		"redis://h/hunter2", "redis://h:1/0/1", "redis://hun ter2", "redis://::1:6379", "redis://[::1", "redis://[::1]hunter2", "redis://[]",
		"unix://run/redis.sock", "unix://u:hunter2@", "redis://h\x01",
	} {
		err := redisURL(bad)
		if err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), "hun") {
			t.Errorf("%q: the message may hold a password: %v", bad, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.255.0.9": true, "localhost": true, "[::1]": true, "[::ffff:127.0.0.1]": true,
		"": false, "0.0.0.0": false, "[::]": false, "127.0.0": false, "127.0.0.256": false, "127.0.0.01": false, "127.0.0.1.example.org": false, "::": false, "gpu1": false,
	} {
		if got := Loopback(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestWorkerURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{ // for GPU 12
		"http://127.0.0.1:818%i/":           "http://127.0.0.1:81812/",
		"https://gpu%i.example:443/a%20b?x": "https://gpu12.example:443/a%20b?x",
		"http://[::1]:8188":                 "http://[::1]:8188",
		"http://h/%i/%i?q=%i":               "http://h/12/12?q=12",
	} {
		c, problems := parseText("[Worker]\nExecutor=http\nURL=" + url)
		if len(problems) > 0 || c.Worker.URLOf(12) != want {
			t.Errorf("%s: %q, want %q; problems %v", url, c.Worker.URLOf(12), want, problems)
		}
	}
	for _, bad := range []string{
		"ftp://h", "h:80", "http://", "http:///p", "http://:80/", "http://u:hunter2@h/", "http://h:hunter2/", "http://h:0/", "http://h/%", "http://h/%zz",
		"http://h%20/", "http://h/#a", "http://h /", "http://h:818%d/", "http://h/\x01", "http://::1:80/",
	} {
		if err := workerURL(bad); err == nil {
			t.Errorf("%q was taken", bad)
		} else if strings.Contains(err.Error(), "hun") {
			t.Errorf("%q: the message may hold a password: %v", bad, err)
		}
	}
}
