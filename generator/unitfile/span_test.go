package unitfile

import "testing"

func TestCheckSpan(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"0", "30", "30s", "5min 20s", "5min20s", "1.5h", ".5s", "2 h", "1y 12month", "300ms", "1us", "5µs", "infinity", " 30s ", "1M", "2 3"} {
		if err := CheckSpan(good); err != nil {
			t.Errorf("%v", err)
		}
	}
	for _, bad := range []string{"", "soon", "30x", "s", "-1", "1.2.3", "30 s x", "infinity s", ".", "30secs", "1,5s"} {
		if CheckSpan(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
