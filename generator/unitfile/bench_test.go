package unitfile

import (
	"os"
	"testing"
)

func shipped(b *testing.B) []byte {
	b.Helper()
	data, err := os.ReadFile("../../packaging/systemd/gpuherd-monitor.service")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	return data
}

func BenchmarkParse(b *testing.B) {
	data := shipped(b)
	for b.Loop() {
		if _, problems := Parse("gpuherd-monitor.service", data); len(problems) > 0 {
			b.Fatal(problems)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	f, _ := Parse("gpuherd-monitor.service", shipped(b))
	var text []byte
	for b.Loop() {
		var err error
		if text, err = f.Append(text[:0]); err != nil {
			b.Fatal(err)
		}
	}
}
