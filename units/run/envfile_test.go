package run

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseEnv(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		syntax Syntax
		text   string
		want   []string
		fail   string
	}{
		{"empty", Systemd, "\n# one\n; two\n  \n", nil, ""},
		{"plain", Systemd, "A=1\nB = two words \nC=\n", []string{"A=1", "B=two words", "C="}, ""},
		{"no end of line", Systemd, "A=1", []string{"A=1"}, ""},
		{"hash is part of it", Systemd, "A=1 # 2\n", []string{"A=1 # 2"}, ""},
		{"single quotes", Systemd, "A='x \\n $y'\n", []string{`A=x \n $y`}, ""},
		{"double quotes", Systemd, `A="a\"b\\c\$d\n"` + "\n", []string{`A=a"b\c$d\n`}, ""},
		{"quotes over lines", Systemd, "A=\"1\n2\"\nB=3\n", []string{"A=1\n2", "B=3"}, ""},
		{"parts", Systemd, `A="a" 'b' c` + "\n", []string{"A=abc"}, ""},
		{"a quote within", Systemd, "A=it's\nB=x\"y\"\n", []string{"A=it's", `B=x"y"`}, ""},
		{"goes on", Systemd, "A=one\\\n  two\nB=\"x\\\ny\"\n", []string{"A=one  two", "B=xy"}, ""},
		{"escaped blank at the end", Systemd, "A=x\\ \n", []string{"A=x "}, ""},
		{"CRLF and BOM", Systemd, "\ufeffA=1\r\nB=2\r\n", []string{"A=1", "B=2"}, ""},
		{"no export", Systemd, "export A=1\n", nil, `F:1: "export A" is no name`},
		{"no assignment", Systemd, "A=1\nnonsense\n", nil, "F:2: is no assignment"},
		{"open quote", Systemd, "\nA=\"hunter2\n", nil, "F:2: the value of A has an open quote"},
		{"NUL", Systemd, "A=x\x00y\n", nil, "F:1: the value of A has a NUL"},

		{"dotenv", Dotenv, "export A=1\nB=two words # three\nC='#x' # y\nD=a#b\n", []string{"A=1", "B=two words", "C=#x", "D=a#b"}, ""},
		{"dotenv new lines", Dotenv, `A="1\n2\t\"x\""` + "\n", []string{"A=1\n2\\t\"x\""}, ""},
		{"dotenv single", Dotenv, "A='1\\n2'\nB=`x 'y'`\n", []string{`A=1\n2`, "B=x 'y'"}, ""},
		{"dotenv over lines", Dotenv, "KEY=\"-----BEGIN\nabc\n-----END\"\nB=1\n", []string{"KEY=-----BEGIN\nabc\n-----END", "B=1"}, ""},
		{"dotenv empty", Dotenv, "A=\nB=# nothing\n", []string{"A=", "B="}, ""},
		{"dotenv lone quote", Dotenv, "A='s gravenhage\n", []string{"A='s gravenhage"}, ""},
		{"dotenv junk", Dotenv, "A=\"hunter2\" x\n", nil, "F:1: something stands behind"},
		{"dotenv backslash", Dotenv, `A=C:\temp` + "\n", []string{`A=C:\temp`}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseEnv("F", []byte(test.text), test.syntax)
			if test.fail != "" {
				if err == nil || !strings.HasPrefix(err.Error(), test.fail) || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("error %v, want %q", err, test.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add("A=1\n# x\nexport B=\"y\\n\" # z\nC='a\nb'\n")
	f.Add("A=\\\n\\")
	f.Fuzz(func(t *testing.T, text string) {
		for _, syntax := range []Syntax{Systemd, Dotenv} {
			env, err := ParseEnv("F", []byte(text), syntax)
			if err != nil && env != nil {
				t.Fatal("an error, and variables")
			}
			for _, v := range env {
				name, value, ok := strings.Cut(v, "=")
				if !ok || !variableName.MatchString(name) || strings.Contains(value, "\x00") {
					t.Fatalf("%q is no assignment", v)
				}
			}
		}
	})
}
