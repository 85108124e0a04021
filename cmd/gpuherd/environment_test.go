package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]variable{
		"GPU_INDEX=0":                      {Name: "GPU_INDEX", Value: "0"},
		"EMPTY=":                           {Name: "EMPTY"},
		"NAME_ALONE":                       {Name: "NAME_ALONE"},
		"A=b=c":                            {Name: "A", Value: "b=c"},
		"DB_PASSWORD=x":                    {Name: "DB_PASSWORD", Value: hidden, Redacted: true},
		"DB_PASSWORD=":                     {Name: "DB_PASSWORD"},
		"HF_TOKEN=x":                       {Name: "HF_TOKEN", Value: hidden, Redacted: true},
		"aws_secret_access_key=x":          {Name: "aws_secret_access_key", Value: hidden, Redacted: true},
		"OPENAI_API_KEY=x":                 {Name: "OPENAI_API_KEY", Value: hidden, Redacted: true},
		"APIKEY=x":                         {Name: "APIKEY", Value: hidden, Redacted: true},
		"KEY=x":                            {Name: "KEY", Value: hidden, Redacted: true},
		"KEYBOARD=us":                      {Name: "KEYBOARD", Value: "us"},
		"MONKEY=1":                         {Name: "MONKEY", Value: "1"},
		"PWD=/srv":                         {Name: "PWD", Value: "/srv"},
		"CREDENTIALS_DIRECTORY=/run/c":     {Name: "CREDENTIALS_DIRECTORY", Value: "/run/c"},
		"URL=redis://127.0.0.1:6379/0":     {Name: "URL", Value: "redis://127.0.0.1:6379/0"},
		"URL=redis://u:p@h/0":              {Name: "URL", Value: "redis://u:***@h/0", Redacted: true},
		"URL=redis://:p@ss@h/0":            {Name: "URL", Value: "redis://:***@h/0", Redacted: true},
		"URL=ssh://git@h/x":                {Name: "URL", Value: "ssh://git@h/x"},
		"URLS=a://u:p@h,b://u:p@h":         {Name: "URLS", Value: "a://u:***@h,b://u:***@h", Redacted: true},
		"URL=https://h/?token=abc&page=2":  {Name: "URL", Value: "https://h/?token=%2A%2A%2A&page=2", Redacted: true},
		"URL=redis://h/0?password=a%20b":   {Name: "URL", Value: "redis://h/0?password=%2A%2A%2A", Redacted: true},
		"SENTENCE=mail me: a@b and c://d/": {Name: "SENTENCE", Value: "mail me: a@b and c://d/"},
	} {
		if diff := cmp.Diff(want, redact(in)); diff != "" {
			t.Errorf("redact(%q) (-want +got):\n%s", in, diff)
		}
	}
}

func TestRedactAllSorts(t *testing.T) {
	t.Parallel()
	want := []variable{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}
	if diff := cmp.Diff(want, redactAll([]string{"B=2", "", "A=1"})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRedactLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`Environment=HF_TOKEN=hunter2 A=b`:                      `Environment=HF_TOKEN=*** A=b`,
		`Environment="PASSWORD=hunter2 hunter2" A=b`:            `Environment="PASSWORD=***" A=b`,
		`Environment='PASSWORD=hunter2 hunter2' 'A=b'`:          `Environment='PASSWORD=***' 'A=b'`,
		`ExecStart=x --api-key hunter2 --db=redis://:hunter2@h`: `ExecStart=x --api-key *** --db=redis://:***@h`,
		`ExecStart=x --password="hunter2 hunter2" -v`:           `ExecStart=x --password="***" -v`,
		`{"password": "hunter2 \" hunter2", "name": "x"}`:       `{"password": "***", "name": "x"}`,
		`"key": "Exec",`:                           `"key": "Exec",`,
		`the token of the lease has expired`:       `the token of the lease has expired`,
		`URL=redis://user:hunter2@r:6379/0?x=y`:    `URL=redis://user:***@r:6379/0?x=y`,
		`login secret: hunter2`:                    `login secret: ***`,
		`CREDENTIALS_DIRECTORY=/run/credentials/x`: `CREDENTIALS_DIRECTORY=/run/credentials/x`,
	} {
		if got := redactLine(in); got != want {
			t.Errorf("%s\ngives %s\n want %s", in, got, want)
		}
	}
}
