package main

import "testing"

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want int
	}{
		"version":         {[]string{"--version"}, 0},
		"nothing":         {nil, exitUsage},
		"no command":      {[]string{"run", "--backend", "host"}, exitUsage},
		"unknown flag":    {[]string{"run", "--bad", "--", "true"}, exitUsage},
		"help":            {[]string{"run", "--help"}, 0},
		"bad environment": {[]string{"run", "--env", "A", "--", "true"}, exitUsage},
		"bad memory":      {[]string{"run", "--memory", "much", "--", "true"}, exitUsage},
		"bad package":     {[]string{"run", "--package", "A", "--", "true"}, exitFailed},
		"no early script": {[]string{"run", "--early", "/none", "--", "true"}, exitUsage},
		"unknown suite":   {[]string{"image", "potato"}, exitUsage},
		"unknown backend": {[]string{"run", "--backend", "qemu", "--", "true"}, exitFailed},
		"missing tree":    {[]string{"run", "--backend", "host", "--install", "/none", "--", "true"}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := run(t.Context(), test.args); got != test.want {
				t.Errorf("%q: exit status %d, want %d", test.args, got, test.want)
			}
		})
	}
}
